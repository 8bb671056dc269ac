"""SuperGLUE's files: what the formats make of a row, and what is refused."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import Examples, load, load_task
from sora.tasks.formats import FORMATS
from sora.tasks.load import read_official
from tests.superglue import row


def read(folder: Path, name: str, *rows: dict[str, Any] | str, split: str = "train", **task: Any) -> Examples:
    path = folder / f"{split}.jsonl"
    lines = (line if isinstance(line, str) else json.dumps(line) for line in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_official(path, replace(load_task(name), **task), split, f"{name}/{path.name}")


def test_a_pair_and_its_label(tmp_path: Path) -> None:
    unusual = json.dumps(row("boolq", passage="a\u2028b"), ensure_ascii=False)  # a line separator inside a line
    found = read(tmp_path, "boolq", unusual, row("boolq", idx=1, label=False))
    assert found.texts == (["a\u2028b", "It is so."], ["is it so"] * 2)
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
    aliases = [{"start": 0, "end": 2, "text": "Ann"}, {"start": 8, "end": 9, "text": "Bo"}]
    found = read(tmp_path, "record", row("record", **{"qas.0.answers": aliases}))
    assert found.labels.tolist() == [1, 1], "every alias of the answer is right"
    assert found.credit is not None
    assert found.credit.tolist() == [[1, 1], [1, 1]]
    found = read(tmp_path, "record", row("record", **{"qas.0.answers": ...}), split="test")
    assert (found.labels.tolist(), found.credit, found.answers) == ([-1, -1], None, ["Ann", "Bo"])


def test_spans_as_places_or_as_marks(tmp_path: Path) -> None:
    found = read(tmp_path, "wic", row("wic"))
    assert found.spans is not None
    assert found.spans.tolist() == [[[0, 4, 8], [1, 4, 9]]]
    marked = read(tmp_path, "wic", row("wic"), spans="marks")
    assert marked.spans is None
    assert marked.texts == (["The * bank * is closed."], ["Two # banks # of a river."])
    both = read(tmp_path, "wsc", row("wsc"), spans="marks")
    assert both.texts == (["* The old man * saw Tim, so # he # left."],)


def test_a_marked_verb_may_end_before_its_contracted_not(tmp_path: Path) -> None:
    found = read(tmp_path, "wic", row("wic", sentence1="It doesn't.", start1=3, end1=7))
    assert found.spans is not None
    assert found.spans[0, 0].tolist() == [0, 3, 7]


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


MISTAKES = [  # task, what is wrong in a row, what is said
    ("cb", {"premise": ...}, "premise is missing, text expected"),
    ("cb", {"premise": 3}, "premise is 3, text expected"),
    ("cb", {"label": ...}, "no label"),
    ("cb", {"idx": True}, "idx is True, an integer expected"),
    ("cb", {"idx": 99}, "idx 99 was given before"),
    ("boolq", {"label": "true "}, "is not one of false, true"),
    ("copa", {"question": "why"}, "question is 'why', cause or effect expected"),
    ("multirc", {"passage": []}, "not as its task describes a row"),
    ("multirc", {"passage.questions.0.question": ...}, "KeyError('question')"),
    ("multirc", {"passage.questions.1.idx": 53}, "idx 53 was given before"),
    ("multirc", {"passage.questions.0.answers.1.idx": 5}, "idx 5 was given before"),
    ("multirc", {"passage.questions.0.answers.0.label": ...}, "no label"),
    *(
        ("multirc", {"passage.questions.0.idx": wrong}, f"idx is {wrong!r}, a number from 0")
        for wrong in ("5", 5.7, -1)
    ),
    ("multirc", {"passage.questions.0.answers.1.idx": [1]}, "idx is [1], a number from 0"),
    ("record", {"qas.0.idx": None}, "idx is null, a number from 0 to 2^63 - 1 expected"),
    ("record", {"passage.entities.0.end": 32}, "characters 0 to 32 of the passage"),
    ("record", {"passage.entities": []}, "no entity is marked"),
    ("record", {"qas.0.answers.0.text": "Ann"}, "characters 8 to 9 of the passage are 'Bo', 'Ann' expected"),
    ("record", {"qas.0.query": "Who?"}, "query has no @placeholder"),
    ("record", {"qas.0.answers": ...}, "answers is missing, a list expected"),
    ("wic", {"end1": 99}, "characters 4 to 99 of sentence1"),
    ("wic", {"start1": 3}, "are ' bank', a whole word expected"),
    ("wic", {"end2": 8}, "characters 4 to 8 of sentence2 are 'bank', a whole word expected"),
    ("cb", {"idx": 2**63}, "idx is 9223372036854775808, an integer expected"),
    ("wsc", {"target.span2_index": 99}, "from word 99 on"),
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
    with pytest.raises(UserError) as refused:
        read(tmp_path, name, good, row(name, **changes))
    assert "train.jsonl:2: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r":2: not JSON \(.* column 2"), ("[1]", r":2: \[1\], an object expected"), ("", r":2: not JSON \(")],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, "cb", row("cb"), line, row("cb", idx=2))


def test_pairs_of_a_diagnostic_set(tmp_path: Path) -> None:
    found = read(tmp_path, "axg", row("axg"), row("axg", idx=1, label="not_entailment"), split="diagnostic")
    assert found.groups is not None
    assert found.groups.tolist() == [11, 11]
    assert found.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="diagnostic set without training data; train one of rte_superglue, rte"):
        load(load_task("axg"), ProtocolConfig("paper"), DataConfig(dir=str(tmp_path)))


def test_the_guide_shows_the_function_as_it_is() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    shown = "\n".join(
        line.removeprefix("   ") for line in guide.split("```python\n")[1].split("   ```")[0].splitlines()
    )
    assert shown.strip() == inspect.getsource(FORMATS["copa"].examples).strip()
