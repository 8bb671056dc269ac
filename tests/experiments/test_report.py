"""The HTML report: complete in itself, escaped, and quiet in a real browser."""

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from experiments import report
from experiments.overview import Overview
from experiments.study import load
from experiments.summary import Section, headings
from experiments.tables import Table
from scripts import tables
from tests.experiments import made

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REQUEST = re.compile(r'"initiator":"([^"]*)".*?"url":"([^"]*)"')
HOSTILE = '<script>fetch("http://example.org")</script>"\'&'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("report")
    axes = {"method": ["full", "lora", "sora"], "task": ["rte", "mrpc"], "seed": [0, 1]}
    made.study(results, "main_table", axes, leave_out=1, items=40)
    assert tables.main(["--results", str(results)]) == 0
    return results / "report.html"


class Tags(html.parser.HTMLParser):
    """Collects tags and their addresses; complains of what is closed without having been opened."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_tags_are_balanced_and_addresses_stay_inside(page: Path) -> None:
    tags = Tags(page.read_text(encoding="utf-8"))
    assert tags.open == []
    addresses = [v for _, attrs in tags.seen for k, v in attrs.items() if k in ("src", "href") and v is not None]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    identifiers = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert {a[1:] for a in addresses if a.startswith("#")} == set(identifiers)
    assert len(identifiers) == len(set(identifiers))


def test_it_says_what_is_missing_and_where_the_numbers_come_from(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert "11 of 12 runs" in content
    assert "python run.py method=sora task=mrpc seed=1" in content
    assert "Conditions and provenance" in content
    assert "1" * 64 in content  # sha256 of the weights
    assert not re.search(r"\d{4}-\d\d-\d\dT", content)


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    made.studies.write(tmp_path, made.manifest("mine", {"task": ["rte"], "x": [HOSTILE]}, {"y": HOSTILE}))
    study = load(tmp_path).studies[0]
    table = Table("t", HOSTILE, HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE], "b": [1.0]}), notes=[HOSTILE])
    strip = pd.DataFrame({"task": [HOSTILE], "method": [HOSTILE], "state": ["open"], "words": [HOSTILE]})
    above = Overview(HOSTILE, strip)
    content = report.page([Section(study, HOSTILE, [table], {})], above, [HOSTILE], HOSTILE)
    tags = Tags(content)
    assert sum(tag == "script" for tag, _ in tags.seen) == 1  # the page's own
    assert all(set(attrs) <= {"class", "data-v", "title"} for tag, attrs in tags.seen if tag == "td")


def test_the_strip_says_what_is_there_in_words_and_colours(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    cells = re.findall(r'<td class="(good|open|bad)">([^<]*)</td>', content[: content.index('<p class="caption">')])
    assert sorted(cells) == [("good", "2/2")] * 5 + [("open", "1/2")]


def test_links_can_be_told_apart(tmp_path: Path) -> None:
    """Studies of one kind and one task name what differs; of other tasks, the task."""
    rates = "trainer.learning_rate"
    fixed = {"backbone": "minilm-l6", "trainer.max_steps": "60"}
    for task, values in (("rte", [1e-4, 2e-4]), ("rte", [4e-4, 8e-4]), ("cola", [1e-4])):
        made.studies.write(tmp_path, made.manifest("learning_rate", {"task": [task], rates: values}))
    made.studies.write(tmp_path, made.manifest("learning_rate", {"task": ["rte"], rates: [4e-4, 8e-4]}, fixed))
    studies = load(tmp_path, by_manifest=True).studies
    found = headings([Section(study, "Learning rate", [], {}) for study in studies])
    assert sorted(found.values()) == [
        "Learning rate, minilm-l6, CoLA",
        "Learning rate, minilm-l6, RTE, trainer.learning_rate 0.0001, 0.0002",
        "Learning rate, minilm-l6, RTE, trainer.learning_rate 0.0004, 0.0008, trainer.max_steps 30",
        "Learning rate, minilm-l6, RTE, trainer.learning_rate 0.0004, 0.0008, trainer.max_steps 60",
    ]


def test_the_first_page_of_the_report_is_the_finding_and_the_main_table_is_the_first_study(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    places = [
        content.index(each) for each in ('class="finding"', 'class="plain strip"', "<figure>", "<nav>", "<h2 id=")
    ]
    assert places == sorted(places)
    assert content.index("<h2 id=") == places[-1]


def visit(page: Path, folder: Path, *more: str) -> tuple[str, list[str], list[str]]:
    """The document after its scripts ran, what the page asked the network for, and what stood on the console.

    A headless browser, or a skip where none is installed. Its log also has requests of its own (updates, time), which
    have no page as their initiator.
    """
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    log = folder / f"{page.stem}.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += [
        *more,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        "--enable-logging=stderr",
        "--v=0",
    ]
    command = [program, *flags, *more, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    events = [REQUEST.search(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    asked = [each[2] for each in events if each is not None and each[1] != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [url for url in asked if not url.startswith(("file:", "data:"))], console


def evaluated(page: Path, folder: Path, script: str, *more: str) -> str:
    """What ``script`` (statements that end with a return) gives on the page; the browser must be quiet."""
    with_probe = folder / "with_probe.html"
    probe = f"<script>document.title = (() => {{ {script} }})();</script></body>"
    with_probe.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    content, asked, console = visit(with_probe, folder, *more)
    assert asked == []
    assert console == []
    title = re.search("<title>(.*?)</title>", content)
    assert title is not None
    return title[1]


MAIN = "const table = document.querySelector('h2[id^=main_table] ~ .scroll table');"


def test_a_browser_asks_for_nothing_and_sorts_numbers_as_numbers(page: Path, tmp_path: Path) -> None:
    """The main table sorted by its live parameters."""
    script = (
        f"{MAIN} const heads = [...table.tHead.rows[0].cells];"
        "const column = heads.findIndex(head => head.textContent === 'live parameters');"
        "heads[column].firstElementChild.click();"
        "return [heads[column].getAttribute('aria-sort'),"
        "...[...table.tBodies[0].rows].map(row => row.cells[column].dataset.v)].join(',');"
    )
    order, *values = evaluated(page, tmp_path, script).split(",")
    assert order == "ascending"
    assert len(values) == 12
    assert [float(value) for value in values] == sorted(float(value) for value in values)
    assert values != sorted(values)  # as text they would stand otherwise


def test_a_wide_table_keeps_its_first_column_and_its_verdict_in_view(page: Path, tmp_path: Path) -> None:
    """On a phone, scrolled to the right by 60 pixels and not."""
    script = (
        f"{MAIN} const box = table.parentElement, found = [box.scrollWidth > box.clientWidth + 60];"
        "const frame = box.getBoundingClientRect(), row = table.tBodies[0].rows[1];"
        "for (const left of [0, 60]) {"
        " box.scrollLeft = left;"
        " found.push(Math.abs(row.cells[0].getBoundingClientRect().left - frame.left) < 2,"
        "  Math.abs(row.querySelector('.verdict').getBoundingClientRect().right - frame.right) < 2,"
        "  Math.abs(row.cells[1].getBoundingClientRect().left - row.cells[0].getBoundingClientRect().right) < 2);"
        "} return found.join(' ');"
    )
    found = evaluated(page, tmp_path, script, "--window-size=390,900").split()
    assert found == ["true"] * 6 + ["false"]  # the second column alone moves away


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """A page that does ask and does complain is found out: else the test above could not fail."""
    bad = tmp_path / "bad.html"
    address = "http://127.0.0.1:9/x.png"  # the discard port: nobody answers
    bad.write_text(f'<html><img src="{address}"><script>console.error("boom")</script></html>', encoding="utf-8")
    _, asked, console = visit(bad, tmp_path)
    assert address in asked
    assert any("boom" in line for line in console)
