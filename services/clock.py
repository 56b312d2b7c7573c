"""The clocks a node can run on. Only process entry points make one; everything else is given it."""

import json
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from services.config import BadSetting, Settings

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
    """Time that runs `speed` times as fast, for exercises. It goes on while the node is down, as the world does: where it
    began is kept in a file, with its speed. It goes back no more than what it reads."""

    def __init__(self, speed: float, kept_in: Path, read: Clock = lambda: datetime.now(UTC)) -> None:
        self._read = read
        self._began, self.speed = _exercise_began(kept_in, read(), speed)

    def __call__(self) -> datetime:
        return self._began + (self._read() - self._began) * self.speed


def clock_of(settings: Settings) -> Clock:
    """The clock a process runs on. Raises BadSetting when the data directory belongs to an exercise at another speed."""
    kept_in = settings.data_dir / "exercise-clock.json"
    if settings.exercise_speed == 1 and not kept_in.exists():
        return SteadyClock()
    clock = ExerciseClock(settings.exercise_speed, kept_in, SteadyClock())
    if clock.speed != settings.exercise_speed:
        # Real time lies behind what this exercise has reached: going back would undo every deadline in its log.
        raise BadSetting(
            "HAVEN_EXERCISE_SPEED",
            f"{settings.data_dir} belongs to an exercise at speed {clock.speed:g}; set that, or use another directory.",
        )
    return clock


def _exercise_began(kept_in: Path, now: datetime, speed: float) -> tuple[datetime, float]:
    if not kept_in.exists():
        kept_in.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several processes of one exercise may start at once: whoever links first says when it began, for all of them.
        with tempfile.NamedTemporaryFile("w", dir=kept_in.parent, delete=False) as draft:
            json.dump({"began": now.isoformat(), "speed": speed}, draft)
        with suppress(FileExistsError):
            os.link(draft.name, kept_in)
        Path(draft.name).unlink()
    kept = json.loads(kept_in.read_text())
    return datetime.fromisoformat(kept["began"]), float(kept["speed"])


def real_time() -> datetime:
    """For tokens and sign-in, which live in real time even during an exercise."""
    return datetime.now(UTC)
