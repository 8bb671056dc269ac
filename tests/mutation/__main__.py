"""Change one line of the program at a time and see whether its tests notice. Not part of ``make test``.

    python -m tests.mutation --list                      # the mutants by room; runs nothing
    python -m tests.mutation --out mutation.md           # all of them, one test process at a time
    python -m tests.mutation --only training --jobs 2    # one room, two at a time

A mutant of ``mutants.yaml`` is a place (``file`` and its exact text ``old``, which must be there exactly once), the text
``new`` that stands there instead, and the ``tests`` that mirror the place. Its room is the folder of the file below
sora/, or the module itself. Where code moves, ``file`` and ``old`` move with it: mutants that fit no place are listed and
nothing runs (exit 2). ``equivalent: reason`` marks a change that no test could notice; it is counted apart.

The working tree is copied (tracked files and new ones that git does not ignore), one copy a job, so that the tree itself
never holds a mutant. Each set of tests runs once unchanged before any mutant, and must pass. A mutant is killed when its
tests fail, cannot be collected, or take ten times as long as unchanged. The table is Markdown. Exit 0 when at least 90 %
of those that are not equivalent were killed, else 1.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = Path(__file__).with_name("mutants.yaml")
WANTED = 0.9  # share that must be killed
PASSED, FAILED, BROKEN = 0, 1, 2  # exit codes of pytest: all passed, some failed, could not be collected
LEAST, TIMES = 60.0, 10.0  # seconds a mutant has at least, and in units of its unchanged tests


@dataclass(frozen=True)
class Mutant:
    """One change: in ``file`` the text ``old``, there once, becomes ``new``; ``tests`` are arguments of pytest."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def room(self) -> str:
        """The folder below sora/ (``training``), the module there (``optim``), or the folder at the top."""
        top, *inner = Path(self.file).with_suffix("").parts
        return inner[0] if top == "sora" else top

    def place(self, root: Path) -> str:
        """``file:line``, as the file stands below ``root``."""
        content = (root / self.file).read_text(encoding="utf-8")
        return f"{self.file}:{content[: content.index(self.old)].count(chr(10)) + 1}"

    def change(self) -> str:
        """The change in one line."""
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{old} -> {new or '(nothing)'}"


def read(path: Path = MUTANTS) -> list[Mutant]:
    """The mutants in the order of the file. Raises ValueError for an entry that is none."""
    found = []
    for part in yaml.safe_load(path.read_text(encoding="utf-8")):
        for each in part["mutants"]:
            tests = each.get("tests", part["tests"])
            if unknown := each.keys() - {"old", "new", "tests", "equivalent"}:
                raise ValueError(f"{path}: {part['file']}: unknown keys {', '.join(sorted(unknown))}")
            if each["old"] == each["new"]:
                raise ValueError(f"{path}: {part['file']}: old and new are both {each['old']!r}")
            found.append(Mutant(part["file"], each["old"], each["new"], tuple(shlex.split(tests)), each.get("equivalent", "")))
    return found


