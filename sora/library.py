"""SoRA on any linear layer of any transformers model, for people with a training script of their own.

    adapters = inject(model, ["query", "value"], r=8, threshold=1e-3, train=["classifier"])
    trainer = Trainer(model, arguments, ..., optimizers=(adapters.optimizer(lr=1e-3), None),
                      callbacks=[adapters.callback()])
    trainer.train()
    adapters.save("my-adapter")          # a folder that plain peft loads

It is the harness' own adapter with one replica and, where nothing clips gradients, the same update: gates take their
step (AdamW, or plain gradient descent), then the proximal map of SoRA (Eq. 10-11) shrinks them by ``threshold`` and
sets the small ones to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from sora.backbones.load import matches
from sora.coercion import MAX_SEED, coerce, nearest, show
from sora.errors import UserError
from sora.files import as_user_error
from sora.method_config import SoraConfig
from sora.methods.lora import LowRankLinear
from sora.methods.proximal import GateStep
from sora.methods.sora import GATE_EPS
from sora.publish import export

NOT_HERE = {"name", "version", "learning_rate", "clip"}  # fields of SoraConfig that are about runs
BYPASSED = {  # layers that their parent, by the name of its class, does not call: it multiplies with the weights itself
    "MultiheadAttention": {"out_proj"},
    "TransformerEncoderLayer": {"linear1", "linear2"},  # in evaluation
    "WavLMAttention": {"q_proj", "k_proj", "v_proj", "out_proj"},
}
WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule", "LowRankLinear"}


def inject(
    model: nn.Module,
    targets: str | Sequence[str],
    *,
    train: str | Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> SoraAdapters:
    """Freeze ``model``, put a gated adapter on each target, and leave it otherwise as it is.

    Args:
        targets: linear layers, as ends of their names (``query``, ``mlp.down_proj``) or shell patterns of full names.
            Those inside a module of ``train`` get no adapter: they train whole.
        train: modules that train whole and are saved with the adapter, named in the same way, such as the classifier.
        seed: of the adapters' initial values.
        options: fields of :class:`sora.method_config.SoraConfig`: ``r``, ``alpha``, ``threshold`` or ``rho``,
            ``dropout``, ``fidelity`` and the switches it stands for.

    Raises:
        UserError: a name that matches nothing, a target that is no linear layer or is never called, a module of
            ``train`` that is not fp32 or shares a parameter with others, a model that is wrapped or has adapters, an
            option out of its range.
    """
    _check_plain(model)
    targets, train = _names(targets, "targets"), _names(train, "train")
    for key in NOT_HERE & options.keys():
        raise UserError(f"inject.{key}: decides nothing here; the optimizer takes the learning rate, your loop clips")
    config = coerce(SoraConfig, {"name": "sora", "targets": targets, **options}, "inject").resolved()
    if config.rho is not None and "threshold" in options:
        raise UserError(
            f"inject.threshold: has no effect, given inject.rho={config.rho}, which sets it; give one of the two"
        )
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise UserError(f"inject.seed: got {show(seed)}, must be an integer from 0 to 2**63 - 1")
    whole = _whole(model, train)
    inside = tuple(f"{name}." for name in whole)
    chosen = {
        name: module
        for name, module in _find(model, targets, "targets").items()
        if name not in whole and not name.startswith(inside)
    }
    if not chosen:
        raise UserError("inject.targets: empty, or nothing but modules of train; name the linear layers to adapt")
    for name, module in chosen.items():
        if not isinstance(module, nn.Linear):
            raise UserError(
                f"inject.targets: {name} is a {type(module).__name__}, not a linear layer; name linear ones"
            )
        parent, _, child = name.rpartition(".")
        for kind in type(model.get_submodule(parent)).__mro__:
            if child in BYPASSED.get(kind.__name__, ()):
                raise UserError(
                    f"inject.targets: {kind.__name__} takes the weight of {name} without calling it, so that an "
                    "adapter there does nothing; leave it out"
                )
        forward = getattr(module, "_old_forward", module.forward)  # what accelerate wraps to move between devices
        when = ("forward_pre", "forward", "backward_pre", "backward")
        hooked = any(getattr(module, f"_{each}_hooks") for each in when)
        if hooked or getattr(forward, "__func__", None) is not nn.Linear.forward:
            raise UserError(
                f"inject.targets: {name} has {'hooks' if hooked else 'a forward of its own'}, which an adapter there "
                "would not call; leave it out"
            )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, LowRankLinear] = {}
    for name, base in chosen.items():
        assert isinstance(base, nn.Linear)
        dropout = nn.Dropout(config.dropout) if config.dropout else None
        layer = LowRankLinear(base, replicas=1, r=config.r, scaling=config.scaling, gated=True, dropout=dropout)
        layer.reset([generator])
        model.set_submodule(name, layer)
        layers[name] = layer
    for module in whole.values():
        module.requires_grad_(True)
    return SoraAdapters(model, config, layers, list(whole))


def _check_plain(model: nn.Module) -> None:
    """Raise UserError where a model has adapters already, or is wrapped in what gives its modules other names."""
    if not isinstance(model, nn.Module):
        raise UserError(f"inject.model: got {show(model)}, must be a model, such as from_pretrained returns")
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__name__ in WRAPPERS or kind.__module__.startswith("peft."):
            raise UserError(
                f"inject.model: {name or 'it'} is a {kind.__module__}.{kind.__name__}; inject into the plain model "
                "first, and once"
            )


def _names(patterns: str | Sequence[str], key: str) -> list[str]:
    names = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"inject.{key}: got {show(patterns)}, must be names of modules")
    return names


def _whole(model: nn.Module, train: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules that train whole, none inside another one.

    Raises UserError for a parameter that is not fp32, or has a second place, where plain peft would not load it.
    """
    found = _find(model, train, "train")
    inside = tuple(f"{name}." for name in found)
    trained: dict[nn.Parameter, str] = {}
    others: dict[nn.Parameter, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        (trained if name.startswith(inside) else others).setdefault(p, name)
    for p, name in trained.items():
        if p.dtype != torch.float32:
            raise UserError(f"inject.train: {name} is {p.dtype}; load the model with dtype=torch.float32")
        if p in others:
            place = f"{name} is also {others[p]}, where plain peft would not load it"
            raise UserError(f"inject.train: {place}; name both modules, or none")
    return {name: module for name, module in found.items() if not name.startswith(inside)}


def _find(model: nn.Module, patterns: Sequence[str], key: str) -> dict[str, nn.Module]:
    """Return modules that a pattern matches, in the order of the model."""
    modules = ((name, module) for name, module in model.named_modules() if name)
    every = {name: module for name, module in modules if key != "train" or any(True for _ in module.parameters())}
    for pattern in patterns:
        if not any(matches(name, pattern) for name in every):
            ends = dict.fromkeys(name.rpartition(".")[2] for name in every)
            which = "module of the model with weights" if key == "train" else "module of the model"
            raise UserError(f"inject.{key}: {pattern!r} matches no {which}{nearest(pattern, ends)}")
    return {name: module for name, module in every.items() if any(matches(name, each) for each in patterns)}


@dataclass(eq=False)
class SoraAdapters:
    """The adapters of one model: what trains them, what they come to, what is saved."""

    model: nn.Module
    config: SoraConfig
    layers: dict[str, LowRankLinear]  # every adapted layer by its full name
    trained: list[str]  # full names of the modules that train whole

    def optimizer(self, *, lr: float, weight_decay: float = 0.1) -> ProximalAdamW:
        """Make an optimiser for the Trainer, whose learning-rate schedule drives it; give the peak rate here.

        ``weight_decay`` is on matrices: not on gates, biases and norms.
        """
        if not isinstance(lr, int | float) or not 0.0 < lr < math.inf:
            raise UserError(f"optimizer.lr: got {show(lr)}, must be a number > 0")
        config = self.config.at_rate(lr)
        gates = [layer.gate for layer in self.layers.values() if layer.gate is not None]
        factors = [matrix for layer in self.layers.values() for matrix in (layer.lora_A, layer.lora_B)]
        whole = dict.fromkeys(p for name in self.trained for p in self.model.get_submodule(name).parameters())
        matrices, vectors = [p for p in whole if p.ndim >= 2], [p for p in whole if p.ndim < 2]
        weight = {"off": 0.0, "sum": config.penalty, "mean": config.penalty / sum(gate.numel() for gate in gates)}
        proximal = {
            "params": gates,
            "variant": "adamw_hf",
            "eps_before": GATE_EPS,
            "weight_decay": 0.0,
            "threshold": config.threshold,
            "threshold_rule": config.threshold_rule,
            "peak_lr": lr,
            "prox": config.prox,
            "update": config.gate_update,
            "l1": weight[str(config.penalty_rule)],
        }
        old = {"variant": "adamw_hf", "eps_before": 1e-8} if config.optimizer() == "adamw_hf" else {}
        decay = {"weight_decay": 0.0, "decay_after": weight_decay} if old else {"weight_decay": weight_decay}
        groups = [
            {"params": factors + matrices, **decay, **old},
            {"params": vectors, "weight_decay": 0.0, **old},
            proximal,
        ]
        return ProximalAdamW([group for group in groups if group["params"]], lr=lr)

    def live_ranks(self) -> dict[str, int]:
        """Count the ranks whose gate is not zero, by layer."""
        return {name: int(layer.live().sum()) for name, layer in self.layers.items()}

    def callback(self) -> LiveRanks:
        """Make a callback of the Trainer that adds the sum of live ranks to what is logged."""
        return LiveRanks(self)

    def save(self, folder: str | Path, base: str | None = None) -> None:
        """Cut the dead ranks out and write what is left, with the modules that trained whole, as a PEFT folder.

        The model itself stays as it is. ``base``: what ``from_pretrained`` takes to get the frozen model elsewhere
        (default: what it was loaded from). Raises UserError where ``folder`` cannot be written.
        """
        factors = {name: layer.pruned(0) for name, layer in self.layers.items()}
        scaling = next(iter(self.layers.values())).scaling
        saved = {
            f"{name}.{key}": value
            for name in self.trained
            for key, value in self.model.get_submodule(name).state_dict().items()
        }
        base = base if base is not None else str(getattr(getattr(self.model, "config", None), "_name_or_path", ""))
        with as_user_error(folder, "cannot be written", "give another folder"):
            export.write_lora(Path(folder), factors, scaling, base=base, saved=saved, modules_to_save=self.trained)


class LiveRanks(TrainerCallback):
    """Adds ``live_ranks`` to every line that the Trainer logs."""

    def __init__(self, adapters: SoraAdapters) -> None:
        self.adapters = adapters

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        total = sum(self.adapters.live_ranks().values())
        if logs is not None:
            logs["live_ranks"] = total
        if state.log_history:
            state.log_history[-1]["live_ranks"] = total


class ProximalAdamW(torch.optim.AdamW):
    """AdamW, and for groups with a ``threshold`` SoRA's update of the gates.

    Such a group holds ``threshold`` (xi at ``peak_lr``), ``threshold_rule`` (constant | lr_scaled: by lr / peak_lr),
    ``prox`` (soft | authors), ``update`` (adam | gradient: the step before the proximal map) and ``l1`` (weight of sum
    |g| in the loss, whose gradient is added here, after whatever clips the others: the harness clips both together).

    A group with ``variant`` adamw_hf trains as by transformers' old AdamW: its ``eps_before`` joins sqrt(v) before the
    bias correction, and its ``decay_after`` follows the step.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update. ``closure``, where given, computes the loss anew, as in any optimiser of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gates = [
            (group, _gate_step(group), gate)
            for group in self.param_groups
            for gate in (group["params"] if "threshold" in group else ())
            if gate.grad is not None
        ]
        plain: list[tuple[Tensor, Tensor]] = []
        old = [group for group in self.param_groups if group.get("variant") == "adamw_hf"]
        for group in old:
            group["eps"] = group["eps_before"] / math.sqrt(1.0 - group["betas"][1] ** self._next(group))
        for group, step, gate in gates:
            gate.grad.add_(gate.sign(), alpha=group["l1"])
            if not step.adam:  # AdamW passes over a parameter without gradient
                plain.append((gate, gate.grad))
                gate.grad = None
        super().step()
        for group in old:
            for p in group["params"] if group.get("decay_after") else ():
                if p.grad is not None:
                    p.mul_(1.0 - group["lr"] * group["decay_after"])
        for gate, gradient in plain:
            gate.grad = gradient
        for group, step, gate in gates:
            (xi,) = step.scaled(group["lr"] / group["peak_lr"])
            gate.copy_(step(gate, gate.grad, group["lr"], xi))
        return loss

    def _next(self, group: dict[str, Any]) -> int:
        """Return the number, from 1, of the update that a group is about to make."""
        return 1 + max((int(self.state.get(p, {}).get("step", 0)) for p in group["params"]), default=0)


def _gate_step(group: dict[str, Any]) -> GateStep:
    """Make the step of a group of gates; the group holds plain values, which a checkpoint of the Trainer can carry."""
    return GateStep([group["threshold"]], group["threshold_rule"], group["prox"], group["update"])
