"""`python -m faults.wrapped <crash file> <bug> <process>`: one of Haven's processes, with places where it may die.

What it runs is what `haven <process>` runs; the places are put around its functions from outside. It dies at one of them,
as by `kill -9`, when the crash file names it: `before commit 3` is the third time that a transaction is about to commit. A
bug (`faults.bugs`) is what a test of the test puts in; empty for none.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Any

from events.log.store import EventLog
from events.sealing import KeyStore
from faults.bugs import BUGS
from services.cli import main as haven

EXIT_KILLED = 137


class Point(StrEnum):
    """Where a process may die."""

    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit"
    BEFORE_ACK = "before ack"
    AFTER_ACK = "after ack"
    DEAD_LETTER_KEPT = "between dead letter and commit"
    BEFORE_PRODUCE = "before produce"
    BEFORE_FLUSH = "before flush"
    BEFORE_CURSOR_MOVE = "before cursor move"
    AFTER_CURSOR_MOVE = "after cursor move"
    BEFORE_LETTER_MARKED = "before dead letter marked as told"
    AFTER_LETTER_MARKED = "after dead letter marked as told"
    BEFORE_KEY_DESTROYED = "before key destroyed"
    AFTER_KEY_DESTROYED = "after key destroyed"


class CrashFile:
    """Says where the process shall die, and at which pass. Without the file it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._passes = 0
        self._guard = threading.Lock()

    def arm(self, point: Point, nth: int) -> None:
        """From outside: the process dies when it comes by for the nth time from now."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(f"{point} {nth}")
        draft.replace(self.path)

    def disarm(self) -> None:
        self.path.unlink(missing_ok=True)

    def passed(self, point: Point) -> None:
        """From inside: ends the process at once if this is where."""
        try:
            name, _, nth = self.path.read_text().rpartition(" ")
        except FileNotFoundError:
            return
        if name == point:
            with self._guard:
                self._passes += 1
                if self._passes >= int(nth):
                    os._exit(EXIT_KILLED)


def install(crash: CrashFile, process: str) -> None:
    """Puts the points around the functions of this process."""
    transaction = EventLog._transaction

    @contextmanager
    def dying_transaction(log: EventLog) -> Iterator[Any]:
        with transaction(log) as tx:
            yield tx
            crash.passed(Point.BEFORE_COMMIT)

    EventLog._transaction = dying_transaction  # type: ignore[method-assign,assignment]
    around(EventLog, "_committed", crash, before=Point.AFTER_COMMIT)
    if process == "relay":
        _around_the_relay(crash)
    elif process != "gateway":
        _around_a_worker(crash)


def _around_the_relay(crash: CrashFile) -> None:
    from events.kafka.relay import _Leader  # noqa: PLC0415 - a gateway loads no client of a broker

    around(_Leader, "_send", crash, before=Point.BEFORE_PRODUCE, after=Point.BEFORE_CURSOR_MOVE)
    around(_Leader, "_wait_until_acknowledged", crash, before=Point.BEFORE_FLUSH)
    around(_Leader, "_move", crash, after=Point.AFTER_CURSOR_MOVE)
    around(_Leader, "_mark_told", crash, before=Point.BEFORE_LETTER_MARKED, after=Point.AFTER_LETTER_MARKED)


def _around_a_worker(crash: CrashFile) -> None:
    from faust import Event  # noqa: PLC0415

    from events.kafka import dead_letters  # noqa: PLC0415

    around(Event, "ack", crash, before=Point.BEFORE_ACK, after=Point.AFTER_ACK)
    around(dead_letters, "keep", crash, after=Point.DEAD_LETTER_KEPT)
    around(KeyStore, "destroy", crash, before=Point.BEFORE_KEY_DESTROYED, after=Point.AFTER_KEY_DESTROYED)


def around(owner: Any, name: str, crash: CrashFile, before: Point | None = None, after: Point | None = None) -> None:
    """Puts points before and after a function of a class or module."""
    original: Callable[..., Any] = getattr(owner, name)

    @wraps(original)
    def passing(*arguments: Any, **named: Any) -> Any:
        if before:
            crash.passed(before)
        result = original(*arguments, **named)
        if after:
            crash.passed(after)
        return result

    setattr(owner, name, passing)


def main() -> None:
    crash_file, bug, process = sys.argv[1:]
    install(CrashFile(Path(crash_file)), process)
    if bug:
        BUGS[bug].install()
    sys.argv = ["haven", process]
    haven()


if __name__ == "__main__":
    main()
