"""The shortlist in words: which unit stands where and why, and why not the others. Nothing here ranks anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import Response

from events.placement import Preference, Rule
from events.vocabulary import Freshness, Role, Stage
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.language import gettext, mark, ngettext
from services.gateway.pages.requests_steps import read_request, request_api
from services.gateway.pages.words import named, word
from services.gateway.pages.words_of_cases import about_case, household_words
from services.gateway.read_model import Json

MOST_SHOWN = 10
"""So many candidates are shown; people choose among offers, and those are always shown."""
CLOSE_FIT, MIDDLE_FIT = 2, 10

WOULD_FIT_IF: Mapping[Rule, str] = {
    Rule.ACCEPTS_HOUSEHOLD: mark("the shelter makes an exception for this household"),
    Rule.COUNTRY_NOT_REFUSED: mark("the household agrees to that country after all"),
    Rule.MEETS_NEEDS: mark("what they need can be given in another way"),
    Rule.CAPACITY_IS_KNOWN: mark("the shelter reports enough free beds: phone it"),
    Rule.KEEPS_HOUSEHOLD_TOGETHER: mark("enough beds of one unit become free"),
    Rule.OPEN_NOW: mark("it takes people in at this hour, or they can wait until morning"),
    Rule.NOT_TRIED_BEFORE: mark("the shelter changes its answer"),
}
"""What one call might change. Danger and child protection are not among it: nobody relaxes those."""


@dataclass(frozen=True)
class Offer:
    """A shelter's yes that stands."""

    ask_id: str
    unit_id: str
    shelter_id: str
    country: str
    region: str
    condition: str | None
    place: int
    """1 is the first ranked of the offers that stand."""


@dataclass(frozen=True)
class Ruling:
    """One hard rule for one unit: met, not met, or unknown."""

    rule: str
    state: str


@dataclass(frozen=True)
class Standing:
    """One candidate, explained."""

    place: int
    is_tied: bool
    unit_id: str
    shelter_id: str
    country: str
    region: str
    free: int
    freshness: str
    decided_by: str | None
    preferences: tuple[str, ...]
    ask: Json | None
    rulings: tuple[Ruling, ...]


@dataclass(frozen=True)
class WouldFit:
    """Units that fail one rule only, which a call might change."""

    count: int
    countries: tuple[str, ...]
    condition: str


def rulings_of(failed: Sequence[str]) -> tuple[Ruling, ...]:
    """Every hard rule for a unit that fails these. Without a report nobody knows whether there is a bed for each."""
    unknown = {Rule.KEEPS_HOUSEHOLD_TOGETHER} if Rule.CAPACITY_IS_KNOWN in failed else set()
    return tuple(
        Ruling(rule, "unknown" if rule in unknown else "not met" if rule in failed else "met") for rule in Rule
    )


def would_fit_if(failed: Sequence[str]) -> Rule | None:
    """The one rule that keeps a unit from fitting, if a call might change it."""
    not_met = [ruling.rule for ruling in rulings_of(failed) if ruling.state == "not met"]
    if len(not_met) != 1 or Rule(not_met[0]) not in WOULD_FIT_IF:
        return None
    return Rule(not_met[0])


def standings_of(shortlist: Json, asks: Mapping[str, Json]) -> list[Standing]:
    """The candidates in their order. Who differs from the one before only by lot shares its place."""
    ask_of_unit = {ask["unit_id"]: ask for ask in asks.values()}
    candidates = shortlist["candidates"]
    tied = [candidate["decided_by"] == Preference.LOTTERY for candidate in candidates] + [False]
    standings, place = [], 0
    for number, candidate in enumerate(candidates):
        if not tied[number]:
            place = number + 1
        standings.append(
            Standing(
                place=place,
                is_tied=tied[number] or tied[number + 1],
                unit_id=candidate["unit_id"],
                shelter_id=candidate["shelter_id"],
                country=candidate["country"],
                region=candidate["region"],
                free=candidate["free"],
                freshness=candidate["freshness"],
                decided_by=candidate["decided_by"],
                preferences=preference_words(candidate["preferences"]),
                ask=ask_of_unit.get(candidate["unit_id"]),
                rulings=rulings_of(()),
            )
        )
    return standings


