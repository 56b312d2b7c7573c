"""The clocks a node can run on. Only process entry points make one; everything else is given it."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

Clock = Callable[[], datetime]


class SteadyClock:
    """Real UTC time that never goes back in this process, whatever happens to the machine's clock."""

    def __init__(self, read: Clock = lambda: datetime.now(UTC)) -> None:
        self._read = read
        self._last = datetime.min.replace(tzinfo=UTC)
        self._guard = threading.Lock()

    def __call__(self) -> datetime:
        with self._guard:
            self._last = max(self._last, self._read())
            return self._last


class ExerciseClock:
    """Time that runs `speed` times as fast, for exercises. It goes on while the node is down, as the world does, and
    never goes back: where it began is kept in a file, with its speed."""

    def __init__(self, speed: float, kept_in: Path, read: Clock = lambda: datetime.now(UTC)) -> None:
        self._read = read
        self._began, self.speed = _exercise_began(kept_in, read(), speed)

    def __call__(self) -> datetime:
        return self._began + (self._read() - self._began) * self.speed


def _exercise_began(kept_in: Path, now: datetime, speed: float) -> tuple[datetime, float]:
    try:
        kept = json.loads(kept_in.read_text())
        return datetime.fromisoformat(kept["began"]), float(kept["speed"])
    except FileNotFoundError:
        waiting = kept_in.with_suffix(".new")
        waiting.write_text(json.dumps({"began": now.isoformat(), "speed": speed}))
        waiting.replace(kept_in)
        return now, speed


def real_time() -> datetime:
    """For tokens and sign-in, which live in real time even during an exercise."""
    return datetime.now(UTC)
