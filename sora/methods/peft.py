"""Any tuner of PEFT in the same loop, protocol and record: what this package did not write, to compare with.

    python run.py method=peft method.peft_type=DORA 'method.options={r: 8, lora_alpha: 16}'

PEFT builds its modules into the encoder and knows nothing of replicas, so a run trains alone. Its initial weights are
drawn from the run's seed, and its dropout is the counted one of the backbone. What else a tuner draws in a forward
pass (LoHa's ``rank_dropout``, BOFT's dropout, all of PVeRA) comes from torch's generator, set by seed and step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sora.backbones import Backbone, Head
from sora.backbones.head import fits_class, form_of
from sora.coercion import nearest, one_of
from sora.errors import UserError
from sora.files import as_user_error
from sora.method_config import PEFT_VARIANTS, PeftConfig
from sora.methods.base import Method, Plan, matrices_and_vectors
from sora.optim import ParameterGroup
from sora.publish import export

# Options of PEFT that other keys decide, as do those that are given to it below.
OWNED = ("peft_type", "modules_to_save", "target_parameters", "layers_to_transform", "layers_pattern")
# Options for quantised weights, or for a start from data: they would change nothing here and still be in the record.
INERT = ("use_qalora", "qalora_group_size", "loftq_config", "corda_config", "eva_config", "lora_ga_config")
# Options with a state of chance that no checkpoint has.
UNSAVED = ("generator_seed", "monteclora_config")
# Tuners that take target_modules and cannot train here: they need calls, inputs or layers that this loop does not have.
UNSUITED = ("ADALORA", "ADAPTION_PROMPT", "LN_TUNING", "POLY", "SHADOW", "TRAINABLE_TOKENS")
# Values of init_lora_weights that change the adapter by data or chance that nothing here repeats on loading.
UNREPEATED = ("corda", "eva", "lora_ga", "loftq", "pissa_niter")


class Peft(Method):
    """One tuner of PEFT around the encoder."""

    config: PeftConfig

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        """Insert PEFT's modules. Raises UserError for a tuner or an option that PEFT does not know or refuses."""
        from peft import PeftModel

        self.plan, self.backbone = plan, backbone
        self.classifies = fits_class(
            form_of(backbone.config.family, backbone.hf_config), backbone.config.pooling, plan.runs[0].task.span_vectors
        )
        names = list(backbone.linear_targets(self.config.targets))
        root: Any = backbone.encoder
        if self.classifies:  # PEFT wraps what has the names of transformers' class: the encoder in a classifier
            root = nn.Module()
            root.add_module(backbone.prefix, backbone.encoder)
            root.config = backbone.hf_config
            root.is_gradient_checkpointing = False  # PEFT takes a model that does not say for one that does it
            names = [f"{backbone.prefix}.{name}" for name in names]
        settings = self._settings(names)
        with torch.random.fork_rng(), _refused_by("PEFT", self.config.options):
            torch.manual_seed(generators[0].initial_seed())
            self.model = PeftModel(root, settings)
        backbone.place_dropout_sites()
        _seed_draws(backbone)

    def _settings(self, targets: list[str]) -> Any:
        """Return PEFT's own configuration object."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        every = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        kinds = {kind: cls for kind, cls in every.items() if "target_modules" in _fields(cls) and kind not in UNSUITED}
        name, names = self.config.peft_type, sorted((*kinds, *PEFT_VARIANTS))
        if name not in names:
            what = "cannot train here" if name in every else f"is not in the installed PEFT{nearest(name, names)}"
            raise UserError(f"method.peft_type: {name} {what}; choose one of {', '.join(names)}")
        cls, preset = kinds["LORA" if name in PEFT_VARIANTS else name], PEFT_VARIANTS.get(name, {})
        ours = {
            "target_modules": targets,
            "task_type": "SEQ_CLS" if self.classifies else "FEATURE_EXTRACTION",
            "base_model_name_or_path": self.backbone.source,
            **preset,
        }
        options, fields = self.config.options or {}, _fields(cls)
        for key in options:
            if key in (*OWNED, *ours):
                owners = "method.targets, head, task, backbone or method.peft_type"
                raise UserError(f"method.options.{key}: decided by {owners}; leave it out")
            if key in INERT:
                what = "does nothing here, or runs on data that PEFT is not given"
                raise UserError(f"method.options.{key}: {what}; leave it out")
            if key in UNSAVED:
                what = "draws by a state of its own, with which no run that was stopped could go on"
                raise UserError(f"method.options.{key}: {what}; leave it out")
            if key not in fields:
                raise UserError(f"method.options.{key}: no option of PEFT's {cls.__name__}{nearest(key, fields)}")
        start = str(options.get("init_lora_weights"))
        if start.startswith(UNREPEATED):
            raise UserError(
                f"method.options.init_lora_weights: {start} starts from data or chance, and plain PEFT would load "
                "another start; choose one from the weights, such as pissa or olora"
            )
        with _refused_by(f"PEFT's {cls.__name__}", options):
            return cls(**ours, **options)

    @functools.cached_property
    def groups(self) -> list[ParameterGroup]:
        """Return what trains; the optimiser leaves the gradients of a step in it."""
        trained = {name: p for name, p in self.backbone.encoder.named_parameters() if p.requires_grad}
        return matrices_and_vectors(("adapter", "adapter.vectors"), trained, self.plan, stacked=False)

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.groups

    def after_step(self, step: int, alive: Tensor) -> None:
        """Check at the first step that the encoder passes through the tuner: some need PEFT's own forward.

        A run that diverged there has no gradient to judge by: clipping to an infinite norm leaves zeros.
        """
        if step > 0 or not bool(alive.all()):
            return
        if not any(bool(group.grads.any()) for group in self.groups if group.grads is not None):
            name = self.config.peft_type
            raise UserError(f"method.peft_type: {name} gets no gradient from this encoder; choose another tuner")

    def export(self, replica: int, folder: Path, head: Head) -> None:
        """Write what PEFT's ``save_pretrained`` does, the head where :func:`sora.publish.export.write_peft` has it."""
        self.model.peft_config["default"].modules_to_save = head.module_names() if self.classifies else None
        state = {key: value.detach().cpu().contiguous().clone() for key, value in head.export_state(replica).items()}
        with as_user_error(
            folder, "cannot be written", "make room or choose another folder", (OSError, SafetensorError)
        ):
            self.model.save_pretrained(folder, save_embedding_layers=False)
            if not self.classifies:
                save_file(state, folder / export.HEAD_WEIGHTS, metadata={"format": "pt"})
                return
            path = folder / export.PEFT_WEIGHTS
            tensors = load_file(path) | {f"base_model.model.{key}": value for key, value in state.items()}
            save_file(tensors, path, metadata={"format": "pt"})


def _seed_draws(backbone: Backbone) -> None:
    """Set torch's generator for each forward pass, by the key of a dropout site, and give its state back afterwards."""
    site, forked = backbone.dropout.register("peft"), contextlib.ExitStack()

    def begin(module: nn.Module, given: tuple[dict[str, Tensor]]) -> None:
        device = given[0]["input_ids"].device
        forked.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        key = backbone.dropout.keys(site, torch.device("cpu")) if backbone.dropout.active else [0]
        torch.manual_seed(int(key[0]))

    backbone.register_forward_pre_hook(begin)
    backbone.register_forward_hook(lambda module, given, out: forked.close(), always_call=True)


def _fields(cls: Any) -> list[str]:
    """Return the options that a configuration class of PEFT takes."""
    return [item.name for item in dataclasses.fields(cls) if item.init]


@contextlib.contextmanager
def _refused_by(who: str, options: dict[str, Any] | None) -> Iterator[None]:
    """Turn what PEFT says about an option into one sentence."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # PEFT checks few options: the others fail wherever they are first used
        words = textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")
        advice = f"correct or leave out {one_of(options)}" if options else "choose another method.peft_type"
        raise UserError(f"method.options: refused by {who} ({words}); {advice}") from error
