"""Study manifests: what is written is what is read, and every contradiction is named."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path

import pytest

from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs.schema import rows

IDS = ("0123456789ab", "ba9876543210")


def entry(number: int) -> dict:
    return {
        "run_id": IDS[number],
        "axes": {"method": "sora", "seed": number},
        "record": f"records/minilm-l6/rte/sora-s{number}-{IDS[number]}.json",
        "command": f"python run.py method=sora seed={number} trainer.max_steps=30",
    }


def manifest() -> dict:
    axes = {"method": ["sora"], "seed": [0, 1]}
    return studies.make("main_table", axes, {"trainer.max_steps": "30"}, [entry(0), entry(1)])


def test_the_hash_is_that_of_the_text_written_by_hand():
    text = '{"axes":{"method":["sora"],"seed":[0,1]},"fixed":{"trainer.max_steps":"30"},"study":"main_table"}'
    assert manifest()["hash"] == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_what_is_written_is_read_and_written_alike_again(tmp_path: Path):
    made = manifest()
    path = studies.write(tmp_path, made)
    assert path == tmp_path / "studies" / f"main_table-{made['hash']}.json"
    content = path.read_bytes()
    assert studies.read(path) == made
    studies.write(tmp_path, studies.read(path))
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_manifests_are_found_by_study(tmp_path: Path):
    assert studies.read_all(tmp_path) == []
    made, other = manifest(), studies.make("seeds", {"seed": [1]}, {}, [])
    for each in (other, made):
        studies.write(tmp_path, each)
    assert studies.read_all(tmp_path) == [made, other]
    assert studies.read_all(tmp_path, "seeds") == [other]


def test_a_sweep_repeated_with_less_data_keeps_the_runs_it_cannot_name_and_renews_the_others():
    old = manifest()
    renewed = entry(1) | {"run_id": "0" * 12, "record": f"records/minilm-l6/rte/sora-s1-{'0' * 12}.json"}
    new = {**old, "runs": [renewed]}
    both = studies.united(old, new)
    assert both == {**old, "runs": [entry(0), renewed]}
    assert studies.united(new, old)["runs"] == [entry(1), entry(0)]
    studies.validate(both, "united")
    assert studies.contradictions(old, new) == ['{"method": "sora", "seed": 1}']
    assert studies.contradictions(old, {**old, "runs": [entry(0)]}) == []


def test_a_grid_that_grew_keeps_the_values_whose_runs_could_not_be_named():
    fixed = {"trainer.max_steps": "30"}
    grown = studies.make("main_table", {"method": ["sora"], "seed": [7, 0]}, fixed, [entry(0)])
    both, problems = studies.joined([manifest(), grown])
    assert (both["axes"], problems) == ({"method": ["sora"], "seed": [0, 1, 7]}, [])
    assert [run["run_id"] for run in both["runs"]] == list(IDS)
    other = entry(1) | {"run_id": "0" * 12, "record": f"records/minilm-l6/rte/sora-s1-{'0' * 12}.json"}
    both, problems = studies.joined(
        [grown, manifest(), studies.make("main_table", {"method": ["sora"], "seed": [1]}, fixed, [other])]
    )
    assert [run["contradicted"] for run in both["runs"]] == [False, True]
    assert len(problems) == 1


@pytest.mark.parametrize("name", ["", "a b", "../a", "-a", "a/b"])
def test_a_name_that_cannot_name_a_file_is_refused(name: str):
    with pytest.raises(UserError, match=r"study\.name: got "):
        studies.make(name, {}, {}, [])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schema", 2, "schema is 2, but 1 is the newest known"),
        ("study", "other", "hash is not that of study, axes and fixed"),
        ("runs.0.record", f"/home/me/records/rte-{IDS[0]}.json", "runs.0.record got '/home/me"),
        ("runs.0.record", f"records/../../rte-{IDS[0]}.json", "runs.0.record got 'records/../../"),
        ("runs.0.record", f"records/rte/sora-{IDS[1]}.json", "runs.0.record got "),
        ("runs.0.axes", {"method": "sora"}, 'runs.0.axes got {"method": "sora"}, which is no place of its axes'),
        ("runs.0.axes.seed", 7, 'runs.0.axes got {"method": "sora", "seed": 7}, which is no place of its axes'),
        ("runs.1.axes.seed", 0, 'runs.1.axes got {"method": "sora", "seed": 0}, which is another run\'s too'),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, key: str, value: object, said: str):
    broken = deepcopy(manifest())
    node = broken
    *parents, leaf = key.split(".")
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    node[leaf] = value
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        studies.read(path)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_the_documented_keys_are_the_layout():
    text = (Path(__file__).resolve().parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    keys = [key for key, _, _ in rows(studies.Layout)]
    for key in keys:
        assert f"| `{key}` |" in text
    table = text[text.index("| `schema` |") :].split("\n\n")[0]
    assert len(table.splitlines()) == len(keys)
