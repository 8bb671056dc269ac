"""The HTML report: complete in itself, escaped, and quiet in a real browser."""

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from experiments import report
from experiments.study import load
from experiments.summary import Section
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
    assert "Provenance" in content
    assert "1" * 64 in content  # sha256 of the weights
    assert not re.search(r"\d{4}-\d\d-\d\dT", content)


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    made.studies.write(tmp_path, made.manifest("mine", {"task": ["rte"], "x": [HOSTILE]}, {"y": HOSTILE}))
    study = load(tmp_path, lambda _: frozenset()).studies[0]
    table = Table("t", HOSTILE, HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE], "b": [1.0]}), notes=[HOSTILE])
    content = report.page([Section(study, HOSTILE, [table], {})], [HOSTILE], HOSTILE)
    tags = Tags(content)
    assert sum(tag == "script" for tag, _ in tags.seen) == 1  # the page's own
    assert all(set(attrs) <= {"class", "data-v", "title"} for tag, attrs in tags.seen if tag == "td")


def visit(page: Path, folder: Path) -> tuple[str, list[str], list[str]]:
    """The document after its scripts ran, what the page asked the network for, and what stood on the console.

    A headless browser, or a skip where none is installed. Its log also has requests of its own (updates, time), which
    have no page as their initiator.
    """
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    log = folder / f"{page.stem}.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr", "--v=0"]
    command = [program, *flags, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    events = [REQUEST.search(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    asked = [each[2] for each in events if each is not None and each[1] != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [url for url in asked if not url.startswith(("file:", "data:"))], console


def test_a_browser_asks_for_nothing_and_complains_of_nothing(page: Path, tmp_path: Path) -> None:
    """The page is loaded and the study's first table sorted by its live parameters, which one row does not have."""
    clicked = tmp_path / "clicked.html"
    probe = (
        "<script>const head = document.querySelectorAll('h2[id^=main_table] ~ .scroll button')[1]; head.click();"
        "document.title = head.parentElement.getAttribute('aria-sort') + ',' + head.textContent + ',' + "
        "[...head.closest('table').tBodies[0].rows].map(row => row.cells[1].dataset.v).join(',');</script></body>"
    )
    clicked.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    content, asked, console = visit(clicked, tmp_path)
    assert asked == []
    assert console == []
    title = re.search("<title>(.*?)</title>", content)
    assert title is not None
    order, column, *values = title[1].split(",")
    assert (order, column) == ("ascending", "live parameters")
    *numbers, last = values
    assert last == ""
    assert len(numbers) == 3
    assert [float(value) for value in numbers] == sorted(float(value) for value in numbers)
    assert numbers != sorted(numbers)  # as text they would stand otherwise


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """A page that does ask and does complain is found out: else the test above could not fail."""
    bad = tmp_path / "bad.html"
    address = "http://127.0.0.1:9/x.png"  # the discard port: nobody answers
    bad.write_text(f'<html><img src="{address}"><script>console.error("boom")</script></html>', encoding="utf-8")
    _, asked, console = visit(bad, tmp_path)
    assert address in asked
    assert any("boom" in line for line in console)
