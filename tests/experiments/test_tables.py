"""scripts/tables.py through its command: what it writes, that it repeats to the byte, and what bad files do to it."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

import experiments
from experiments import figures
from experiments.study import load
from experiments.tables import EMPTY, SIGNED, Table, comma_separated, latex, markdown, size
from scripts import tables
from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs.records import read
from tests.conftest import ROOT
from tests.experiments import made

AXES = {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one study, whose artefacts were built by the command, in a process of its own."""
    results = tmp_path_factory.mktemp("built") / "results"
    made.study(results, "main_table", AXES, leave_out=1, items=40)
    code = (
        "import sys; from scripts import merge_results, status, study, tables, tune; code = tables.main(sys.argv[1:]); "
        "print('torch' in sys.modules, 'transformers' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--results", str(results)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
    assert "3 of 4 runs" in done.stdout
    return results


@pytest.fixture
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are enough for the test: pictures are empty files."""
    monkeypatch.setattr(figures, "render", lambda figure: (b"", b""))


numbers = pytest.mark.usefixtures("_without_pictures")


def contents(results: Path) -> dict[str, bytes]:
    return {str(p.relative_to(results)): p.read_bytes() for p in sorted(results.rglob("*")) if p.is_file()}


def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def test_it_writes_every_format(built: Path) -> None:
    names = {path.suffix for path in built.rglob("*") if "records" not in path.parts and path.is_file()}
    assert names == {".md", ".tex", ".csv", ".png", ".svg", ".html", ".sh", ".json"}
    assert {"README.md", "report.html", "runs.csv"} <= {path.name for path in built.iterdir()}
    missing = next(built.glob("tables/*/missing.sh")).read_text(encoding="utf-8")
    assert missing == "python run.py method=sora task=rte seed=1\n"


def test_from_nothing_it_writes_the_same_bytes_and_the_second_time_no_file(built: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    for name in ("records", "studies"):
        shutil.copytree(built / name, elsewhere / name)
    tables.build(elsewhere)
    assert contents(elsewhere) == contents(built)
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()}
    tables.build(elsewhere)
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*") if path.is_file()} == before


def test_nothing_that_is_written_says_where_or_when(built: Path) -> None:
    for name, content in contents(built).items():
        if not name.startswith(("records", "studies")):
            assert str(built).encode() not in content
            assert b"2024-01-01" not in content or name == "runs.csv"  # when the records were made
            assert not re.search(rb"Creation|dc:date|tEXtSoftware", content)


@numbers
def test_what_is_left_of_a_study_that_is_gone_is_removed_and_nothing_else(built: Path, tmp_path: Path) -> None:
    elsewhere = copy(built, tmp_path)
    stale = elsewhere / "tables" / "main_table-0123456789ab" / "main_table.csv"
    stale.parent.mkdir()
    stale.write_text("old")
    mine = elsewhere / "tables" / "notes.md"
    mine.write_text("mine")
    tables.main(["--results", str(elsewhere)])
    assert not stale.parent.exists()
    assert mine.read_text() == "mine"


def test_the_commands_of_a_study_say_their_place_without_axes_that_they_lack(built: Path) -> None:
    study = load(built).studies[0]
    run = pd.Series({**study.runs.iloc[0], "method.source": float("nan"), "method.targets": ("query",)}, dtype=object)
    axes = {**study.axes, "method.source": [None, "a"], "method.targets": [None]}
    words = tables._place(replace(study, axes=axes), run)
    assert "method.source" not in words
    assert 'method.targets=["query"]' in words
    (page,) = built.glob("tables/main_table-*/README.md")
    assert "Each run's command: [runs.sh](runs.sh)." in page.read_text(encoding="utf-8")
    assert f"tables/{study.key}/runs.sh" in (built / "report.html").read_text(encoding="utf-8")


@numbers
def test_one_study_alone_leaves_the_others_files(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", AXES, items=20)
    made.study(tmp_path, "mine", {"method": ["lora"], "task": ["rte"], "seed": [0]}, items=20)
    assert tables.main(["--results", str(tmp_path)]) == 0
    assert tables.main(["--results", str(tmp_path), "--study", "mine"]) == 0
    assert len(list((tmp_path / "tables").glob("main_table-*"))) == 1


# -- bad input -------------------------------------------------------------------------------------------------


def spoilt(results: Path) -> list[str]:
    """Spoil six records of LoRA and add three bad manifests; returns what must be told of each."""
    manifest = made.study(results, "main_table", AXES | {"seed": [*range(6)]}, items=20)
    paths = [results / run["record"] for run in manifest["runs"][:6]]
    contents = [json.loads(path.read_text()) for path in paths]
    paths[0].write_text(paths[0].read_text()[:200])
    paths[1].write_text('{"hello": 1}')
    paths[2].write_text(json.dumps(contents[2] | {"schema": 99}))
    paths[3].write_text(json.dumps(contents[3] | {"run_id": "f" * 12, "pack": {"size": 1, "members": ["f" * 12]}}))
    contents[4]["metrics"]["last"]["report"]["accuracy"] = 0.123
    again = paths[4].parent / "again" / paths[4].name
    again.parent.mkdir()
    again.write_text(json.dumps(contents[4]))
    paths[5].with_suffix(".npz").write_bytes(b"PK no zip")
    (results / "studies" / "broken-0123456789ab.json").write_text("{")
    (results / "studies" / "other-0123456789ab.json").write_text(json.dumps(manifest | {"study": "other"}))
    studies.write(results, made.manifest("gone", {"method": ["full"], "task": ["rte"], "seed": [0, 1]}))
    return [
        *(f"{paths[0].name}:", f"{paths[1].name}: schema is missing", f"{paths[2].name}: schema is 99"),
        *(f"{paths[3].name}: holds run ffffffffffff", f"says of run {contents[4]['run_id']} other things than"),
        f"{paths[5].with_suffix('.npz').name}: cannot be read",
        *("broken-0123456789ab.json: damaged", "other-0123456789ab.json: hash is not that of study"),
        "none of its 2 runs has a record",
    ]


@numbers
def test_bad_files_are_named_and_the_rest_is_built(tmp_path: Path) -> None:
    told = spoilt(tmp_path)
    problems = "\n".join(tables.build(tmp_path))
    assert [words for words in told if words not in problems] == []
    rows = list(csv.DictReader((next(tmp_path.glob("tables/main_table-*/main_table.csv"))).open(encoding="utf-8")))
    counts = {row["method"]: row["n"] for row in rows}
    assert (counts["SoRA"], counts["LoRA"]) == ("6", "1"), "without its logits a record still has its score"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Files that could not be used" in page
    assert str(tmp_path) not in page


@numbers
@pytest.mark.parametrize(
    ("key", "value"), [("method", "full"), ("task", "mrpc"), ("backbone", "roberta-base"), ("seed", 5)]
)
def test_a_record_that_is_not_what_its_manifest_says_is_named_and_not_used(
    tmp_path: Path, key: str, value: object
) -> None:
    made.study(tmp_path, "main_table", {"method": ["lora"], "task": ["rte"], "seed": [0]}, items=20)

    def other(record: dict[str, Any]) -> None:
        group = record["config"][key]
        record["config"][key] = group | {"name": value} if isinstance(group, dict) else value

    made.change(tmp_path, other)
    loaded = load(tmp_path)
    (problem,) = loaded.problems
    assert f"{key} is {value!r} and not " in problem
    assert list(loaded.studies[0].runs["reason"]) == ["foreign record"]
    assert len(loaded.studies[0].missing()) == 1


def test_the_same_record_twice_does_no_harm(built: Path, tmp_path: Path) -> None:
    results = copy(built, tmp_path)
    path = next(results.glob("records/*/*/*.json"))
    again = path.parent / "again" / path.name
    again.parent.mkdir()
    content = read(path)
    content["time"]["train_s"] = 99.0  # time is no science
    again.write_text(json.dumps(content))
    assert tables.main(["--results", str(results), "--strict"]) == 0


def test_what_cannot_be_used_is_a_warning_and_with_strict_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.write(tmp_path, made.manifest("mine", {"method": ["full"], "task": ["rte"], "seed": [0]}))
    assert tables.main(["--results", str(tmp_path)]) == 0
    assert "warning: " in capsys.readouterr().err
    assert tables.main(["--results", str(tmp_path), "--strict"]) == 2


def test_mistakes_of_the_command_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        tables.main(["--results", str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="--study main_table: no manifest of that name"):
        tables.main(["--results", str(tmp_path), "--study", "main_table"])


def test_the_first_page_begins_with_the_finding_and_the_main_table(built: Path) -> None:
    page = (built / "README.md").read_text(encoding="utf-8")
    finding = next(line for line in page.splitlines() if line.startswith("**"))
    words = (
        r"On RTE acc\. it is unfinished whether SoRA, with \d+ % of LoRA's live parameters, is not inferior to LoRA "
    )
    words += r"\(margins as in docs/study\.md; not fixed beforehand for this sweep\)\."
    assert re.fullmatch(rf"\*\*{words}\*\*", finding)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert rows[0][:5] == ["task", "method", "n", "score", "live parameters"]
    assert [row[1] for row in rows[2:5]] == ["LoRA", "SoRA", "Majority class"]
    assert rows[5][:3] == ["task", "method", "examples"]  # the conditions
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert len(links) > 3
    assert [link for link in links if not (built / link).exists()] == []


@numbers
def test_runs_outside_a_sweep_have_a_table_and_are_rows_of_the_csv(tmp_path: Path) -> None:
    for seed, rate in ((0, 1e-4), (1, 1e-4), (0, 8e-4)):
        made.write_run(
            tmp_path, {"method": "lora", "task": "rte", "trainer.learning_rate": rate, "seed": seed}, items=20
        )
    made.study(tmp_path, "mine", {"method": ["sora"], "task": ["rte"], "seed": [0, 1]}, items=20)
    assert tables.main(["--results", str(tmp_path), "--strict"]) == 0
    rows = list(csv.DictReader((tmp_path / "tables" / "runs" / "scores.csv").open(encoding="utf-8")))
    places = [(float(row["trainer.learning_rate"]), row["selected weights n"]) for row in rows]
    assert places == [(1e-4, "2"), (8e-4, "1")]
    assert rows[1]["selected weights sd"] == "", "one run has no spread"
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for heading in ("Sweep mine", "Runs outside a sweep"):  # no main table: every study's first table
        assert f"## {heading}, minilm-l6, RTE" in page
    found = pd.read_csv(tmp_path / "runs.csv")
    assert list(found["studies"].isna()) == [True] * 3 + [False] * 2
    made.studies.write(tmp_path, made.manifest("all", {"method": ["lora"], "task": ["rte"], "seed": [0, 1]}))


@numbers
def test_a_new_study_is_a_short_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/studies.md, as it stands there."""
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(code.splitlines()) <= 25
    (tmp_path / "batches.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    axes = {"method": ["lora", "sora"], "trainer.batch_size": [8, 32], "task": ["rte"], "seed": [0, 1]}
    made.study(tmp_path / "results", "batches", axes, items=20)
    try:
        assert tables.main(["--results", str(tmp_path / "results"), "--strict"]) == 0
    finally:
        sys.modules.pop("experiments.batches", None)
    (table,) = tmp_path.glob("results/tables/batches-*/batches.csv")
    assert [row["batch"] for row in csv.DictReader(table.open(encoding="utf-8"))] == ["8", "32", "8", "32"]
    assert len(list(tmp_path.glob("results/figures/batches-*/*.png"))) == 1


def test_an_empty_folder_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--results", str(tmp_path), "--strict"]) == 0
    assert "python run.py experiment=main_table makes one" in capsys.readouterr().out
    assert "No study has a manifest here yet." in (tmp_path / "report.html").read_text(encoding="utf-8")


# -- the formats -----------------------------------------------------------------------------------------------

NASTY = Table(
    name="nasty",
    title="50 % & more_of $x$",
    caption="<script>alert(1)</script>",
    data=pd.DataFrame(
        {
            "a|b": [r"x_1 \ {y} ~ ^ # <b>", "p|q"],
            "n & m": [1.5, None],
            "n & m sd": [0.1, None],
            "of": [0.1 + 0.2, 5e-05],
        }
    ),
    formats={"of": "{:g}"},
)


def test_markdown_cells_cannot_break_the_table() -> None:
    body = [line for line in markdown(NASTY).splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in body] == [4] * 4
    assert "1.50 ± 0.10" in body[2]
    assert body[3].count(EMPTY) == 1


def test_words_follow_from_the_names_of_columns() -> None:
    data = pd.DataFrame({"x": [80.0, 81.0, None], "x sd": [1.0, 0.5, None], "x n": [3, 2, 0], "x of": [3, 3, 3]})
    data = data.assign(**{"x diverged": [0, 1, 0], "x one_class": [0, 2, 0], "runs": [1, 2, 3], "runs of": [3, 3, 3]})
    data = data.assign(**{"i": [-1.0, 0.5, None], "i high": [1.0, 2.0, None], "live": [331_776, 25_728, 90]})
    table = Table("t", "t", "", data, {"i": SIGNED, "live": size})
    assert table.columns == ["x", "runs", "i", "live"]
    assert list(table.show["x"]) == ["80.00 ± 1.00", "81.00 ± 0.50 (2/3) [1 diverged, 2 one-class]", "(0/3)"]
    assert list(table.show["runs"]) == ["1/3", "2/3", "3/3"]
    assert list(table.show["i"]) == ["-1.00 to +1.00", "+0.50 to +2.00", EMPTY]
    assert list(table.show["live"]) == ["0.33M", "25.7k", "90"]


def test_latex_has_as_many_cells_in_every_row_and_no_bare_special_character() -> None:
    lines = latex(NASTY).splitlines()
    rows = [line for line in lines if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [2] * 3
    assert r"x\_1 \textbackslash{} \{y\} \textasciitilde{} \textasciicircum{} \# $<$b$>$" in rows[1]
    assert [line for line in lines if line in (r"\toprule", r"\midrule", r"\bottomrule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert latex(NASTY).isascii()


def test_latex_compiles(tmp_path: Path) -> None:
    """Every table of results/, in one document, through a real LaTeX."""
    found = sorted((ROOT / "results" / "tables").rglob("*.tex"))
    assert found
    assert [path.name for path in found if not path.read_text(encoding="utf-8").isascii()] == []
    labels = [label for path in found for label in re.findall(r"\\label\{.*?\}", path.read_text(encoding="utf-8"))]
    assert len(set(labels)) == len(labels) == len(found)
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    tables = [path.read_text(encoding="utf-8") + "\n\\clearpage" for path in found]
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "all.tex").write_text("\n".join([head, *tables, r"\end{document}"]), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if line.startswith("!"))
    assert "Overfull" not in done.stdout, "a table is wider than the page"


def test_csv_holds_the_values_and_their_companions() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(NASTY))))
    assert rows[0]["n & m"] == "1.5"
    assert rows[0]["n & m sd"] == "0.1"
    assert (rows[1]["a|b"], rows[1]["n & m"], rows[1]["n & m sd"]) == ("p|q", "", "")
    assert [row["of"] for row in rows] == ["0.3", "5e-05"]  # six digits: beyond them sums depend on the processor


@pytest.mark.parametrize(
    ("x", "values", "labels"),
    [
        ([4.1e4, 6.6e5], [], ["0.1M", "0.3M"]),
        ([2e4, 6.6e5], [], ["30k", "0.1M", "0.3M"]),
        ([5e-4, 2e-3], [5e-4, 1e-3, 2e-3], ["0.0005", "0.001", "0.002"]),
    ],
)
def test_a_short_logarithmic_axis_can_be_read(x: list[float], values: list[float], labels: list[str]) -> None:
    canvas = Canvas()
    FigureCanvasAgg(canvas)
    axis = canvas.subplots()
    axis.plot(x, x)
    figures.log_scale(axis, values)
    canvas.draw_without_rendering()
    low, high = axis.get_xlim()
    shown = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    assert [label.get_text() for place, label in shown if low <= place <= high] == labels


@pytest.mark.slow
def test_five_thousand_records(tmp_path: Path) -> None:
    axes = {"method": ["full", "lora", "sora"], "task": ["rte", "mrpc"], "seed": list(range(834))}
    made.many(tmp_path, "mine", axes, items=20)
    assert len(list((tmp_path / "records").rglob("*.json"))) == 5004
    assert tables.main(["--results", str(tmp_path), "--strict"]) == 0
    row = next(csv.DictReader(next((tmp_path / "tables").glob("*/scores.csv")).open(encoding="utf-8")))
    assert (row["selected weights n"], row["selected weights of"]) == ("834", "834")
