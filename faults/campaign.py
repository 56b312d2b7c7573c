"""One campaign: a fault again and again while people work, then the verdict."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.campaigns import Fault, PointNotReached
from faults.site import Recovery, Site
from faults.verdict import Finding, judge

WARM_UP_SECONDS = 1.0
TRIES = 3
"""How often it is tried to bring a process to the point where it shall die."""


@dataclass
class Row:
    """What came of one fault; the keys of `build/faults.json`."""

    fault: str
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    recovery_p50_s: float | None = None
    recovery_p99_s: float | None = None
    recovery_s: list[float] = field(default_factory=list)
    not_recovered: int = 0
    acknowledged: int = 0
    requests_per_second: float = 0.0
    not_reached: int = 0
    """Runs in which the process did not come by the place where it was to die: not counted as runs."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Processes that ended by themselves and were started again by the supervisor."""
    checks: list[str] = field(default_factory=list)
    """Checks of the verdict that found something."""
    note: str = ""
    with_others: bool = False
    """Done while others were done: what was lost or doubled is counted in each row, and may be of any of them."""

    def add(self, more: "Row") -> None:
        """Counts the same fault, done again on another installation, into this row."""
        self.runs += more.runs
        self.lost += more.lost
        self.doubled += more.doubled
        self.not_recovered += more.not_recovered
        self.acknowledged += more.acknowledged
        self.not_reached += more.not_reached
        self.requests_per_second = min(self.requests_per_second, more.requests_per_second)
        self.restarts = dict(Counter(self.restarts) + Counter(more.restarts))
        self.checks = list(dict.fromkeys(self.checks + more.checks))
        self.note = "; ".join(note for note in (self.note, more.note) if note)
        self.with_others |= more.with_others
        self.recovered(self.recovery_s + more.recovery_s)

    def recovered(self, seconds: list[float]) -> None:
        self.recovery_s = [round(one, 2) for one in seconds]
        self.recovery_p50_s, self.recovery_p99_s = (percentile(seconds, share) for share in (0.5, 0.99))

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.checks or self.not_recovered) and self.runs > 0


def folder() -> Path:
    """A new one which PostgreSQL's own user may pass through."""
    made = Path(tempfile.mkdtemp(prefix="haven-faults-"))
    made.chmod(0o755)
    return made


class Campaign:
    """Faults on one site, one after the other. A finding counts for the fault after which it was seen first."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._known: set[Finding] = set()

    def run(self, fault: Fault, runs: int) -> Row:
        """One fault, so many times."""
        [row] = self.run_together([(fault, runs)])
        return row

    def run_together(self, faults: Sequence[tuple[Fault, int]]) -> list[Row]:
        """Several at once, each so many times. How long each was felt cannot be told then: another was felt meanwhile."""
        site, rows = self.site, [Row(fault.name, with_others=len(faults) > 1) for fault, _ in faults]
        site.recovery = Recovery()
        before, restarts, acknowledged = (
            Counter(site.client.counts),
            site.ended_by_themselves,
            len(site.journal.command_ids),
        )
        begun = time.monotonic()
        site.load.start()
        try:
            time.sleep(WARM_UP_SECONDS)
            with ThreadPoolExecutor(len(faults)) as strikers:
                for done in [
                    strikers.submit(self._strike_again_and_again, fault, runs, row)
                    for (fault, runs), row in zip(faults, rows, strict=True)
                ]:
                    done.result()
        finally:
            site.load.stop()
        seconds = time.monotonic() - begun
        verdict = judge(site)
        fresh = [finding for finding in verdict.findings if finding not in self._known]
        self._known |= set(fresh)
        for row in rows:
            row.lost, row.doubled = sum(it.lost for it in fresh), sum(it.doubled for it in fresh)
            row.checks = list(dict.fromkeys(it.check for it in fresh))
            row.note = "; ".join(f"{it.check}: {it.detail}" for it in fresh)[:2000]
            row.acknowledged = verdict.acknowledged - acknowledged
            row.requests_per_second = round((site.client.counts - before)["answers"] / seconds, 1)
            row.not_recovered = site.recovery.never
            row.restarts = dict(site.ended_by_themselves - restarts)
            if not row.with_others:
                row.recovered(site.recovery.seconds)
        return rows

    def _strike_again_and_again(self, fault: Fault, runs: int, row: Row) -> None:
        for _ in range(runs):
            self._strike(fault, row)
            time.sleep(self.site.rng.random() / 2)

    def _strike(self, fault: Fault, row: Row) -> None:
        for _ in range(TRIES):
            try:
                fault.strike(self.site)
            except PointNotReached as missed:
                row.not_reached += 1
                row.note = str(missed)
            else:
                row.runs += 1
                return


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest rank; of few values it is the greatest."""
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 2) if values else None


HEADINGS = ("fault", "runs", "lost", "doubled", "p50 s", "p99 s", "acknowledged", "req/s", "")


def line(row: Row) -> tuple[Any, ...]:
    found = ", ".join(row.checks) or ("" if row.clean else "NOT TRIED" if not row.runs else "NOT RECOVERED")
    return (
        row.fault,
        row.runs,
        row.lost,
        row.doubled,
        "" if row.recovery_p50_s is None else f"{row.recovery_p50_s:.1f}",
        "" if row.recovery_p99_s is None else f"{row.recovery_p99_s:.1f}",
        row.acknowledged,
        row.requests_per_second,
        found,
    )