def misfits(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """A line for each mutant whose file or test is missing, or whose old text is not there exactly once."""
    told = []
    for each in mutants:
        path = root / each.file
        count = path.read_text(encoding="utf-8").count(each.old) if path.is_file() else None
        if count != 1:
            told.append(f"{each.file}: {'no such file' if count is None else f'found {count} times'}: {each.old!r}")
        files = (word.partition("::")[0] for word in each.tests if word.startswith("tests/"))
        told += [f"{each.file}: no such test {file}, of {each.old!r}" for file in files if not (root / file).exists()]
    return told


def copy(folder: Path) -> Path:
    """A copy of the working tree in ``folder``, without what git ignores."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # neither removed nor a link to a folder
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(tree: Path, tests: Sequence[str], limit: float | None = None) -> tuple[int | None, str]:
    """Run ``tests`` in ``tree``: pytest's exit code, None beyond ``limit`` seconds, and the end of what it printed."""
    shared = os.environ.get("SORA_TEST_SHARED") or str(ROOT.parent / "shared")
    variables = {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",  # a mutant of equal size, written in the same second, would go unseen
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "SORA_TEST_SHARED": shared,
    }
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(
        words,
        cwd=tree,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that processes of a test end with it
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return None, process.communicate()[0]
    return process.returncode, output


def unchanged(tree: Path, mutants: Sequence[Mutant]) -> dict[tuple[str, ...], float]:
    """Seconds of each set of tests without a mutant. Raises SystemExit where one does not pass."""
    took = {}
    for tests in dict.fromkeys(each.tests for each in mutants):
        start = time.perf_counter()
        code, output = run(tree, tests)
        took[tests] = time.perf_counter() - start
        if code != PASSED:
            raise SystemExit(f"{output}\nunchanged, these do not pass (exit {code}): {shlex.join(tests)}")
    return took


def outcome(tree: Path, mutant: Mutant, limit: float) -> str:
    """``killed`` (and how) or ``survived``. Raises SystemExit where no test ran."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
        code, output = run(tree, mutant.tests, limit)
    finally:
        path.write_text(original, encoding="utf-8")
    if code is None:
        return "killed: too slow"
    if code == FAILED:
        return "killed"
    if code == BROKEN:
        return "killed: not collected"
    if code == PASSED:
        return "survived"
    raise SystemExit(f"{output}\npytest ended with {code} at {mutant.file}: {mutant.change()}")


def report(mutants: Sequence[Mutant], outcomes: Sequence[str]) -> tuple[str, float]:
    """The Markdown table with its lists of survivors and equivalents, and the share that was killed."""
    pairs = list(zip(mutants, outcomes, strict=True))
    rows = []
    for room in [*dict.fromkeys(each.room for each in mutants), ""]:
        here = [(each, end) for each, end in pairs if room in ("", each.room)]
        counted = [(each, end) for each, end in here if not each.equivalent]
        killed = sum(end.startswith("killed") for _, end in counted)
        alive = [each for each, end in counted if end == "survived"]
        lines = ", ".join(each.place(ROOT).removeprefix("sora/") for each in alive) if room else str(len(alive))
        rows.append((room or "all", len(here), killed, len(here) - len(counted), lines))
    heads = ["| room | mutants | killed | equivalent | survived |", "|---|---:|---:|---:|---|"]
    table = [f"| {room} | {count} | {killed} | {same} | {lines} |" for room, count, killed, same, lines in rows]
    _, count, killed, same, _ = rows[-1]
    share = killed / (count - same) if count > same else 1.0
    text = [*heads, *table, "", f"{killed} of {count - same} killed: {100 * share:.1f} %."]
    if survivors := [each for each, end in pairs if end == "survived" and not each.equivalent]:
        text += ["", "Survived:", "", *(f"- `{each.place(ROOT)}` `{each.change()}`" for each in survivors)]
    if alike := [(each, end) for each, end in pairs if each.equivalent]:
        text += ["", "Equivalent:", ""]
        text += [
            f"- `{each.place(ROOT)}` `{each.change()}`: {each.equivalent}"
            + ("" if end == "survived" else " (it was killed all the same: the reason is wrong)")
            for each, end in alike
        ]
    return "\n".join(text) + "\n", share


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="ROOM", help="a room, or a file; may be given again")
    parser.add_argument("--jobs", type=int, default=1, help="test processes at a time (default 1)")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--out", type=Path, help="file for the table (default: standard output alone)")
    options = parser.parse_args(arguments)
    mutants = read()
    if wrong := misfits(mutants):
        print(f"{len(wrong)} entries of {MUTANTS.name} do not fit the code:", *wrong, sep="\n  ", file=sys.stderr)
        return 2
    if options.only:
        known = {name for each in mutants for name in (each.room, each.file)}
        if missing := [name for name in options.only if name not in known]:
            rooms = ", ".join(dict.fromkeys(each.room for each in mutants))
            print(f"--only {missing[0]}: no such room or file; there are {rooms}", file=sys.stderr)
            return 2
        mutants = [each for each in mutants if options.only and {each.room, each.file} & set(options.only)]
    if options.list:
        for each in mutants:
            print(f"{each.room:14} {each.place(ROOT)}  {each.change()}  [{shlex.join(each.tests)}]")
        return 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for job in range(options.jobs):
            trees.put(copy(Path(folder) / str(job)))
        tree = trees.get()
        took = unchanged(tree, mutants)
        trees.put(tree)

        def one(mutant: Mutant) -> str:
            tree = trees.get()
            try:
                end = outcome(tree, mutant, max(LEAST, TIMES * took[mutant.tests]))
            finally:
                trees.put(tree)
            print(f"{end:9} {mutant.place(ROOT)}  {mutant.change()}", file=sys.stderr, flush=True)
            return end

        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(one, mutants))
    text, share = report(mutants, outcomes)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
