"""How many households needed a bed abroad, year by year: what is counted of each request, and what is published of the
counts. Pure.

A request is followed for thirty days from its opening; what it is counted as then stands, whatever happens later. So the
figures of a year are complete on 1 February, are published from that day, and never change: two looks at them, or figures of
two years, differ in nobody. docs/adr/0029 says why so, and why nothing is published of the running year.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec

from events.envelope import Event
from events.placement import (
    PlacementConfirmed,
    ProposalLapsed,
    RelocationRequestOpened,
    RequestWithdrawn,
    Rule,
    UnmetNeedRecorded,
)
from reference import Reference
from services.gateway.suppression import Cell, Partition, hidden

FOLLOWED = timedelta(days=30)
FIRST_YEAR = 2026
"""Before it nobody was counted."""
ZONE = ZoneInfo("Europe/Brussels")
"""Whose calendar a year and a quarter are of: all three countries share it."""
QUARTERS = ("Q1", "Q2", "Q3", "Q4")
SEVERAL = "several"
"""Not one region of the country of danger: several, or none named, which is the whole country."""
NOTHING_MISSING = "nothing"
NOT_PLACED = ""


class Missing(StrEnum):
    """What the units that came closest lacked when a search first ended without a bed: the rule at which they failed. The
    rules are tried in one order, so a unit that fails a later one has passed those before it."""

    SAFE_PLACE = "safe_place"
    HOUSEHOLD_ACCEPTED = "household_accepted"
    CONSENT = "consent"
    SUPPORT = "support"
    REPORT = "report"
    SPACE = "space"
    OPENING_HOURS = "opening_hours"
    YES = "yes"


_MISSING_BY_RULE: Mapping[Rule, Missing] = {
    Rule.NOT_IN_DANGER_COUNTRY: Missing.SAFE_PLACE,
    Rule.OUTSIDE_DANGER_ZONES: Missing.SAFE_PLACE,
    Rule.CHILD_TRACK_FOR_PRESUMED_MINORS: Missing.HOUSEHOLD_ACCEPTED,
    Rule.ADULT_TRACK_FOR_ADULTS: Missing.HOUSEHOLD_ACCEPTED,
    Rule.ACCEPTS_HOUSEHOLD: Missing.HOUSEHOLD_ACCEPTED,
    Rule.COUNTRY_NOT_REFUSED: Missing.CONSENT,
    Rule.MEETS_NEEDS: Missing.SUPPORT,
    Rule.CAPACITY_IS_KNOWN: Missing.REPORT,
    Rule.KEEPS_HOUSEHOLD_TOGETHER: Missing.SPACE,
    Rule.OPEN_NOW: Missing.OPENING_HOURS,
    Rule.NOT_TRIED_BEFORE: Missing.YES,
}
"""In the order in which matching tries its rules (`HARD_RULES`)."""


class Waited(StrEnum):
    """From opening to a placement that both countries signed and whose bed was certain."""

    DAY = "day"
    THREE_DAYS = "three_days"
    WEEK = "week"
    THIRTY_DAYS = "thirty_days"


_WAITED_UNDER = (
    (timedelta(days=1), Waited.DAY),
    (timedelta(days=3), Waited.THREE_DAYS),
    (timedelta(days=7), Waited.WEEK),
)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted of one request: codes, and nothing that is its own."""

    quarter: str
    """Of its opening, "2026Q4"."""
    country: str
    """Of danger."""
    region: str
    """Of danger, or `SEVERAL`."""
    host: str = NOT_PLACED
    """The country it was placed in."""
    waited: str = ""
    missing: str = NOTHING_MISSING


def counted_at_opening(opened: RelocationRequestOpened, at: datetime) -> Counted:
    day = at.astimezone(ZONE)
    named = {zone.code for zone in opened.danger_zones if zone.code[:2] == opened.danger_country}
    only = named.pop() if len(named) == 1 else SEVERAL
    return Counted(
        quarter=f"{day.year}{QUARTERS[(day.month - 1) // 3]}",
        country=opened.danger_country,
        region=SEVERAL if only == opened.danger_country else only,
    )


