"""SuperGLUE's files: what the layouts make of a row, and what is said about a row that is not as described."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import Examples, load, load_task, load_test
from sora.tasks.formats import FORMATS, UNFOLD
from sora.tasks.load import read_official
from sora.tasks.spec import CONF

PASSAGE = "Ann met Bo in Rome. Bo was late."  # Ann 0-2, Bo 8-9, Rome 14-17, Bo 20-21
ROWS: dict[str, dict[str, Any]] = {
    "boolq": {"question": "is it so", "passage": "It is so.", "idx": 4, "label": True},
    "cb": {"premise": "It is so.", "hypothesis": "So it is.", "label": "neutral", "idx": 0},
    "copa": {
        "premise": "It rained.",
        "choice1": "It was wet.",
        "choice2": "It was dry.",
        "question": "effect",
        "label": 0,
        "idx": 0,
    },
    "multirc": {
        "idx": 7,
        "version": 1.1,
        "passage": {
            "text": "Ann met Bo.",
            "questions": [
                {
                    "question": "Who met?",
                    "idx": 3,
                    "answers": [{"text": "Ann", "idx": 5, "label": 1}, {"text": "", "idx": 6, "label": 0}],
                },
                {"question": "Whom?", "idx": 4, "answers": [{"text": "Bo", "idx": 7, "label": 1}]},
            ],
        },
    },
    "record": {
        "source": "Daily mail",
        "idx": 2,
        "passage": {
            "text": PASSAGE,
            "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 9}, {"start": 20, "end": 21}],
        },
        "qas": [{"query": "@placeholder came late.", "idx": 9, "answers": [{"start": 8, "end": 9, "text": "Bo"}]}],
    },
    "wic": {
        "word": "bank",
        "sentence1": "The bank is closed.",
        "sentence2": "Two banks of a river.",
        "start1": 4,
        "end1": 8,
        "start2": 4,
        "end2": 9,
        "version": 1.1,
        "idx": 0,
        "label": False,
    },
    "wsc": {
        "text": "The old man saw Tim, so he left.",
        "target": {"span1_text": "the old man", "span1_index": 0, "span2_text": "He", "span2_index": 6},
        "idx": 0,
        "label": True,
    },
    "axg": {"premise": "She left.", "hypothesis": "It left.", "pair_id": 11, "label": "entailment", "idx": 0},
}


def row(name: str, **changes: Any) -> dict[str, Any]:
    """A valid row with some values replaced, keys such as passage.text reaching inside; ... removes a key."""
    values = json.loads(json.dumps(ROWS[name]))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        node: Any = values
        for step in path:
            node = node[int(step) if step.isdecimal() else step]
        key: Any = int(last) if last.isdecimal() else last
        if value is ...:
            del node[key]
        else:
            node[key] = value
    return values


def read(folder: Path, name: str, *rows: dict[str, Any] | str, split: str = "train", **task: Any) -> Examples:
    path = folder / f"{split}.jsonl"
    lines = (line if isinstance(line, str) else json.dumps(line) for line in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_official(path, replace(load_task(name), **task), split, f"{name}/{path.name}")


def test_a_pair_and_its_label(tmp_path: Path) -> None:
    found = read(tmp_path, "boolq", row("boolq"), row("boolq", idx=1, label=False))
    assert found.texts == (["It is so."] * 2, ["is it so"] * 2)
    assert found.labels.tolist() == [1, 0]
    assert found.ids.tolist() == [0, 1]
    assert found.idx is not None
    assert found.idx.tolist() == [[4], [1]]
    assert found.groups is found.spans is found.credit is None


def test_choices_share_the_premise_and_its_question(tmp_path: Path) -> None:
    found = read(tmp_path, "copa", row("copa"), row("copa", idx=1, question="cause", label=1))
    premise = ["It rained. What happened as a result?", "It rained. What was the cause of this?"]
    assert found.texts == (premise, ["It was wet."] * 2, ["It was dry."] * 2)
    assert found.labels.tolist() == [0, 1]


def test_answers_belong_to_questions_and_to_one_row(tmp_path: Path) -> None:
    found = read(tmp_path, "multirc", row("multirc"))
    assert found.texts == (["Ann met Bo."] * 3, ["Who met? Ann", "Who met? ", "Whom? Bo"])
    assert found.groups is not None
    assert found.idx is not None
    assert found.groups.tolist() == [3, 3, 4]
    assert found.idx.tolist() == [[7, 3, 5], [7, 3, 6], [7, 4, 7]]
    assert found.ids.tolist() == [0, 0, 0]
    assert found.labels.tolist() == [1, 0, 1]


def test_mentions_of_one_text_are_one_candidate(tmp_path: Path) -> None:
    found = read(tmp_path, "record", row("record"))
    assert found.answers == ["Ann", "Bo"]
    assert found.texts[1] == ["Ann came late.", "Bo came late."]
    assert found.labels.tolist() == [0, 1]
    assert found.credit is not None
    assert found.credit.tolist() == [[0, 0], [1, 1]]
    assert found.groups is not None
    assert found.groups.tolist() == [9, 9]


def test_every_alias_of_the_answer_is_right(tmp_path: Path) -> None:
    both = [{"start": 0, "end": 2, "text": "Ann"}, {"start": 8, "end": 9, "text": "Bo"}]
    found = read(tmp_path, "record", row("record", **{"qas.0.answers": both}))
    assert (found.answers, found.labels.tolist()) == (["Ann", "Bo"], [1, 1])
    assert found.credit is not None
    assert found.credit.tolist() == [[1, 1], [1, 1]]


def test_spans_as_places_or_as_marks(tmp_path: Path) -> None:
    found = read(tmp_path, "wic", row("wic"))
    assert found.spans is not None
    assert found.spans.tolist() == [[[0, 4, 8], [1, 4, 9]]]
    marked = read(tmp_path, "wic", row("wic"), spans="marks")
    assert marked.spans is None
    assert marked.texts == (["The * bank * is closed."], ["Two # banks # of a river."])
    both = read(tmp_path, "wsc", row("wsc"), spans="marks")
    assert both.texts == (["* The old man * saw Tim, so # he # left."],)


@pytest.mark.parametrize(
    ("text", "words", "index", "found"),
    [
        ("The old man left.", "the old man", 0, "The old man"),  # other case
        ("So Tim's father left.", "Tim", 1, "Tim"),  # punctuation ends a word ...
        ("So Tim , he left.", "Tim,", 1, "Tim"),
        ("So Timothy left.", "Tim", 1, None),  # ... and letters do not
        ('He said "Tim" left.', "Tim", 2, "Tim"),
        ("a willow-towered Canopy wrestles", "willow-towered\nCanopy", 1, "willow-towered Canopy"),
        ("He left.", "He", 2, None),
        ("He left.", "left", 0, None),
    ],
)
def test_words_are_found_at_their_index(tmp_path: Path, text: str, words: str, index: int, found: str | None) -> None:
    changes = {"text": text, "target.span1_text": words, "target.span1_index": index}
    changes |= {"target.span2_text": text.split()[-1], "target.span2_index": len(text.split()) - 1}
    if found is None:
        with pytest.raises(UserError, match=r"train\.jsonl:1: span1_text is .* from word"):
            read(tmp_path, "wsc", row("wsc", **changes))
        return
    spans = read(tmp_path, "wsc", row("wsc", **changes)).spans
    assert spans is not None
    _, start, end = spans[0, 0].tolist()
    assert text[start:end] == found


def test_an_official_mistake_is_taken_as_the_task_says(tmp_path: Path) -> None:
    wrong = row("wsc", **{"target.span2_index": 5})  # "he" is word 6
    with pytest.raises(UserError, match="from word 5 on"):
        read(tmp_path, "wsc", wrong)
    spans = read(tmp_path, "wsc", wrong, mismatched={"train": [0]}).spans
    assert spans is not None
    assert spans[0, 1].tolist() == [0, 24, 26]
    nowhere = row("wsc", **{"target.span1_text": "Tom and Bo", "target.span1_index": 2})
    spans = read(tmp_path, "wsc", nowhere, mismatched={"train": [0]}).spans
    assert spans is not None
    assert nowhere["text"][spans[0, 0, 1] : spans[0, 0, 2]] == "man saw Tim,"


MISTAKES = [
    ("cb", {"premise": ...}, "premise is missing, text expected"),
    ("cb", {"genre": "news"}, "unexpected key 'genre'"),
    ("cb", {"premise": 3}, "premise is 3, text expected"),
    ("cb", {"premise": " "}, "premise is empty"),
    ("cb", {"label": "maybe"}, 'label "maybe" is not one of entailment, contradiction, neutral'),
    ("cb", {"idx": True}, "idx is true, a number from 0"),
    ("cb", {"idx": -1}, "idx is -1, a number from 0 to"),
    ("cb", {"idx": 2**63}, "idx is 9223372036854775808, a number from 0 to"),
    ("boolq", {"label": "true "}, "is not one of false, true"),
    ("boolq", {"label": 1}, "label 1 is not one of"),
    ("copa", {"question": "why"}, "question is 'why', cause or effect expected"),
    ("copa", {"label": 2}, "label 2 is not one of 0, 1"),
    ("multirc", {"passage": []}, r"passage is \[\], an object expected"),
    ("multirc", {"passage.questions.1.answers": []}, r"answers is \[\], a list of some expected"),
    ("multirc", {"passage.questions": []}, r"questions is \[\], a list of some expected"),
    ("multirc", {"passage.questions.1.idx": 3}, "idx 3 of this question was given before"),
    ("multirc", {"passage.questions.0.answers.1.idx": 5}, "idx 5 of this answer was given before"),
    ("multirc", {"passage.questions.0.answers.0.label": ...}, "no label, which must be one of 0, 1"),
    ("record", {"passage.entities.0.end": 32}, r"characters 0 to 32 are not inside the passage \(32 characters\)"),
    ("record", {"passage.entities.0.start": -1}, "not inside the passage"),
    ("record", {"passage.entities": []}, r"entities is \[\], a list of some expected"),
    ("record", {"qas.0.answers.0.text": "Ann"}, "text is 'Ann', but characters 8 to 9 are 'Bo'"),
    ("record", {"qas.0.query": "Who?"}, "query has no @placeholder"),
    ("record", {"qas.0.answers": ...}, "answers is missing, a list of some expected"),
    ("wic", {"end1": 99}, r"characters 4 to 99 are not inside sentence1 \(19 characters\)"),
    ("wic", {"end2": 8}, "characters 4 to 8 of sentence2 are 'bank', a whole word expected"),
    ("wic", {"start1": 3}, "are ' bank', a whole word expected"),
    ("wsc", {"target.span1_text": "the young man"}, "span1_text is 'the young man', which is not the text"),
    ("wsc", {"target.span2_index": 99}, "from word 99 on"),
    ("wsc", {"target.extra": 1}, "unexpected key 'extra'"),
]


@pytest.mark.parametrize(("name", "changes", "message"), MISTAKES)
def test_a_wrong_row_is_named(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    good = row(name, idx=99)
    if name in ("multirc", "record"):  # official numbers differ throughout a file
        good = row(name, **{"idx": 99, **({"qas.0.idx": 99} if name == "record" else {})})
        for question in good["passage"].get("questions", []):
            question["idx"] += 50
            for answer in question["answers"]:
                answer["idx"] += 50
    with pytest.raises(UserError, match=rf"train\.jsonl:2: .*{message}.*; repair that line"):
        read(tmp_path, name, good, row(name, **changes))


def test_numbers_occur_once_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl:3: idx 0 of this row was given before, at .*train\.jsonl:1;"):
        read(tmp_path, "cb", row("cb"), row("cb", idx=1), row("cb"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: not JSON \(.*column 2\)"),
        ("[1]", r":2: \[1\], an object expected"),
        ('{"idx": 1, "idx": 2}', ":2: the key 'idx' occurs twice"),
        ("", ":2: blank line between rows"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, "cb", row("cb"), line, row("cb", idx=2))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(row("cb")).encode() + b"\n\xff\n")
    with pytest.raises(UserError, match=r"train\.jsonl:2: not valid UTF-8"):
        read_official(path, load_task("cb"), "train", "CB/train.jsonl")


def test_no_final_line_end_and_a_line_separator_inside(tmp_path: Path) -> None:
    found = read(tmp_path, "cb", json.dumps(row("cb", premise="a\u2028b"), ensure_ascii=False), row("cb", idx=1))
    assert found.texts[0][0] == "a\u2028b"


def test_a_test_row_has_no_label(tmp_path: Path) -> None:
    found = read(tmp_path, "record", row("record", **{"qas.0.answers": ...}), split="test")
    assert found.labels.tolist() == [-1, -1]
    assert found.credit is None
    assert found.answers == ["Ann", "Bo"]
    with pytest.raises(UserError, match="unexpected key 'label'"):
        read(tmp_path, "cb", row("cb"), split="test")


def test_pairs_of_a_diagnostic_set(tmp_path: Path) -> None:
    found = read(tmp_path, "axg", row("axg"), row("axg", idx=1, label="not_entailment"), split="diagnostic")
    assert found.groups is not None
    assert found.groups.tolist() == [11, 11]
    assert found.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="diagnostic set without training data; train one of rte_superglue, rte"):
        load(load_task("axg"), ProtocolConfig("paper"), DataConfig(dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "csv"}, "task.layout='csv' is not 'flat' or 'copa'"),
        ({"scoring": "ranks"}, "task.scoring='ranks' is not"),
        ({"spans": "vectors"}, "task.spans='vectors' is not ''"),
        ({"truncate": "text_b"}, "task.truncate='text_b' is not 'text_a' or ''"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    (tmp_path / "CB").mkdir()
    with pytest.raises(UserError, match=message):
        load(replace(load_task("cb"), **changes), ProtocolConfig("paper"), DataConfig(dir=str(tmp_path)))


COUNTS = {  # rows of the official files; label counts of MANIFEST.json
    "boolq": ((73, 3270, 3245), [1237, 2033]),
    "cb": ((250, 56, 250), [23, 28, 5]),
    "copa": ((400, 100, 500), [55, 45]),
    "multirc": ((456, 83, 166), [2773, 2075]),
    "record": ((42, 5, 5), None),
    "rte_superglue": ((2490, 277, 3000), [146, 131]),
    "wic": ((5428, 638, 1400), [319, 319]),
    "wsc": ((554, 104, 146), [66, 38]),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files(shared: Path, name: str) -> None:
    """Every row is read and its spans fit; counts as published."""
    task, data = load_task(name), DataConfig(dir=str(shared / "data"), allow_partial=True)
    rows, labels = COUNTS[name]
    found = load(task, ProtocolConfig("dev"), data)
    test = load_test(task, data)["test"]
    counted = [len(np.unique(each.ids)) for each in (found.splits["train"], found.splits["report"], test)]
    assert counted == list(rows)
    if labels is not None:
        assert np.bincount(found.splits["report"].labels).tolist() == labels
    assert set(found.partial) == {"boolq": {"train"}, "record": {"train", "validation"}}.get(name, set())
    if task.items and name == "multirc":
        assert (len(found.splits["train"]), len(found.splits["report"]), len(test)) == tuple(task.items.values())


def test_the_guide_shows_the_function_as_it_is() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    shown = "\n".join(
        line.removeprefix("   ") for line in guide.split("```python\n")[1].split("   ```")[0].splitlines()
    )
    assert shown.strip() == inspect.getsource(FORMATS["copa"].examples).strip()
    for name, described, function, unfold in re.findall(r"\| `(\w+)` \| (\d+) \| (\d+) \| (\w+) \|", guide):
        body = len(inspect.getsource(UNFOLD[name]).strip().splitlines()) - 1 if name in UNFOLD else "none"
        assert str(body) == unfold, name
        assert len(inspect.getsource(FORMATS[name].examples).strip().splitlines()) == int(function), name
        assert yaml_lines(name) == int(described), name
    sizes = [yaml_lines(name) for name in ("boolq", "cb", "rte_superglue", "axb", "axg", "ax")]
    assert f"| {min(sizes)} to {max(sizes)} | none | none |" in guide


def yaml_lines(name: str) -> int:
    """Lines of a task's YAML that are no comment."""
    return sum(not line.startswith("#") for line in (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines())
