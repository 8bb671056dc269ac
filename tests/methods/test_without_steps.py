"""What is not trained by steps: the probe against scikit-learn, the cosine by hand, the SVD cut against torch's."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from sora.backbones.source import weights_files
from sora.errors import UserError
from sora.method_config import SvdCutConfig
from sora.methods import probe, svd_cut
from sora.methods.probe import FOLDS, PENALTIES, logistic, ridge
from sora.publish.find_run import find_run, publish
from sora.runs import records
from sora.runs.recipes import check_untrained
from sora.runs.resolve import build_runs
from sora.runs.run_id import recorded_config, run_id
from sora.tasks import load
from sora.training.evaluation import predict, score
from sora.training.pack import build_pack
from sora.training.runner import run_pack
from sora.training.session import fit
from sora.training.sizes import parameter_counts
from tests import tiny
from tests.composing import arrays, record
from tests.composing import runs as composed_runs

STRENGTHS = probe.STRENGTHS[2:11:2]
DRAWN = np.random.default_rng(3)
FEATURES = DRAWN.normal(2.0, [0.1, 1.0, 30.0, 5.0], (200, 4))


@pytest.fixture(autouse=True)
def _few_strengths(monkeypatch):
    """Five penalties of logistic regression, which are tried on five folds each."""
    monkeypatch.setattr(probe, "STRENGTHS", STRENGTHS)


def classes_of(number):
    return np.digitize(
        FEATURES[:, 1] * FEATURES[:, 3] / 5 + DRAWN.normal(size=200), np.linspace(0, 4, number + 1)[1:-1]
    )


# -- probe -------------------------------------------------------------------------------------


def test_ridge_is_scikit_learns():
    targets = FEATURES @ [3.0, 0.5, 0.01, 0.2] + DRAWN.normal(size=200)
    weight, bias = ridge(FEATURES, targets)
    x = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    chosen = RidgeCV(alphas=PENALTIES).fit(x, targets).alpha_
    expected = Ridge(alpha=chosen).fit(x, targets).predict(x)
    np.testing.assert_allclose(FEATURES @ weight[0] + bias[0], expected, rtol=1e-9)
    assert PENALTIES[0] < chosen < PENALTIES[-1]


@pytest.mark.parametrize("number", [2, 3])
def test_logistic_regression_is_scikit_learns(number):
    labels = classes_of(number)
    weight, bias = logistic(FEATURES, labels, number)
    x = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    search = LogisticRegressionCV(
        Cs=STRENGTHS, cv=FOLDS, scoring="neg_log_loss", max_iter=5000, use_legacy_attributes=False, l1_ratios=(0.0,)
    ).fit(x, labels)
    chosen = float(np.ravel(search.C_)[0])
    expected = LogisticRegression(C=chosen, max_iter=5000).fit(x, labels).predict_proba(x)
    got = torch.softmax(torch.from_numpy(FEATURES @ weight.T + bias), dim=1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert STRENGTHS[0] < chosen


def test_a_class_without_examples_is_never_chosen():
    weight, bias = logistic(FEATURES, classes_of(2) * 2, 3)
    assert set(np.argmax(FEATURES @ weight.T + bias, axis=1)) == {0, 2}


@pytest.mark.parametrize("few", [2, 3, 4])
def test_a_class_of_fewer_examples_than_folds_is_learnt_too(few):
    """Far apart, so that every example is given its own class."""
    labels = np.repeat([0, 1], [20, few])
    features = FEATURES[: len(labels)] + 50 * labels[:, None]
    weight, bias = logistic(features, labels, 2)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert np.argmax(features @ weight.T + bias, axis=1).tolist() == labels.tolist()


def test_too_few_examples_are_refused():
    with pytest.raises(UserError, match="two training examples of each of two classes or more, found 200 of class 1"):
        logistic(FEATURES, np.ones(200, dtype=int), 2)
    with pytest.raises(UserError, match="found 1 of class 0, 199 of class 1"):
        logistic(FEATURES, np.arange(200).clip(0, 1), 2)


def with_targets(pack, targets):
    """The same pack, whose training labels are ``targets``."""
    split = pack.splits["train"]
    pack.splits["train"] = dataclasses.replace(split, examples=dataclasses.replace(split.examples, labels=targets))


@torch.no_grad()
def vectors_of(pack, name, pooling):
    """Features of a split, pooled one example at a time, without padding."""
    split = pack.splits[name]
    hidden = [pack.model.backbone(split.tokens.collate(np.array([i])))[0] for i in range(len(split.examples))]
    return torch.stack([each[0] if pooling == "cls" else each.mean(0) for each in hidden]).numpy()


@pytest.mark.parametrize(("family", "pooling"), [("roberta", "mean"), ("deberta-v2", "cls")])
def test_a_probe_reads_pooled_features(family, pooling):
    (run,) = tiny.runs(family, method={"name": "probe"}, backbone={"pooling": pooling})
    pack = tiny.pack([run])
    assert pack.total_steps == 0
    features = vectors_of(pack, "train", pooling)
    labels = (features[:, 0] > np.median(features[:, 0])).astype(np.int64)
    with_targets(pack, labels)
    assert fit(pack) > 0
    weight, bias = logistic(features, labels, 2)
    got, expected = predict(pack, pack.splits["report"])[0], vectors_of(pack, "report", pooling) @ weight.T + bias
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.ptp(expected))
    right = (got.argmax(1) == (vectors_of(pack, "report", pooling)[:, 0] > np.median(features[:, 0]))).mean()
    assert right > 0.8
    counts = parameter_counts(pack, 0)
    assert counts == {"trainable": 2 * tiny.HIDDEN + 2, "live": 0, "authors_formula": 0, "head": 2 * tiny.HIDDEN + 2}


def test_a_probe_of_real_targets():
    task = {"name": "toy", "benchmark": "synthetic", "labels": [], "score_range": [-30, 30], "max_length": 32}
    (run,) = tiny.runs(method={"name": "probe"}, task=task | {"metrics": ["pearson"], "select_metric": "pearson"})
    pack = tiny.pack([run])
    targets = (30 * vectors_of(pack, "train", "cls")[:, 0]).astype(np.float32)
    with_targets(pack, targets)
    fit(pack)
    got, wanted = predict(pack, pack.splits["report"])[0, :, 0], 30 * vectors_of(pack, "report", "cls")[:, 0]
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.ptp(wanted))


# -- zero shot ---------------------------------------------------------------------------------

PAIR = {"name": "toy", "benchmark": "glue", "labels": [], "score_range": [1, 4], "max_length": 32}
PAIR |= {"metrics": ["pearson"], "select_metric": "pearson"}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_cosine_by_hand(pooling):
    (run,) = tiny.runs(method={"name": "zero_shot"}, task=PAIR, backbone={"pooling": pooling})
    pack = tiny.pack([run])
    tokens = tiny.Tokens([[5, 6, 7], [8, 9, 10, 11, 12], [5, 30], [5, 30]], 0)
    batch = tokens.collate(np.arange(4))
    with torch.no_grad():
        got = pack.model.eval()(batch)
        vectors = []
        for row in range(4):
            hidden = pack.model.backbone(tokens.collate(np.array([row])))[0]
            vectors.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    expected = [[1 + 3 * float(F.cosine_similarity(vectors[i], vectors[i + 1], dim=0))] for i in (0, 2)]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=1e-5)
    assert expected[1][0] == pytest.approx(4.0)
    assert parameter_counts(pack, 0) == dict.fromkeys(("trainable", "live", "authors_formula", "head"), 0)


# -- SVD cut -----------------------------------------------------------------------------------


def test_the_largest_parts_stay_whatever_their_matrix():
    values = {"a": torch.tensor([9.0, 8.0, 1.0]), "b": torch.tensor([8.5, 2.0, 1.5])}
    assert svd_cut.largest(values, {"a": 10, "b": 30}, 50) == {"a": 2, "b": 1}
    assert svd_cut.largest(values, {"a": 10, "b": 30}, 49) == {"a": 1, "b": 1}
    assert svd_cut.largest(values, {"a": 10, "b": 30}, 0) == {"a": 0, "b": 0}
    assert svd_cut.largest(values, {"a": 10, "b": 30}, 1000) == {"a": 3, "b": 3}


LORA = {"name": "lora", "r": 4, "alpha": 6.0}
SOURCE = "0123456789ab"


def source(folder: Path, family: str, pooling: str):
    """A LoRA run that was trained and exported, with its record; returns the pack."""
    short = {"max_steps": 8, "eval_every": 8, "checkpoint_every": 100}
    (run,) = tiny.runs(family, method=LORA, backbone={"pooling": pooling}, trainer=short)
    loop = tiny.train([run], folder / "training")
    loop.pack.method.export(0, folder / "runs" / SOURCE / "adapter", loop.pack.model.head)
    made = record(SOURCE)
    made["config"] = recorded_config(run, {"random": 0})
    made["params"]["live"] = 500
    made["config"] |= {"weights": {"random": 0}}
    records.write(folder / "results" / "records" / "tiny" / "toy" / f"lora-s0-{SOURCE}.json", made, arrays())
    return loop.pack


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The folder of such a run, to read."""
    folder = tmp_path_factory.mktemp("source")
    source(folder, "bert", "cls")
    return folder


