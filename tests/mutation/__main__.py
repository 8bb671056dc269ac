"""Change one line of the program at a time and see whether its tests notice. Not part of ``make test``.

    python -m tests.mutation --list                      # the mutants by room; runs nothing
    python -m tests.mutation --out mutation.md           # all of them, one test process at a time
    python -m tests.mutation --only training --jobs 2    # one room, two at a time

A mutant of ``mutants.yaml`` is a place (``file`` and its exact text ``old``, which must be there exactly once), the
text ``new`` that stands there instead, and the ``tests`` that mirror the place. Its room is the folder of the file
below sora/, or the module itself. Where code moves, ``file`` and ``old`` move with it: mutants that fit no place are
listed and nothing runs (exit 2). ``equivalent: reason`` marks a change that no test could notice; it is counted apart.

The working tree is copied (tracked files and new ones that git does not ignore), one copy a job, so that the tree
itself never holds a mutant. Each set of tests runs once unchanged before any mutant, and must pass. A mutant is killed
when its tests fail, cannot be collected, or take ten times as long as unchanged. Tests run in forks of this process,
which has the large libraries imported already: that is most of what a small test costs. The table is Markdown. Exit 0
when at least 90 % of those that are not equivalent were killed, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = Path(__file__).with_name("mutants.yaml")
WANTED = 0.9  # share that must be killed
PASSED, FAILED, BROKEN = 0, 1, 2  # exit codes of pytest: all passed, some failed, could not be collected
WARM = ("peft", "transformers.models.deberta_v2.modeling_deberta_v2", "hydra", "hypothesis", "pytest", "scipy.stats")
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
            reason = each.get("equivalent", "")
            found.append(Mutant(part["file"], each["old"], each["new"], tuple(shlex.split(tests)), reason))
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


class Job:
    """One set of tests on one tree, in a process of its own."""

    def __init__(self, tree: Path, tests: Sequence[str]) -> None:
        self.tree, self.output = tree, tree.with_suffix(".txt")
        self.started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            code = 70
            try:
                code = self._child(tests)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def _child(self, tests: Sequence[str]) -> int:
        os.setsid()  # so that processes of a test end with it
        file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        os.environ |= {
            "PYTHONPATH": str(self.tree),
            "PYTHONDONTWRITEBYTECODE": "1",  # a mutant of equal size, written in the same second, would go unseen
            "SORA_TEST_SHARED": os.environ.get("SORA_TEST_SHARED") or str(ROOT.parent / "shared"),
        }
        sys.dont_write_bytecode = True
        os.chdir(self.tree)
        sys.path[:] = [str(self.tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(importlib.import_module("pytest").main([*options, *tests]))

    def ended(self) -> int | None:
        """Pytest's exit code, None while it runs."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def stop(self) -> None:
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def complain(self, what: str) -> SystemExit:
        """The error that shows what the tests printed, to be raised."""
        return SystemExit(f"{self.output.read_text(errors='replace')}\n{what}")


def unchanged(tree: Path, mutants: Sequence[Mutant]) -> dict[tuple[str, ...], float]:
    """Seconds of each set of tests without a mutant. Raises SystemExit where one does not pass."""
    took = {}
    for tests in dict.fromkeys(each.tests for each in mutants):
        job = Job(tree, tests)
        while (code := job.ended()) is None:
            time.sleep(0.05)
        took[tests] = job.seconds
        print(f"unchanged {job.seconds:5.1f} s  {shlex.join(tests)}", file=sys.stderr, flush=True)
        if code != PASSED:
            raise job.complain(f"unchanged, these do not pass (exit {code}): {shlex.join(tests)}")
    return took


def outcomes(
    trees: list[Path], mutants: Sequence[Mutant], took: dict[tuple[str, ...], float]
) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with how it ended, in the order of ending. Raises SystemExit where no test ran."""
    waiting, running = list(mutants), dict[Job, tuple[Mutant, str]]()
    try:
        while waiting or running:
            while waiting and trees:
                mutant, tree = waiting.pop(0), trees.pop()
                original = (tree / mutant.file).read_text(encoding="utf-8")
                (tree / mutant.file).write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
                running[Job(tree, mutant.tests)] = mutant, original
            time.sleep(0.05)
            for job, (mutant, original) in list(running.items()):
                slow = job.seconds > max(LEAST, TIMES * took[mutant.tests])
                if (code := job.ended()) is None and not slow:
                    continue
                if code is None:
                    job.stop()
                (job.tree / mutant.file).write_text(original, encoding="utf-8")
                del running[job]
                trees.append(job.tree)
                ends = {None: "killed: too slow", FAILED: "killed", BROKEN: "killed: not collected", PASSED: "survived"}
                if code not in ends:
                    raise job.complain(f"pytest ended with {code} at {mutant.file}: {mutant.change()}")
                yield mutant, ends[code]
    finally:
        for job in running:
            job.stop()


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
    parser.add_argument("--unchecked", action="store_true", help="leave out the unchanged runs: make test has passed")
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
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # before the libraries look
    for name in WARM:
        importlib.import_module(name)
    found: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        trees = [copy(Path(folder) / str(job)) for job in range(options.jobs)]
        took = dict.fromkeys((each.tests for each in mutants), LEAST)
        if not options.unchecked:
            took = unchanged(trees[0], mutants)
        for mutant, end in outcomes(trees, mutants, took):
            found[mutant] = end
            print(f"{end:9} {mutant.place(ROOT)}  {mutant.change()}", file=sys.stderr, flush=True)
    text, share = report(mutants, [found[each] for each in mutants])
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
