"""What differs from country to country, as data: a country joins by rows in these files, never by code.

`countries.json`, `regions.csv`, `neighbours.csv`, `tiles.csv` and `clocks.json` carry with every fact where it comes from, how old that
is, and whether anybody checked it. What is not `verified` is for a lawyer to confirm before anyone relies on it.
"""

import calendar
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from events.vocabulary import CountryCode, Freshness, LanguageCode, RegionCode, Urgency

Text = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Weekday = Annotated[int, msgspec.Meta(ge=1, le=7)]
"""ISO 8601: 1 is Monday."""

_Row = TypeVar("_Row")


class BadReferenceData(ValueError):
    """A reference file cannot be used: which file, which row of it, and what to do."""

    def __init__(self, file: str, row: str, remedy: str) -> None:
        super().__init__(f"{file}, {row}: {remedy}")
        self.file = file
        self.row = row
        self.remedy = remedy


class UnknownCountry(LookupError):
    """A country that takes no part; `code` is kept off the message because a client may have sent it."""

    def __init__(self, code: str, known: Mapping[str, object]) -> None:
        super().__init__(f"This country takes no part. Choose one of {', '.join(known)}, or add it to countries.json.")
        self.code = code


class UnknownRegion(LookupError):
    """Neither a region nor a country of the reference data; `code` is kept off the message as above."""

    def __init__(self, code: str) -> None:
        super().__init__("This is no region of a country that takes part. Choose a code from regions.csv.")
        self.code = code


class Sourced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a fact comes from."""

    source: Text
    """Title and address of the document, or the law."""
    dated: Annotated[str, msgspec.Meta(pattern=r"\A(\d{4}(-\d{2}){0,2}|undated)\Z")]
    """Year or date of the source, not of our reading it."""
    verified: bool
    """False: known, assumed or inferred, but not read in a source. For a lawyer to confirm."""


class PeriodUnit(StrEnum):
    DAYS = "days"
    MONTHS = "months"


class ReflectionPeriod(Sourced, frozen=True, kw_only=True):
    """Time to recover and decide, without expulsion (Directive 2004/81/EC art. 6)."""

    length: Count
    unit: PeriodUnit
    basis: Text

    def end(self, start: date) -> date:
        """`length` days or months after `start`, whose own day does not count (Regulation 1182/71 art. 3). In a month that
        is too short for the day it is the month's last: 30 November + 3 months is 28 or 29 February."""
        match self.unit:
            case PeriodUnit.DAYS:
                return start + timedelta(days=self.length)
            case PeriodUnit.MONTHS:
                years, month = divmod(start.month - 1 + self.length, 12)
                year, month = start.year + years, month + 1
                return date(year, month, min(start.day, calendar.monthrange(year, month)[1]))


class MovingEffect(StrEnum):
    """What going abroad does to a person's clock, permit or status."""

    NO_FORCED_TRANSFER = "no_forced_transfer"
    STATUS_NEEDS_ACCOMPANIMENT = "status_needs_accompaniment"
    PERMIT_TIED_TO_PROCEEDINGS = "permit_tied_to_proceedings"
    IMMIGRATION_CHECK = "immigration_check"
    IDENTIFICATION_NOT_CARRIED_OVER = "identification_not_carried_over"


class Moving(Sourced, frozen=True, kw_only=True):
    effect: MovingEffect
    note: Text


class Power(StrEnum):
    """A decision that stays with a body of the country: Haven asks, it never takes it over."""

    IDENTIFY = "identify"
    PLACE = "place"
    APPLY_FOR_PAPERS = "apply_for_papers"


class Authority(Sourced, frozen=True, kw_only=True):
    power: Power
    body: Text
    exclusive: bool
    """Nobody else in the country has this power, or this part of it."""
    note: Text


class Body(Sourced, frozen=True, kw_only=True):
    """An organisation by its role, never a person."""

    body: Text
    note: Text


