"""Stop in good order when a scheduler wants its machine back: it sends a signal, and kills a little later (torch-free).

TERM, USR1, USR2, and the HUP of a closed terminal only set a flag, because a signal arrives between any two
instructions. The loop looks at the flag after every step and every batch of an evaluation, writes a checkpoint and ends
the command with exit status 75 (EX_TEMPFAIL: the same command goes on from there).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
EXIT_STATUS = 75


class Preempted(SystemExit):
    """End the command, a sweep's remaining jobs included, with exit status 75.

    ``signal``: USR1 and USR2 ask for another turn later, TERM may as well be somebody's wish to cancel.
    """

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(EXIT_STATUS)
        self.signal = signum

    def __str__(self) -> str:
        return f"stopped by signal {self.signal.name}"


class Preemption:
    """Let the signals set ``signal`` instead of ending the process while a block lasts; a context manager.

    Only the main thread of a process can do this; elsewhere the signals stay as they are, and so does one that is
    ignored (HUP under nohup).
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            heeded = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {each: signal.signal(each, self._note) for each in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Raise Preempted when one of the signals has come."""
        if self.signal is not None:
            raise Preempted(self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
