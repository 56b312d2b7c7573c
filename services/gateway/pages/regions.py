"""Free beds on a map of equal tiles, and the same in words: where in the Benelux something is free, never where a shelter is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from flask import Response, request

from events.vocabulary import Freshness, Role
from reference import Reference, Rhythm, Tile
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.language import gettext, mark, ngettext
from services.gateway.pages.words import named, word
from services.gateway.read_model import Json

MANY = 3
"""From so many beds on a tile is dark. Its number says how many."""


class State(StrEnum):
    """What can be said of a region at a glance. Of several units the best news comes first, and nothing that is old or missing
    is made to look certain."""

    FREE = "free"
    UNSURE = "unsure"
    NOT_REPORTED = "not_reported"
    FULL = "full"
    NO_UNIT = "no_unit"


WORDS: Mapping[State, str] = {
    State.FREE: mark("free"),
    State.UNSURE: mark("unsure"),
    State.NOT_REPORTED: mark("no report"),
    State.FULL: mark("full"),
    State.NO_UNIT: mark("not in Haven"),
}


@dataclass(frozen=True)
class RegionBeds:
    """One region: its place on the map, and what its units say."""

    tile: Tile
    tracks: tuple[Json, ...]
    """As the API answers: one for each protection track that has units here."""
    is_ours: bool

    def sum(self, name: str) -> int:
        return sum(track[name] for track in self.tracks)

    @property
    def code(self) -> str:
        return self.tile.region

    @property
    def state(self) -> State:
        if not self.tracks:
            return State.NO_UNIT
        if self.sum("free_certain"):
            return State.FREE
        if self.sum("free_uncertain"):
            return State.UNSURE
        if self.sum("units_not_reported"):
            return State.NOT_REPORTED
        return State.UNSURE if self.sum("units_overdue") else State.FULL

    @property
    def number(self) -> str:
        """Beds that can be relied on; with a question mark those that cannot."""
        match self.state:
            case State.FREE | State.FULL:
                return str(self.sum("free_certain"))
            case State.UNSURE:
                return f"{self.sum('free_uncertain')}?"
            case State.NOT_REPORTED:
                return "?"
            case State.NO_UNIT:
                return "–"  # noqa: RUF001

    @property
    def look(self) -> str:
        """The class of the tile, which adds colour to number and word; only what is certain has the colour of free."""
        if self.state is State.FREE:
            return "many" if self.sum("free_certain") >= MANY else "some"
        return "unknown" if self.state is State.NOT_REPORTED else ""

    @property
    def lines(self) -> list[str]:
        """The word under the number, on two lines where it is two words."""
        return gettext(WORDS[self.state]).rsplit(" ", 1)

    @property
    def name(self) -> str:
        """What the tile is called for whoever does not see it; it begins with what is written on it."""
        written = f"{self.tile.label} {self.number} {gettext(WORDS[self.state])}"
        return f"{named(written)} {word('Region', self.code)}"

    @property
    def beds(self) -> list[str]:
        """Track by track, how many beds are free, how many perhaps, and whether there may be others: without a report nobody
        knows, and that is not the same as none."""
        said = []
        for track in self.tracks:
            parts = []
            if track["units_fresh"] or track["units_ageing"]:
                parts.append(ngettext("%(num)s bed free", "%(num)s beds free", track["free_certain"]))
            if track["units_overdue"]:
                unsure = track["free_uncertain"]
                parts.append(ngettext("%(num)s bed perhaps free", "%(num)s beds perhaps free", unsure))
            if track["units_not_reported"]:
                parts.append(gettext("others not known") if parts else gettext("not known"))
            said.append(f"{named(word('Track', track['track']))} {', '.join(parts)}")
        return said

    @property
    def reports(self) -> list[str]:
        """How old the reports are: of so many units each."""
        found = ((word("Freshness", freshness), self.sum(f"units_{freshness}")) for freshness in Freshness)
        return [
            ngettext("%(state)s: %(num)s unit", "%(state)s: %(num)s units", units, state=state)
            for state, units in found
            if units
        ]

    @property
    def is_to_be_phoned(self) -> bool:
        """Ours, with a report that is overdue or missing: the machine asks such units last or never, a call may help."""
        return self.is_ours and bool(self.sum("units_overdue") or self.sum("units_not_reported"))


def regions_of(rows: Iterable[Json], reference: Reference, ours: str) -> list[RegionBeds]:
    """Every region in the order of the map, also those without a unit: a gap would look like an oversight."""
    tracks: dict[str, list[Json]] = {}
    for row in rows:
        tracks.setdefault(row["region"], []).append(row)
    return [
        RegionBeds(tile, tuple(tracks.get(code, ())), reference.regions[code].country == ours)
        for code, tile in reference.tiles.items()
    ]


def by_country(regions: Iterable[RegionBeds], reference: Reference, ours: str) -> list[tuple[str, list[RegionBeds]]]:
    """Our country first, each country's regions in the order of the reference data."""
    found = {region.code: region for region in regions}
    countries = sorted(reference.countries, key=lambda country: (country != ours, country))
    return [(country, [found[code] for code in reference.regions_of(country)]) for country in countries]


def rhythms_of(reference: Reference) -> list[tuple[list[str], dict[str, int]]]:
    """After how many hours a report is worth less, and in which countries: those that keep time alike together."""
    found: dict[Rhythm, list[str]] = {}
    for code, country in reference.countries.items():
        found.setdefault(country.rhythm, []).append(code)
    return [
        (codes, {name: getattr(rhythm, name) // timedelta(hours=1) for name in ("fresh", "ageing", "overdue")})
        for rhythm, codes in found.items()
    ]


@page("GET", "/regions", Role.COORDINATOR, lives=True)
def regions(visit: Visit) -> Response:
    ours, reference = visit.principal.country, visit.site.reference
    found = regions_of(visit.ask("GET", "/availability").data["regions"], reference, ours)
    # A page that is open already asks for what stands now, and puts it where it was.
    return visit.render(
        "regions_standing.html" if "HX-Request" in request.headers else "regions.html",
        now=visit.site.gateway.clock(),
        regions=found,
        columns=1 + max(tile.column for tile in reference.tiles.values()),
        rows=1 + max(tile.row for tile in reference.tiles.values()),
        countries=by_country(found, reference, ours),
        rhythms=rhythms_of(reference),
        call_first=any(region.is_to_be_phoned for region in found),
    )


PAGES: tuple[Page, ...] = (regions,)
