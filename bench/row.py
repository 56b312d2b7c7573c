"""One line of the result, and how samples become it."""

import time
from collections.abc import Callable
from statistics import median

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`goal` speaks of the ratio to the anchor (`>= 3 x`) or of the value itself (`<= 10 ms`); empty: for context."""

    name: str
    value: float
    unit: str
    anchor: str = ""
    anchor_value: float | None = None
    ratio: float | None = None
    goal: str = ""

    @property
    def reached(self) -> bool | None:
        """None without a goal."""
        if not self.goal:
            return None
        relation, limit, unit = self.goal.split(" ", 2)
        measured = self.ratio if unit == "x" else self.value
        assert measured is not None, f"{self.name}: a goal on a ratio needs an anchor"
        return measured >= float(limit) if relation == ">=" else measured <= float(limit)


def compared(name: str, unit: str, ours: list[float], anchor: str, theirs: list[float], goal: str) -> Row:
    """The medians of both, and their ratio."""
    value, anchor_value = median(ours), median(theirs)
    return Row(
        name=name,
        value=round(value, 1),
        unit=unit,
        anchor=anchor,
        anchor_value=round(anchor_value, 1),
        ratio=round(value / anchor_value, 2),
        goal=goal,
    )


def per_second(count: int, work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def percentile(samples: list[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]
