"""`python -m faults`: breaks everything, prints a table and writes `build/faults.json`.

Exit status 1 if anything was lost or done twice, 0 if not.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from faults.campaign import HEADINGS, Campaign, Row, folder, line
from faults.campaigns import FAULTS, Fault
from faults.seeded import campaign as seeded
from faults.site import Site

RESULT = Path("build/faults.json")
COUNTS = {"relay": 2, "placement": 2, "capacity": 2, "gateway": 2}
RATE = 24.0
"""Requests a second that people want to make, if not said otherwise; some of them are then sent twice."""
WIDTHS = (44, 5, 5, 8, 6, 6, 13, 6, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", default="short", help="short, full, or the most runs of each fault (default: short)")
    parser.add_argument("--only", default="", help="only faults whose name contains this; several separated by commas")
    parser.add_argument("--together", action="store_true", help="all of them at once, on one installation")
    parser.add_argument("--add", action="store_true", help="count what is done to what the result's file has already")
    parser.add_argument("--seeded", action="store_true", help="instead: put bugs in on purpose, each must be caught")
    parser.add_argument("--seed", type=int, default=1, help="of what people do and of what is broken when")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second that people want to make")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    if chosen.seeded:
        return seeded(chosen.only, chosen.seed, say)
    say(*HEADINGS)
    known = msgspec.json.decode(chosen.result.read_bytes(), type=list[Row]) if chosen.add else []
    rows = {row.fault: row for row in known}
    apart = chosen.runs == "full"
    clean = []
    for row in run(wanted(chosen.runs, chosen.only), chosen.seed, chosen.rate, apart=apart, together=chosen.together):
        say(*line(row))
        clean.append(row.clean)
        if row.fault in rows:
            rows[row.fault].add(row)
        else:
            rows[row.fault] = row
        chosen.result.parent.mkdir(exist_ok=True)
        said = msgspec.json.encode([asdict(row) for row in rows.values()])
        chosen.result.write_bytes(msgspec.json.format(said) + b"\n")
    return 0 if clean and all(clean) else 1


def wanted(runs: str, only: str) -> list[tuple[Fault, int]]:
    """Which faults how often."""

    def times(fault: Fault) -> int:
        match runs:
            case "short":
                return fault.short
            case "full":
                return fault.full
            case most:
                return min(fault.full, int(most))

    parts = [part.strip() for part in only.split(",")]
    chosen = [(fault, times(fault)) for fault in FAULTS if any(part in fault.name for part in parts)]
    return [(fault, count) for fault, count in chosen if count]


def run(
    faults: Sequence[tuple[Fault, int]], seed: int, rate: float, *, apart: bool = False, together: bool = False
) -> Iterator[Row]:
    """One row for each fault; `apart`: each on an installation of its own; `together`: all at the same time."""
    for group in [[one] for one in faults] if apart else [list(faults)]:
        place = folder()
        try:
            with Site(place, seed=seed, rate=rate, counts=COUNTS) as site:
                campaign = Campaign(site)
                if together:
                    yield from campaign.run_together(group)
                    continue
                for fault, runs in group:
                    yield campaign.run(fault, runs)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def say(*cells: Any) -> None:
    line_of_cells = "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, WIDTHS, strict=False))
    sys.stdout.write(f"{line_of_cells.rstrip()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
