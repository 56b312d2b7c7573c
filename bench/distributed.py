"""From a request to its bed on hold through the distributed runtime: real PostgreSQL, real Kafka, Faust workers, relay.

Beside it, in the same run and at the same rate, the raw cost of the hops it cannot avoid: a durable insert, a message through
the broker, a durable insert, a message, a durable insert; nothing decided, nothing checked.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from bench import live
from bench.pace import at_rate
from bench.raw_hops import raw_hops
from bench.request_to_bed import Held
from bench.row import Row, percentile
from deploy.stack import UNLIMITED, Stack
from events.vocabulary import Group, Track, UnitProfile
from reference import load
from simulation.inventory import SyntheticUnit, synthetic_inventory

RATES = ((1, 30), (5, 20), (20, 20))
"""Requests a second, and for how many seconds."""
WORKERS = (1, 2, 4)
BACKLOG = 300
HISTORIES = (1_000, 100_000, 1_000_000)
BEDS = 200
COPIES = 4
"""As many units fit a request as there are in all the Benelux, and each has more beds than any has: none may run out."""


def measure() -> list[Row]:
    """All rows; about five minutes."""
    return list(rows_as_measured())


def rows_as_measured() -> Iterator[Row]:
    """The same, each when it is known."""
    # Not below a folder of this user alone: under root PostgreSQL runs as somebody else.
    folder = tempfile.mkdtemp(prefix="haven-bench-")
    try:
        counts = {"placement": 1, "capacity": 1}
        with Stack(folder, secure=False, counts=counts, inventory=_many_beds(), more=UNLIMITED) as stack:
            # The board while it has what a board has: what the rates open stays open, and is more than all the Benelux sees.
            for part in (_raw_append, _live, _held_at_rates, _throughput, _history):
                yield from part(stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _many_beds() -> Sequence[SyntheticUnit]:
    """Enough free beds that every request finds one: the latency of a hold is measured, not that of an unmet need."""
    fitting = [unit for unit in synthetic_inventory(2026, load()) if _fits(unit.profile)]
    return [
        replace(
            unit,
            profile=replace(unit.profile, unit_id=f"{unit.profile.unit_id}-{copy}"),
            beds=BEDS,
            free=BEDS,
            blocked=0,
            blocked_because=None,
        )
        for copy in range(COPIES)
        for unit in fitting
    ]


def _fits(profile: UnitProfile) -> bool:
    return profile.track is Track.ADULT and Group.WOMEN in profile.accepts and profile.open_at_night


def _raw_append(stack: Stack) -> list[Row]:
    with raw_hops(stack) as hops:
        samples = []
        for number in range(300):
            began = time.perf_counter()
            hops.insert(f"append-{number}")
            samples.append((time.perf_counter() - began) * 1000)
        through = [hops.message(number) for number in range(200)]
    return [
        Row(name="raw: one durable insert, p50", value=percentile(samples, 50), unit="ms"),
        Row(name="raw: one durable insert, p99", value=percentile(samples, 99), unit="ms"),
        Row(name="raw: produced to consumed, p50", value=percentile(through, 50), unit="ms"),
        Row(name="raw: produced to consumed, p99", value=percentile(through, 99), unit="ms"),
    ]


def _held_at_rates(stack: Stack) -> list[Row]:
    rows = []
    for rate, seconds in RATES:
        with raw_hops(stack) as hops:
            raw = at_rate(rate, seconds, hops.chain)
        held = Held(stack)
        ours = held.at_rate(rate, seconds)
        for percent in (50, 99):
            value, floor = percentile(ours, percent), percentile(raw, percent)
            rows.append(
                Row(
                    name=f"distributed: request to bed held at {rate}/s, p{percent}",
                    value=round(value, 1),
                    unit="ms",
                    anchor=f"the raw hops at {rate}/s, p{percent}",
                    anchor_value=round(floor, 1),
                    ratio=round(value / floor, 2),
                    goal="<= 2 x" if percent == 99 else "",
                )
            )
        if rate == RATES[-1][0]:
            worst = round(percentile(ours, 99), 1)
            rows.append(Row(name=f"distributed: the same at {rate}/s, p99", value=worst, unit="ms", goal="<= 100 ms"))
    return rows


def _live(stack: Stack) -> list[Row]:
    logins = json.loads((stack.data / "demo-logins.json").read_text())
    return live.rows("distributed", stack.url, stack.stream_url, logins)


def _throughput(stack: Stack) -> list[Row]:
    """Requests to beds held when a backlog waits, by how many workers of each kind share the work."""
    rows, first = [], 0.0
    for count in WORKERS:
        for kind in ("placement", "capacity"):
            stack.scale(kind, 0)
        held = Held(stack)
        held.open_many(BACKLOG)
        for kind in ("placement", "capacity"):
            stack.scale(kind, count)
        moments = sorted(held.all_held(BACKLOG))
        rate = (len(moments) - 1) / (moments[-1] - moments[0])
        first = first or rate
        rows.append(
            Row(
                name=f"distributed: backlog of {BACKLOG} requests, {count} workers of each kind",
                value=round(rate, 1),
                unit="requests/s",
                anchor="one worker of each kind",
                anchor_value=round(first, 1),
                ratio=round(rate / first, 2),
            )
        )
    for kind in ("placement", "capacity"):
        stack.scale(kind, 1)
    return rows


def _history(stack: Stack) -> list[Row]:
    """What a request costs when much has happened before it."""
    rows, first, there = [], 0.0, 0
    Held(stack).at_rate(1, 2)  # every log has been published once: its cursor is there to be moved
    stack.settle()
    for size in HISTORIES:
        _remember(stack, there, size)
        there = size
        value = percentile(Held(stack).at_rate(5, 10), 50)
        first = first or value
        rows.append(
            Row(
                name=f"distributed: request to bed held, p50, after {size:,} events",
                value=round(value, 1),
                unit="ms",
                anchor=f"after {HISTORIES[0]:,} events",
                anchor_value=round(first, 1),
                ratio=round(value / first, 2),
                goal="<= 1.5 x",
            )
        )
    return rows


def _remember(stack: Stack, first: int, last: int) -> None:
    """Puts events nobody acts on into every log, as many as would be there, with what their consumers remember of them."""
    stack.scale("relay", 0)
    consumers = {"gateway": "gateway.read_model", "placement": "placement", "capacity": "capacity"}
    with stack.administrator.connect() as connection:
        for schema, consumer in consumers.items():
            connection.exec_driver_sql(
                f"INSERT INTO {schema}.events (id, stream, version, type, record) "  # noqa: S608 - names of our own
                "SELECT 'history-' || i, 'history-' || (i / 10), mod(i, 10) + 1, 'gateway.record.consulted.v1', "
                "repeat('{', 300) FROM generate_series(%s::bigint, %s::bigint) AS i",
                (first, last - 1),
            )
            connection.exec_driver_sql(
                f"UPDATE {schema}.relay_cursors SET position = e.position, event_id = e.id "  # noqa: S608
                f"FROM (SELECT position, id FROM {schema}.events ORDER BY position DESC LIMIT 1) AS e"
            )
            connection.exec_driver_sql(
                f"INSERT INTO {schema}.inbox (consumer, source, stream, version, event_id) "  # noqa: S608
                "SELECT %s, 'gateway', 'history-' || i, 10, 'history' FROM generate_series(%s::bigint, %s::bigint) AS i",
                (consumer, first // 10, last // 10 - 1),
            )
            connection.exec_driver_sql(f"ANALYZE {schema}.events")
    stack.scale("relay", 1)


def main() -> None:
    """The distributed rows alone."""
    for row in rows_as_measured():
        print(row.name, row.value, row.unit, row.anchor_value, row.ratio, row.goal, flush=True)


if __name__ == "__main__":
    main()