class OfficeHours(Sourced, frozen=True, kw_only=True):
    """When a body answers, in local time. No `opens` and `closes`: around the clock."""

    body: Text
    days: tuple[Weekday, ...]
    opens: time | None = None
    closes: time | None = None


class EmergencyNumber(Sourced, frozen=True, kw_only=True):
    number: Annotated[str, msgspec.Meta(pattern=r"\A\d{3}\Z")]
    for_what: Text


class Rhythm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which age a unit's last report is no longer fresh, no longer ageing, no longer even overdue."""

    fresh: timedelta
    ageing: timedelta
    overdue: timedelta


class Country(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One country that takes part."""

    names: dict[LanguageCode, Text]
    languages: tuple[LanguageCode, ...]
    """Of its administration and of the pages its people see."""
    timezone: Text
    """IANA name."""
    reflection: ReflectionPeriod
    moving: tuple[Moving, ...]
    authorities: tuple[Authority, ...]
    minors: Body
    """Who guards and signs for a presumed minor (Directive 2011/36/EU arts 13-14)."""
    focal_point: Body
    """Signs for the country (Directive 2011/36/EU art. 11(4))."""
    office_hours: tuple[OfficeHours, ...]
    """Of the bodies whose hours are published; a body that is absent has unknown hours."""
    emergency: tuple[EmergencyNumber, ...]
    rhythm: Rhythm
    rhythm_source: Sourced

    def local_time(self, moment: datetime) -> datetime:
        """An aware moment on the country's wall clock."""
        return moment.astimezone(ZoneInfo(self.timezone))

    def reflection_end(self, start: date) -> date:
        """The last day of a reflection period that started on `start`."""
        return self.reflection.end(start)

    def freshness(self, age: timedelta) -> Freshness:
        """What a report of this age is worth. One from a clock ahead of ours (a negative age) is as fresh as can be."""
        if age < self.rhythm.fresh:
            return Freshness.FRESH
        if age < self.rhythm.ageing:
            return Freshness.AGEING
        return Freshness.OVERDUE if age < self.rhythm.overdue else Freshness.NOT_REPORTED

    def next_freshness_change(self, reported_at: datetime, now: datetime) -> datetime | None:
        """When the freshness that a report has `now` changes next; None once it counts for nothing any more."""
        limits = (self.rhythm.fresh, self.rhythm.ageing, self.rhythm.overdue)
        return next((reported_at + limit for limit in limits if now < reported_at + limit), None)


class Region(Sourced, frozen=True, kw_only=True):
    """A NUTS-2 region (NUTS 2024)."""

    code: RegionCode
    country: CountryCode
    name: Text


class Border(StrEnum):
    """How two regions touch. Roads and dams count: whoever threatens a household drives."""

    LAND = "land"
    WATER = "water"
    """The line runs through a river, lake or estuary, with or without a bridge."""
    LINK = "link"
    """Only a dam or bridge joins them."""


class Neighbours(Sourced, frozen=True, kw_only=True):
    """An unordered pair of regions that touch."""

    a: RegionCode
    b: RegionCode
    border: Border
    note: str


class Tile(Sourced, frozen=True, kw_only=True):
    """Where a region is on a map of tiles of one size, which cannot show where anything is."""

    region: RegionCode
    label: Text
    column: Annotated[int, msgspec.Meta(ge=0)]
    row: Annotated[int, msgspec.Meta(ge=0)]


class UrgencyClocks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Haven's own decision times for one urgency."""

    parallel_asks: Count
    ask_minutes: Count
    hold_minutes: Count
    step_minutes: Count
    """For the owner of the next step, before it escalates."""
    review_hours: Count
    """Between two looks at an unmet need."""


class Clocks(Sourced, frozen=True, kw_only=True):
    """Haven's own decision times: assumptions, each with its reason."""

    urgent: UrgencyClocks
    standard: UrgencyClocks
    disclosure_minutes: Count
    arrival_grace_minutes: Count
    escalation_cap_hours: Count
    """Waits between reminders double, never beyond this."""
    stay_review_days: Count
    ring_again_minutes: Count
    """Until an urgent ask without an answer rings a second time."""
    call_after_minutes: Count
    """Until it is on the focal point's call list."""
    reasons: dict[str, Text]

    def of(self, urgency: Urgency) -> UrgencyClocks:
        match urgency:
            case Urgency.URGENT:
                return self.urgent
            case Urgency.STANDARD:
                return self.standard


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """All reference data, every cross reference resolved."""

    countries: dict[str, Country]
    regions: dict[str, Region]
    clocks: Clocks
    adjacent: dict[str, frozenset[str]]
    tiles: dict[str, Tile]
    """By region; in reading order."""

    def country(self, code: str) -> Country:
        """Raises `UnknownCountry`."""
        if country := self.countries.get(code):
            return country
        raise UnknownCountry(code, self.countries)

    def regions_of(self, country: str) -> tuple[str, ...]:
        """Codes of a country's regions, in the order of the file."""
        return tuple(region.code for region in self.regions.values() if region.country == country)

    def neighbours(self, code: str) -> frozenset[str]:
        """Regions next to a region, across borders too; for a country, the foreign regions along its border. Raises
        `UnknownRegion`: a zone nobody knows must never quietly exclude nothing."""
        if code in self.countries:
            inside = self.regions_of(code)
            return frozenset(other for region in inside for other in self.adjacent[region]).difference(inside)
        if code not in self.regions:
            raise UnknownRegion(code)
        return self.adjacent[code]


def load(folder: Path | None = None) -> Reference:
    """The reference data in `folder`, or the one installed with Haven. Raises `BadReferenceData`, which names the file, the
    row and the remedy."""
    place: Traversable = folder if folder is not None else resources.files(__name__)
    countries = {
        code: _row(fields, Country, "countries.json", code) for code, fields in _object(place, "countries.json").items()
    }
    for code, country in countries.items():
        _check_country(code, country)
    regions = _regions(place, countries)
    clocks = _row(_object(place, "clocks.json"), Clocks, "clocks.json", "the whole file")
    _check_clocks(clocks)
    return Reference(
        countries=countries,
        regions=regions,
        clocks=clocks,
        adjacent=_adjacent(place, regions),
        tiles=_tiles(place, regions),
    )


def _check_country(code: str, country: Country) -> None:
    _row(code, CountryCode, "countries.json", code)
    try:
        ZoneInfo(country.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BadReferenceData("countries.json", code, "timezone: use an IANA name such as Europe/Brussels.") from error
    if not country.languages:
        raise BadReferenceData("countries.json", code, "languages: name at least one.")
    if missing := sorted({"en", *country.languages} - country.names.keys()):
        raise BadReferenceData("countries.json", code, f"names: add the country's name in {', '.join(missing)}.")
    rhythm = country.rhythm
    if not timedelta() < rhythm.fresh < rhythm.ageing < rhythm.overdue:
        raise BadReferenceData(
            "countries.json", code, "rhythm: make the limits grow from fresh over ageing to overdue."
        )
    for number, hours in enumerate(country.office_hours, 1):
        if (hours.opens is None) is not (hours.closes is None):
            raise BadReferenceData(
                "countries.json", f"{code}, office_hours {number}", "give opens and closes, or neither."
            )


def _check_clocks(clocks: Clocks) -> None:
    own = {*Clocks.__struct_fields__, *UrgencyClocks.__struct_fields__}
    timed = own - {*Sourced.__struct_fields__, "urgent", "standard", "reasons"}
    if wrong := sorted(timed ^ clocks.reasons.keys()):
        raise BadReferenceData(
            "clocks.json", "reasons", f"give one reason for each value, no more: {', '.join(wrong)}."
        )


def _regions(place: Traversable, countries: Mapping[str, Country]) -> dict[str, Region]:
    regions: dict[str, Region] = {}
    for where, region in _table(place, "regions.csv", Region):
        if region.country not in countries:
            raise BadReferenceData("regions.csv", where, "add the country to countries.json, or correct its code.")
        if region.code in regions:
            raise BadReferenceData("regions.csv", where, "remove it: an earlier row has this code.")
        regions[region.code] = region
    if empty := sorted(countries.keys() - {region.country for region in regions.values()}):
        raise BadReferenceData("regions.csv", "end of file", f"add at least one region of {', '.join(empty)}.")
    return regions


def _adjacent(place: Traversable, regions: Mapping[str, Region]) -> dict[str, frozenset[str]]:
    pairs: set[frozenset[str]] = set()
    adjacent: defaultdict[str, set[str]] = defaultdict(set)
    for where, row in _table(place, "neighbours.csv", Neighbours):
        pair = frozenset({row.a, row.b})
        if unknown := sorted(pair - regions.keys()):
            raise BadReferenceData("neighbours.csv", where, f"add {', '.join(unknown)} to regions.csv, or correct it.")
        if len(pair) == 1:
            raise BadReferenceData("neighbours.csv", where, "name two regions: none is its own neighbour.")
        if pair in pairs:
            raise BadReferenceData("neighbours.csv", where, "remove it: an earlier row has this pair.")
        pairs.add(pair)
        adjacent[row.a].add(row.b)
        adjacent[row.b].add(row.a)
    return {code: frozenset(adjacent[code]) for code in regions}


def _tiles(place: Traversable, regions: Mapping[str, Region]) -> dict[str, Tile]:
    tiles: dict[str, Tile] = {}
    places: set[tuple[int, int]] = set()
    for where, tile in _table(place, "tiles.csv", Tile):
        if tile.region not in regions or tile.region in tiles:
            raise BadReferenceData("tiles.csv", where, "remove it, or correct its region: one tile for each region.")
        if (tile.row, tile.column) in places:
            raise BadReferenceData("tiles.csv", where, "move it: an earlier tile is in its place.")
        places.add((tile.row, tile.column))
        tiles[tile.region] = tile
    # A region without a tile would be left out of the map, and nobody would miss it.
    if missing := sorted(regions.keys() - tiles.keys()):
        raise BadReferenceData("tiles.csv", "end of file", f"add a tile for {', '.join(missing)}.")
    return dict(sorted(tiles.items(), key=lambda item: (item[1].row, item[1].column)))


def _row(fields: object, row_type: type[_Row], file: str, row: str) -> _Row:
    try:
        # CSV cells are text: lax mode reads their "true" as a boolean.
        return msgspec.convert(fields, row_type, strict=file.endswith(".json"))
    except msgspec.ValidationError as error:
        raise BadReferenceData(file, row, f"correct it: {error}.") from error


def _object(place: Traversable, file: str) -> dict[str, object]:
    try:
        return _row(json.loads(_text(place, file)), dict[str, object], file, "the whole file")
    except json.JSONDecodeError as error:
        raise BadReferenceData(file, f"line {error.lineno}", f"make it valid JSON: {error.msg}.") from error


def _table(place: Traversable, file: str, row_type: type[_Row]) -> Iterator[tuple[str, _Row]]:
    """Each row with its line."""
    reader = csv.DictReader(_text(place, file).splitlines(), strict=True)
    for row in reader:
        where = f"line {reader.line_num}"
        # DictReader keeps surplus cells under None and fills missing ones with None; neither is a column.
        yield where, _row({str(column): cell for column, cell in row.items()}, row_type, file, where)


def _text(place: Traversable, file: str) -> str:
    try:
        return (place / file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadReferenceData(file, "the whole file", "put it there, readable and in UTF-8.") from error
