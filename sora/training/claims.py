"""Who trains a run: one process at a time, on all machines that share the folder of runs (torch-free).

A claim is a numbered file in ``<run>/claim/``, made with O_EXCL, which a network file system honours too (flock is not
to be had there). The highest number holds the run. A successor makes the next number, so of several exactly one
succeeds, and no file is ever removed under somebody who still looks at it: the highest one stays, marked as released.

The holder touches its file every ``BEAT_S`` seconds. It counts as gone when its process is no more, which its own
machine can see at once, or when somebody has watched the file for ``STALE_S`` seconds without a touch: no two clocks
are compared. A holder that was suspended for so long finds its number surpassed, and writes nothing more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sora.errors import TakenOver, UserError
from sora.files import write_text

BEAT_S = 10.0
STALE_S = 60.0


@dataclass(frozen=True)
class Claim:
    """The right to train one run: file ``number`` of its claim folder."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number:08d}.json"

    def held(self) -> bool:
        """Whether nobody took the run over, nor emptied the folder."""
        return _highest(self.folder) == self.number

    def release(self) -> None:
        """Let the next process have the run at once."""
        write_text(self.path, json.dumps({"released": True}) + "\n")


class Claims:
    """The claims of a pack and the thread that keeps them alive; :func:`claimed` makes and ends them."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}  # by run id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def verify(self) -> None:
        """Raise TakenOver when a run was taken over: what would be written now is another process's business."""
        for run_id, claim in self.claims.items():
            if not claim.held():
                raise TakenOver(
                    f"{claim.folder}: run {run_id} was taken over by another process, because this one gave no sign of "
                    f"life for {STALE_S:g} s; nothing more is written here, leave the run to the other"
                )

    def holds(self, run_id: str) -> bool:
        """Whether the run is still this process's."""
        return self.claims[run_id].held()

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for claim in self.claims.values():
            # A full disk must not hide why the training ended: the claim of a dead process is taken over anyway.
            with contextlib.suppress(OSError, UserError):
                if claim.held():
                    claim.release()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            for claim in list(self.claims.values()):
                with contextlib.suppress(OSError):  # taken over (verify tells), or the server is away for a while
                    os.utime(claim.path)


@contextlib.contextmanager
def claimed(folders: Mapping[str, Path]) -> Iterator[Claims]:
    """Hold the runs (run id -> run folder) while the block lasts.

    Raises:
        UserError: another process holds one of them, or the folder cannot be written.
    """
    with Claims() as claims:
        for run_id in sorted(folders):  # in one order, so that two packs with common runs do not refuse each other
            claims.claims[run_id] = _acquire(folders[run_id] / "claim", run_id)
        yield claims


def holder(run: Path) -> dict[str, Any] | None:
    """Who trains the run whose folder is ``run``, as far as one look can tell: ``host``, ``pid``, ``since``; else None.

    A holder on another machine counts as gone when its last touch is ten times ``STALE_S`` old by this machine's clock.
    """
    number = _highest(run / "claim")
    claim = Claim(run / "claim", number)
    owner = _read(claim) if number else {}
    touched = _touched(claim) if number else None
    if touched is None or not owner or owner.get("released") or _gone(owner):
        return None
    return owner if owner.get("machine") == _machine() or time.time() - touched / 1e9 < 10 * STALE_S else None


def _acquire(folder: Path, run_id: str) -> Claim:
    while True:
        number = _highest(folder)
        if number:
            _wait_for_release(Claim(folder, number), run_id)
        claim = Claim(folder, number + 1)
        if _create(claim) and claim.held():
            for older in _numbers(folder) - {claim.number}:
                Claim(folder, older).path.unlink(missing_ok=True)
            return claim


def _create(claim: Claim) -> bool:
    """Make the file of a claim; False when somebody else was first."""
    made = False
    try:
        claim.folder.mkdir(parents=True, exist_ok=True)
        with claim.path.open("x", encoding="utf-8") as file:
            made = True
            file.write(json.dumps(_owner()) + "\n")
    except FileExistsError:
        return False
    except OSError as error:
        if made:  # a full disk: without its holder's name the file would keep everybody waiting
            claim.path.unlink(missing_ok=True)
        raise UserError(
            f"{claim.path}: cannot be written ({error.strerror}); free some space, or set paths.runs to a folder that "
            "can be written"
        ) from error
    return True


def _wait_for_release(claim: Claim, run_id: str) -> None:
    """Return when the claim is released, surpassed or stale. Raises UserError when its holder is alive."""
    since, seen = time.monotonic(), _touched(claim)
    while seen is not None and claim.held():
        owner = _read(claim)
        if owner.get("released") or _gone(owner):
            return
        here = bool(_machine()) and owner.get("machine") == _machine()
        if here or _touched(claim) != seen:
            owner = _read(claim)  # it may have been empty before
            raise UserError(
                f"{claim.folder.parent}: another process is training run {run_id} (process {owner.get('pid')} on "
                f"{owner.get('host')}, since {owner.get('since')}); wait for it, or leave this run out"
            )
        if time.monotonic() - since > STALE_S:
            return
        time.sleep(min(1.0, BEAT_S))


def _numbers(folder: Path) -> set[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); remove it, or set another paths.runs") from error
    return {int(name[:8]) for name in names if name[:8].isdecimal() and name[8:] == ".json"}


def _highest(folder: Path) -> int:
    """The number of the claim that counts, 0 without any."""
    return max(_numbers(folder), default=0)


def _touched(claim: Claim) -> int | None:
    """Time of the last heartbeat, by the file server's clock; None where the file is gone."""
    try:
        with claim.path.open("rb") as file:  # opening makes a network file system ask its server again
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _read(claim: Claim) -> dict[str, Any]:
    """The holder, or {} where it has not yet been written."""
    try:
        owner = json.loads(claim.path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


# -- processes -------------------------------------------------------------------------------------------------


def _owner() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> str:
    """What must be equal for two processes to see each other's numbers: boot and process namespace (Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot: numbers are used again. None where there is no such process."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]


def _gone(owner: Mapping[str, Any]) -> bool:
    """Whether the holder is known to be dead; False where this machine cannot tell."""
    if not owner.get("machine") or owner["machine"] != _machine():
        return False
    pid = owner.get("pid")
    return not isinstance(pid, int) or _started(pid) != owner.get("started")
