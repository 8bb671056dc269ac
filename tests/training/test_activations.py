"""What a step keeps and computes: nothing below the first trainable tensor, no activation that no gradient needs."""

import pytest
import torch

from sora.backbones import DropoutKey
from sora.runs import estimate
from sora.training.pack import losses_of
from tests import tiny

SIZES = {"hidden_size": 96, "intermediate_size": 192, "pooler_hidden_size": 96}


def saved_bytes(family, layers, dropout, targets=None, length=24, head="classifier"):
    """Bytes of all activations that one step's forward pass keeps, each storage once, and the configuration."""
    arch = tiny.SHARED | tiny.ARCHITECTURES[family] | SIZES | {"num_hidden_layers": layers}
    method = {"name": "lora", "r": 1, "targets": targets}
    configs = tiny.runs(family, [0, 1], backbone={"arch": arch, "dropout": dropout}, method=method, head=head)
    pack = tiny.pack(configs)
    weights = {t.untyped_storage().data_ptr() for t in (*pack.model.parameters(), *pack.model.buffers())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, so that its place is not used again
        return tensor

    ids = torch.randint(5, tiny.VOCABULARY, (8, length), generator=torch.Generator().manual_seed(0))
    pack.model.backbone.dropout.begin(DropoutKey(pack.dropout_seeds, 0))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = pack.model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    losses_of(logits, torch.zeros(8, dtype=torch.int64), 2).sum().backward()
    return sum(size for size, _ in kept.values()), configs


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_layer_keeps_what_its_gradients_need(family, dropout):
    """The list in estimate.kept_bytes, counted by hand, against what autograd holds."""
    two, configs = saved_bytes(family, 2, dropout)
    three, _ = saved_bytes(family, 3, dropout)
    listed = estimate.kept_bytes(configs, 24) / 2
    assert three - two == pytest.approx(listed, rel=0.12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_below_the_first_trainable_tensor_nothing_is_kept(family):
    """Adapters in the last layer alone: two frozen layers more below them cost no memory and no backward pass."""
    two, _ = saved_bytes(family, 2, 0.1, targets=["encoder.layer.1.*"])
    four, configs = saved_bytes(family, 4, 0.1, targets=["encoder.layer.3.*"])
    assert four == two
    every, _ = saved_bytes(family, 4, 0.1)
    assert every > 3 * four
    pack = tiny.pack(configs)
    outputs = {}
    for index, layer in enumerate(pack.model.backbone.encoder.encoder.layer):
        layer.register_forward_hook(
            lambda module, inputs, output, index=index: outputs.update(
                {index: (output if torch.is_tensor(output) else output[0]).requires_grad}
            )
        )
    pack.model(pack.splits["train"].batch(torch.arange(8).numpy(), pack.device)[0])
    assert outputs == {0: False, 1: False, 2: False, 3: True}