def preference_words(values: Mapping[str, int]) -> tuple[str, ...]:
    """What ranked a unit, one sentence a preference; the lot says nothing about it."""
    said = []
    if Preference.FRESHNESS in values:
        said.append(word("Freshness", list(Freshness)[values[Preference.FRESHNESS]]))
    if Preference.LANGUAGES in values:
        said.append(
            gettext("Speaks none of their languages")
            if values[Preference.LANGUAGES]
            else gettext("Speaks one of their languages, or none was named")
        )
    if (spare := values.get(Preference.SCARCE_SUPPORT_SPARED)) is not None:
        said.append(
            gettext("Has no kind of support that they do not need")
            if not spare
            else ngettext(
                "Has %(num)s kind of support that they do not need",
                "Has %(num)s kinds of support that they do not need",
                spare,
            )
        )
    if (left := values.get(Preference.TIGHT_FIT)) is not None:
        fit = gettext("Close fit") if left <= CLOSE_FIT else gettext("Middling fit")
        if left > MIDDLE_FIT:
            fit = gettext("Loose fit")
        beds = ngettext("%(num)s bed would be left over", "%(num)s beds would be left over", left)
        said.append(f"{named(fit)} {beds}")
    return tuple(said)


def offers_of(view: Json, shortlist: Json | None) -> list[Offer]:
    """Every yes that stands, the first ranked first; who is not on the list any more comes last."""
    candidates = shortlist["candidates"] if shortlist else []
    order = {candidate["unit_id"]: number for number, candidate in enumerate(candidates)}
    regions = {candidate["unit_id"]: candidate["region"] for candidate in candidates}
    accepted = [ask for ask in view["asks"].values() if ask["state"] == "accepted"]
    numbers = {ask["ask_id"]: order.get(ask["unit_id"], len(order)) for ask in accepted}
    offers = [
        Offer(
            ask_id=ask["ask_id"],
            unit_id=ask["unit_id"],
            shelter_id=ask["shelter_id"],
            country=ask["country"],
            region=regions.get(ask["unit_id"], ""),
            condition=ask["condition"],
            place=1 + sum(other < numbers[ask["ask_id"]] for other in numbers.values()),
        )
        for ask in accepted
    ]
    return sorted(offers, key=lambda offer: (offer.place, offer.unit_id))


def failed_counts(rejected: Sequence[Json]) -> list[tuple[str, int]]:
    """How many units fail each rule, the most frequent first; a unit may fail several."""
    counts = {rule: sum(rule in one["failed"] for one in rejected) for rule in Rule}
    return sorted(((rule, count) for rule, count in counts.items() if count), key=lambda pair: -pair[1])


def near_misses(rejected: Sequence[Json]) -> list[WouldFit]:
    """What would have to change for how many units."""
    found: dict[Rule, list[str]] = {}
    for one in rejected:
        if (rule := would_fit_if(one["failed"])) is not None:
            found.setdefault(rule, []).append(one["country"])
    return [
        WouldFit(len(countries), tuple(sorted(set(countries))), gettext(WOULD_FIT_IF[rule]))
        for rule, countries in found.items()
    ]


@page("GET", "/requests/<request_id>/shortlist", Role.COORDINATOR)
def shortlist(visit: Visit) -> Response:
    view = read_request(visit)
    drawn = visit.ask("GET", request_api(visit, "/shortlist")).data["shortlist"]
    standings = standings_of(drawn, view["asks"]) if drawn else []
    rejected = drawn["rejected"] if drawn else []
    return visit.render(
        "signing_shortlist.html",
        **about_case(visit, view),
        household=household_words(view["household"]),
        offers=offers_of(view, drawn),
        can_propose=Stage(view["stage"]) is Stage.OFFERED,
        drawn=drawn,
        standings=[one for number, one in enumerate(standings) if number < MOST_SHOWN or one.ask],
        count=len(standings),
        rejected=rejected[:MOST_SHOWN],
        rejected_count=len(rejected),
        counts=failed_counts(rejected),
        near_misses=near_misses(rejected),
        rulings_of=rulings_of,
    )


PAGES: tuple[Page, ...] = (shortlist,)