def cut(folder: Path, family: str = "bert", method=None, **groups):
    groups["backbone"] = {"pooling": "cls"} | groups.get("backbone", {})
    method = {"name": "svd_cut", "source": SOURCE} | (method or {})
    paths = {"results": str(folder / "results"), "runs": str(folder / "runs")}
    (run,) = tiny.runs(family, method=method, paths=paths, **groups)
    return run


@pytest.mark.parametrize(("family", "pooling"), [("roberta", "mean"), ("deberta-v2", "cls")])
def test_an_adapter_is_cut_to_size(family, pooling, tmp_path):
    """Uncut it is the source; cut, each update is the product's own truncation, and no other would be nearer."""
    whole = source(tmp_path, family, pooling)
    live = whole.method.summary(0).live
    uncut = tiny.pack([cut(tmp_path, family, {"size": str(live)}, backbone={"pooling": pooling})])
    assert uncut.method.summary(0).live == live
    logits = [predict(pack, pack.splits["report"])[0] for pack in (whole, uncut)]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    half = tiny.pack([cut(tmp_path, family, {"size": str(live // 2)}, backbone={"pooling": pooling})])
    ranks, cost = half.method.summary(0).ranks, 2 * tiny.HIDDEN
    assert live // 2 - cost < half.method.summary(0).live <= live // 2
    smallest_kept, largest_cut = [], []
    for name, layer in half.method.layers.items():
        a, b = whole.method.layers[name].pruned(0)
        u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
        mine = layer.lora_B[0].T @ layer.lora_A[0]
        torch.testing.assert_close(
            mine.detach(), (u[:, : ranks[name]] * values[: ranks[name]]) @ v[: ranks[name]], rtol=0, atol=1e-5
        )
        if cost == layer.in_features + layer.out_features:
            smallest_kept += values[: ranks[name]].tolist()[-1:]
            largest_cut += values[ranks[name] : 4].tolist()[:1]
    assert min(smallest_kept) >= max(largest_cut)
    assert parameter_counts(half, 0)["trainable"] == half.method.summary(0).live + parameter_counts(half, 0)["head"]
    half.method.export(0, tmp_path / "cut", half.model.head)
    written = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert len(written["target_modules"]) == sum(rank > 0 for rank in ranks.values())


def test_a_size_may_be_another_runs(sources):
    named = cut(sources, method={"size": SOURCE})
    typed = cut(sources, method={"size": "500"})
    assert isinstance(named.method, SvdCutConfig)
    assert named.method.live == 500
    assert run_id(named, "0" * 64, {"random": 0}) == run_id(typed, "0" * 64, {"random": 0})
    path = sources / "results" / "records" / "tiny" / "toy" / f"lora-s0-{SOURCE}.json"
    by_path = cut(sources, method={"source": str(path), "size": "500"})
    assert run_id(by_path, "0" * 64, {"random": 0}) == run_id(typed, "0" * 64, {"random": 0})
    again = dataclasses.asdict(typed)
    assert dataclasses.asdict(build_runs(again)[0]) == again  # config.yaml of a run folder


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"backbone": {"pooling": "mean"}}, "run 0123456789ab has backbone.pooling=cls, this run mean"),
        ({"precision": "bf16"}, "run 0123456789ab has precision=fp32, this run bf16"),
        ({"trainer": {"max_length": 16}}, "run 0123456789ab has trainer.max_length=32, this run 16"),
        ({"method": {"size": "ab0123456789"}}, r"method.size: no record of ab0123456789"),
        ({"method": {"source": "ab0123456789"}}, r"method.source: no record of ab0123456789"),
    ],
)
def test_a_foreign_source_is_refused(sources, groups, said):
    groups["method"] = {"size": "500"} | groups.get("method", {})
    with pytest.raises(UserError) as refused:
        cut(sources, **groups)
    assert said in str(refused.value)


def test_a_source_without_adapter_or_size_is_refused(sources, tmp_path):
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"method.source, method.size: both must be given"):
        tiny.pack([cut(tmp_path)])
    (tmp_path / "runs" / SOURCE / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no adapter that can be read"):
        tiny.pack([cut(tmp_path, method={"size": "500"})])


# -- by the command ----------------------------------------------------------------------------


def test_training_decides_nothing_and_enters_no_name():
    for name in ("probe", "zero_shot"):
        runs = [
            tiny.runs(method={"name": name}, task=PAIR, trainer=trainer, head=head)[0]
            for trainer, head in (
                ({"max_steps": 7, "learning_rate": 1e-3, "max_length": 64}, "frozen"),
                ({"epochs": 2, "max_length": 64}, "classifier"),
            )
        ]
        assert runs[0] == runs[1]
        assert runs[0].trainer.max_steps == 0
        assert (runs[0].trainer.max_length, runs[0].trainer.log_every) == (64, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=zero_shot", "task=rte"), "how similar two texts are, but task=rte asks another thing"),
        (("method=probe", "task=copa"), "reads an example alone, but task=copa compares choices"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed_runs(tmp_path, *words)
    assert said in str(refused.value)


def test_a_cosine_needs_the_scale_of_the_targets(tmp_path: Path) -> None:
    for name in ("t", "v"):
        (tmp_path / f"{name}.csv").write_text("a,b,y\nx,y,1.5\nz,u,4.25\nv,w,0.5\n", encoding="utf-8")
    files = f"data.files={{train: {tmp_path}/t.csv, validation: {tmp_path}/v.csv}}"
    words = ("method=zero_shot", "task=own", files, "data.text=[a,b]", "data.label=y")
    with pytest.raises(UserError, match=r"task\.score_range: method=zero_shot puts the cosine on the scale"):
        composed_runs(tmp_path, *words)
    assert composed_runs(tmp_path, *words, "task.score_range=[0,5]")[0].task.score_range == [0, 5]


@pytest.mark.parametrize(
    ("method", "key"), [("probe", "trainer.learning_rate"), ("probe", "head"), ("svd_cut", "schedule")]
)
def test_what_is_about_steps_cannot_be_typed(method: str, key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: method={method} takes no optimiser steps and no such key"):
        check_untrained({"method": method}, [f"{key}=1"])
    check_untrained({"method": method}, ["trainer.max_length=64"])


def test_records_of_controls(tmp_path, monkeypatch):
    """Sources, then what is made from them, through the runner: records, sizes, provenance; nothing is done twice."""
    monkeypatch.chdir(tmp_path)
    common = (
        *("backbone.pooling=mean", "backbone.weights=random", "backbone.arch.num_hidden_layers=1"),
        *("backbone.arch.hidden_size=24", "backbone.arch.intermediate_size=32"),
        *("task=synthetic_pair", "recipe=none", "task.sizes={train: 60, validation: 40}", "trainer.max_length=24"),
    )
    short = ("trainer.max_steps=4", "trainer.batch_size=4", "trainer.eval_every=4")

    def done(*words: str):
        (found,) = run_pack(composed_runs(tmp_path, *common, *words, backbone="minilm-l6"), "python run.py")
        return found

    lora = done("method=lora", *short)
    sora = done("method=sora", "method.threshold=0.2", *short)
    assert 0 < sora["params"]["live"] < lora["params"]["live"]
    mask = done("method=masked_lora", f"method.source={sora['run_id']}", "method.pattern=permuted", *short)
    assert mask["params"]["live"] == sora["params"]["live"]
    assert mask["ranks"] != sora["ranks"]
    assert mask["config"]["method"]["ranks"] == sora["ranks"]
    svd = done("method=svd_cut", f"method.source={lora['run_id']}", f"method.size={sora['run_id']}")
    assert sora["params"]["live"] - 56 < svd["params"]["live"] <= sora["params"]["live"]
    assert [each["provenance"].get("source") for each in (mask, svd, lora)] == [sora["run_id"], lora["run_id"], None]
    probed = done("method=probe")
    assert (probed["ranks"], probed["history"]) == ({}, [])
    for each in (svd, probed):
        assert (each["status"], each["config"]["trainer"]["max_steps"]) == ("ok", 0)
        assert each["metrics"]["selected"] == each["metrics"]["last"]
        assert each["metrics"]["selected"]["step"] == 0
        path = records.find(tmp_path / "results", each["run_id"])
        assert records.read_arrays(path)["report_logits"].shape == (each["data"]["sizes"]["report"], 2)
        assert (tmp_path / "runs" / each["run_id"] / "adapter" / "README.md").is_file()
        assert find_run(each["run_id"], tmp_path / "runs", tmp_path / "results").record == each
    cut = find_run(svd["run_id"], tmp_path / "runs", tmp_path / "results")
    publish(cut, tmp_path / "merged", merge=True)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    before = records.find(tmp_path / "results", probed["run_id"]).stat().st_mtime_ns
    assert done("method=probe", *short) == probed
    assert records.find(tmp_path / "results", probed["run_id"]).stat().st_mtime_ns == before


@torch.no_grad()
def test_zero_shot_on_sts_b(shared, tmp_path, monkeypatch):
    """On 100 pairs the cosines are plain transformers', on all 1,500 their Pearson is the 86.96 of docs/study.md."""
    monkeypatch.chdir(tmp_path)
    words = ("method=zero_shot", "task=stsb", "protocol=holdout", "backbone.pooling=mean", "recipe=none")
    (run,) = composed_runs(tmp_path, *words, f"data.dir={shared / 'data'}", backbone="minilm-l6")
    data = load(run.task, run.protocol, run.data)
    few = {"train": data.splits["train"].take([0]), "report": data.splits["report"]}
    pack = build_pack([run], dataclasses.replace(data, splits=few), torch.device("cpu"))
    logits = predict(pack, pack.splits["report"])[0]
    (scores,) = score(pack, pack.splits["report"], [logits])
    assert scores["pearson"] == pytest.approx(0.8696, abs=5e-5)
    folder = weights_files(run.backbone)[0].parent
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for column in few["report"].texts:
        inputs = tokenizer(column[:100], padding=True, truncation=True, max_length=128, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        vectors.append((model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1))
    cosines = F.cosine_similarity(*vectors).numpy()
    np.testing.assert_allclose(logits[:100, 0], 5 * cosines, atol=1e-4)
