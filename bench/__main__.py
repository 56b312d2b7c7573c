"""`python -m bench`: prints the table and writes `build/bench.json`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import distributed, event_store, held, live, shortlist
from bench.row import Row

BENCHMARKS: tuple[Callable[[], list[Row]], ...] = (
    event_store.measure,
    shortlist.measure,
    held.measure,
    live.measure,
    distributed.measure,
)
"""Each returns its rows; a new measurement is one more function here."""

RESULT = Path("build/bench.json")


def main() -> None:
    started = time.monotonic()
    rows = [row for measure in BENCHMARKS for row in measure()]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    print(table(rows))
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"\n{os.cpu_count()} cores, Python {python}, {time.monotonic() - started:.0f} s, written to {RESULT}")


def table(rows: list[Row]) -> str:
    verdicts = {None: "", True: "reached", False: "NOT reached"}
    lines = [("", "Haven", "", "anchor", "ratio", "goal", "")]
    for row in rows:
        anchor = "" if row.anchor_value is None else f"{row.anchor_value:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} x"
        lines.append((row.name, f"{row.value:,.1f}", row.unit, anchor, ratio, row.goal, verdicts[row.reached]))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    left = {0, 2, 6}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    main()
