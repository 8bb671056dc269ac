"""Seeds set apart: initial weights, order of the examples, dropout."""

import dataclasses

import torch

from sora.training.seeds import derive
from tests import tiny


def apart(init, data, seed=0):
    """A run whose two streams have seeds of their own."""
    short = {"max_steps": 6, "eval_every": 6, "checkpoint_every": 100}
    (run,) = tiny.runs(seeds=seed, backbone={"dropout": None}, trainer=short)
    return dataclasses.replace(run, seeds=dataclasses.replace(run.seeds, init=init, data=data))


def trained(folder, *runs):
    """Weights before and after training, [R, P], in float64."""
    built = tiny.pack(list(runs), torch.float64)
    before = built.optimizer.rows.clone()
    names = [f"init-{run.seeds.init} data-{run.seeds.data} seed-{run.seed} of-{len(runs)}" for run in runs]
    return before, tiny.finish(built, folder, names).pack.optimizer.rows.clone()


def test_each_seed_moves_its_own_stream_and_packs_with_the_others(tmp_path):
    cells = [apart(0, 0), apart(1, 0), apart(0, 1), apart(0, 0, seed=1)]
    before, after = trained(tmp_path, *cells)
    assert torch.equal(before[0], before[2])
    assert torch.equal(before[0], before[3])
    assert not torch.equal(before[0], before[1])
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(after[one], after[other]), "two cells trained alike"
    for replica, cell in enumerate(cells):
        _, alone = trained(tmp_path, cell)
        torch.testing.assert_close(after[replica], alone[0], rtol=0, atol=1e-9)


def test_another_method_leaves_the_head_as_it_was():
    """Comparisons of methods are paired by their seed."""
    heads = {
        name: tiny.pack(tiny.runs(seeds=[3, 4], method={"name": name})).model.head.out.detach()
        for name in ("lora", "sora", "bitfit", "adapter")
    }
    for head in heads.values():
        assert torch.equal(head, heads["lora"])
    assert not torch.equal(heads["lora"][0], heads["lora"][1])


def test_streams_are_told_apart_by_name_and_seed():
    """sha256 of ``purpose:seed``, its first eight bytes as a little-endian number without the last bit."""
    assert [derive(seed, "head") for seed in (0, 1)] == [2209058637769546218, 7160482756468559415]
    assert derive(0, "adapter") == 1606193933614466795