def counted_after(counted: Counted, event: Event, opened_at: datetime) -> Counted:
    """The same after `event`; only to be asked while the household is not erased, for that undoes nothing."""
    waited = event.time - opened_at
    if waited >= FOLLOWED:
        return counted
    match event.data:
        case PlacementConfirmed(host_country=host):
            span = next((span for limit, span in _WAITED_UNDER if waited < limit), Waited.THIRTY_DAYS)
            return msgspec.structs.replace(counted, host=host, waited=span)
        case ProposalLapsed() | RequestWithdrawn():
            return msgspec.structs.replace(counted, host=NOT_PLACED, waited="")
        case UnmetNeedRecorded(failed_rules=failed) if counted.missing == NOTHING_MISSING:
            return msgspec.structs.replace(counted, missing=_closest(failed))
        case _:
            return counted


def _closest(failed_rules: Mapping[str, int]) -> Missing:
    """Without any unit there is no safe place either."""
    found = [missing for rule, missing in _MISSING_BY_RULE.items() if failed_rules.get(rule)]
    return found[-1] if found else Missing.SAFE_PLACE


# What is published


def published_from(year: int) -> datetime:
    """From when the figures of a year are out: its last requests have then been followed for thirty days and more."""
    return datetime(year + 1, 2, 1, tzinfo=ZONE)


def last_published(now: datetime) -> int:
    """The last year whose figures are out; before `FIRST_YEAR` if none are."""
    year = now.astimezone(ZONE).year - 1
    return year if now >= published_from(year) else year - 1


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one country of danger in one year; None: not shown."""

    country: str
    requests: int | None
    placed: dict[str, int | None]
    host: dict[str, int | None]
    waited: dict[str, int | None]
    missing: dict[str, int | None]
    region: dict[str, int | None]
    quarter: dict[str, int | None]


TABLES = Figures.__struct_fields__[2:]
ALL: Cell = ()
"""Every request of the country and year. There is no count over several countries: with it, hiding a small country would cost
another its figures."""
PLACED: Cell = ("placed", "yes")


def partitions_of(country: str, reference: Reference) -> tuple[Partition, ...]:
    """The published tables of a country, always these: what can be asked for freely can be asked for until it tells."""

    def split(whole: Cell, table: str, *names: str) -> Partition:
        return Partition(whole, tuple((table, name) for name in names))

    hosts = (other for other in reference.countries if other != country)
    return (
        split(ALL, "placed", "no", "yes"),
        split(PLACED, "host", *hosts),
        split(PLACED, "waited", *reversed(Waited)),
        split(ALL, "missing", NOTHING_MISSING, *Missing),
        split(ALL, "region", SEVERAL, *reference.regions_of(country)),
        split(ALL, "quarter", *QUARTERS),
    )


def figures_of(counted: Iterable[tuple[Counted, int]], reference: Reference) -> Iterator[Figures]:
    """What is published of one year: of each country of danger, by how many requests were counted as what."""
    counts: dict[str, Counter[Cell]] = {country: Counter() for country in reference.countries}
    for one, requests in counted:
        for cell in _cells_of(one):
            counts[one.country][cell] += requests
    for country, found in counts.items():
        yield _figures(country, found, partitions_of(country, reference))


def _cells_of(one: Counted) -> Iterator[Cell]:
    yield ALL
    yield "placed", "no" if one.host == NOT_PLACED else "yes"
    if one.host != NOT_PLACED:
        yield "host", one.host
        yield "waited", one.waited
    yield "missing", one.missing
    yield "region", one.region
    yield "quarter", one.quarter[-2:]


def _figures(country: str, found: Mapping[Cell, int], partitions: tuple[Partition, ...]) -> Figures:
    counts = {cell: found.get(cell, 0) for cell in (ALL, *(part for one in partitions for part in one.parts))}
    kept_back = hidden(counts, partitions)
    tables: dict[str, dict[str, int | None]] = {table: {} for table in TABLES}
    for cell, count in counts.items():
        if cell != ALL:
            table, name = cell
            tables[table][name] = None if cell in kept_back else count
    return Figures(country=country, requests=None if ALL in kept_back else counts[ALL], **tables)
