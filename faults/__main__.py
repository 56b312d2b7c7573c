"""`python -m faults`: breaks everything, prints a table and writes `build/faults.json`.

Exit status 1 if anything was lost or done twice, 0 if not.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from deploy.stack import NOT_BY_ITSELF, PROCESSES
from faults.bugs import BUGS
from faults.campaign import HEADINGS, Campaign, Row, folder, line
from faults.campaigns import FAULTS, Fault, is_meant
from faults.seeded import campaign as seeded
from faults.site import Site
from services.connections import AT_ONCE

RESULT = Path("build/faults.json")
COUNTS = {"relay": 2, "placement": 2, "capacity": 2, "gateway": 2}
"""How many processes of a kind there are, if not said otherwise; one of every other."""
BREAKABLE = tuple(kind for kind in PROCESSES if kind not in NOT_BY_ITSELF)
RATE = 24.0
"""Requests a second that people want to make, if not said otherwise; some of them are then sent twice."""
WIDTHS = (44, 5, 5, 8, 6, 6, 13, 6, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--runs", type=runs, default="short", help="short, full, or the most runs of each fault (default: short)"
    )
    parser.add_argument(
        "--list", action="store_true", help="say what there is, how often in the short form and in the full one"
    )
    parser.add_argument(
        "--only",
        type=patterns,
        default=patterns(""),
        help="only what is called so: regular expressions, separated by commas",
    )
    parser.add_argument(
        "--processes", type=processes, default=COUNTS, help="how many of a kind, as in relay=3,projection=2"
    )
    parser.add_argument("--apart", action="store_true", help="each on an installation of its own, as --runs full does")
    parser.add_argument("--together", action="store_true", help="all of them at once, on one installation")
    parser.add_argument("--add", action="store_true", help="count what is done to what the result's file has already")
    parser.add_argument("--seeded", action="store_true", help="instead: put bugs in on purpose, each must be caught")
    parser.add_argument("--seed", type=int, default=1, help="of what people do and of what is broken when")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second that people want to make")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    if not any(is_meant(chosen.only, name) for name in (BUGS if chosen.seeded else [it.name for it in FAULTS])):
        parser.error("nothing is called so; --list says what there is")
    if chosen.list:
        return listed(chosen.only, BUGS if chosen.seeded else ())
    if chosen.seeded:
        return seeded(chosen.only, chosen.seed, say)
    faults = wanted(chosen.runs, chosen.only)
    if not faults:
        parser.error("what is called so is not in the short form; say how often with --runs")
    say(*HEADINGS)
    known = msgspec.json.decode(chosen.result.read_bytes(), type=list[Row]) if chosen.add else []
    rows = {row.fault: row for row in known}
    apart = chosen.apart or chosen.runs == "full"
    clean = []
    for row in run(faults, chosen.seed, chosen.rate, chosen.processes, apart=apart, together=chosen.together):
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


def processes(said: str) -> dict[str, int]:
    """How many processes of each kind, from `kind=number,...`. Raises ArgumentTypeError."""
    counts = dict(COUNTS)
    for one in said.split(","):
        kind, _, number = one.strip().partition("=")
        if kind not in BREAKABLE or not number.isdecimal() or not 1 <= int(number) <= AT_ONCE:
            raise argparse.ArgumentTypeError(f"{one!r} is not kind=1 to {AT_ONCE}, of {', '.join(BREAKABLE)}")
        counts[kind] = int(number)
    return counts


def patterns(said: str) -> list[re.Pattern[str]]:
    """Regular expressions separated by commas. Raises ArgumentTypeError."""
    try:
        return [re.compile(one.strip(), re.IGNORECASE) for one in said.split(",")]
    except re.error as wrong:
        raise argparse.ArgumentTypeError(f"{said!r} is no regular expression: {wrong}") from None


def runs(said: str) -> str:
    """How often each. Raises ArgumentTypeError."""
    if said not in ("short", "full") and not (said.isdecimal() and int(said)):
        raise argparse.ArgumentTypeError(f"{said!r} is neither short, full nor a number")
    return said


def listed(only: Sequence[re.Pattern[str]], bugs: Iterable[str]) -> int:
    """Says what there is; the exit status."""
    for bug in bugs:
        if is_meant(only, bug):
            say(bug)
    if not bugs:
        say("fault", "short", "full")
        for fault in FAULTS:
            if is_meant(only, fault.name):
                say(fault.name, fault.short, fault.full)
    return 0


def wanted(runs: str, only: Sequence[re.Pattern[str]]) -> list[tuple[Fault, int]]:
    """Which faults how often."""

    def times(fault: Fault) -> int:
        match runs:
            case "short":
                return fault.short
            case "full":
                return fault.full
            case most:
                return min(fault.full, int(most))

    chosen = [(fault, times(fault)) for fault in FAULTS if is_meant(only, fault.name)]
    return [(fault, count) for fault, count in chosen if count]


def run(
    faults: Sequence[tuple[Fault, int]],
    seed: int,
    rate: float,
    counts: Mapping[str, int],
    *,
    apart: bool = False,
    together: bool = False,
) -> Iterator[Row]:
    """One row for each fault; `apart`: each on an installation of its own; `together`: all at the same time."""
    for group in [[one] for one in faults] if apart and not together else [list(faults)]:
        place = folder()
        try:
            with Site(place, seed=seed, rate=rate, counts=counts) as site:
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
