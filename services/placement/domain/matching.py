"""Which units could take a household, in which order, and why not the others. Pure, by written rules, explained.

Hard rules first: a unit that fails one is never asked, and every rule it fails is named. Then named preferences, compared
one after the other; the first that differs decides and is named too. No score, no learning: people decide
(Regulation (EU) 2024/1689 Annex III; docs/adr/0005).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

import msgspec

from events.placement import Candidate, Preference, Rejection, RelocationRequestOpened, Rule, ShortlistDrawn
from events.vocabulary import Freshness, Group, Household, Need, Track, UnitProfile, Urgency
from reference import Reference

RULESET = "2026-11"
"""Version of the rules below; a signature binds to it."""

NIGHT_ENDS, NIGHT_BEGINS = 7, 22


class UnitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What matching knows of a unit; everything in it came from capacity's events."""

    profile: UnitProfile
    free: int = 0
    freshness: Freshness = Freshness.NOT_REPORTED


@dataclass(frozen=True)
class Search:
    """One household's question to the rules, worked out once for all units."""

    request: RelocationRequestOpened
    beds: int
    minor: bool
    tried: AbstractSet[str]
    refused_countries: AbstractSet[str]
    zones: AbstractSet[str]
    night_in: AbstractSet[str]
    """Countries where it is night by their own clock."""
    groups: frozenset[Group]
    needs: frozenset[Need]


def excluded_codes(request: RelocationRequestOpened, reference: Reference) -> frozenset[str]:
    """Country and NUTS-2 codes the household must never be placed in: danger zones and, where asked, their neighbours,
    across borders too."""
    codes: set[str] = set()
    for zone in request.danger_zones:
        codes.add(zone.code)
        if zone.with_neighbours:
            codes |= reference.neighbours(zone.code)
    return frozenset(codes)


def groups_of(household: Household) -> frozenset[Group]:
    """What a unit must accept to take everybody."""
    groups = set()
    if household.women:
        groups.add(Group.WOMEN)
    if household.men:
        groups.add(Group.MEN)
    if household.children:
        groups.add(Group.CHILDREN)
    if (household.children and (household.women or household.men)) or (household.women and household.men):
        groups.add(Group.FAMILIES)
    return frozenset(groups)


def not_in_danger_country(search: Search, unit: UnitFacts) -> bool:
    return unit.profile.country != search.request.danger_country and unit.profile.country not in search.zones


def outside_danger_zones(search: Search, unit: UnitFacts) -> bool:
    return unit.profile.region not in search.zones


def child_track_for_presumed_minors(search: Search, unit: UnitFacts) -> bool:
    """Directive 2011/36/EU art. 13(2): a presumed minor is a child at once."""
    return not search.minor or unit.profile.track is Track.CHILD


def adult_track_for_adults(search: Search, unit: UnitFacts) -> bool:
    return search.minor or unit.profile.track is Track.ADULT


def accepts_household(search: Search, unit: UnitFacts) -> bool:
    return search.groups.issubset(unit.profile.accepts)


def country_not_refused(search: Search, unit: UnitFacts) -> bool:
    return unit.profile.country not in search.refused_countries


def meets_needs(search: Search, unit: UnitFacts) -> bool:
    return search.needs.issubset(unit.profile.supports)


def capacity_is_known(_search: Search, unit: UnitFacts) -> bool:
    return unit.freshness is not Freshness.NOT_REPORTED


def keeps_household_together(search: Search, unit: UnitFacts) -> bool:
    """One unit takes them all, or it is not asked."""
    return unit.free >= search.beds


def open_now(search: Search, unit: UnitFacts) -> bool:
    """An urgent household cannot wait for the morning; the hour is that of the unit's own country."""
    if search.request.urgency is not Urgency.URGENT or unit.profile.open_at_night:
        return True
    return unit.profile.country not in search.night_in


def not_tried_before(search: Search, unit: UnitFacts) -> bool:
    return unit.profile.unit_id not in search.tried


HARD_RULES: Mapping[Rule, Callable[[Search, UnitFacts], bool]] = {
    Rule.NOT_IN_DANGER_COUNTRY: not_in_danger_country,
    Rule.OUTSIDE_DANGER_ZONES: outside_danger_zones,
    Rule.CHILD_TRACK_FOR_PRESUMED_MINORS: child_track_for_presumed_minors,
    Rule.ADULT_TRACK_FOR_ADULTS: adult_track_for_adults,
    Rule.ACCEPTS_HOUSEHOLD: accepts_household,
    Rule.COUNTRY_NOT_REFUSED: country_not_refused,
    Rule.MEETS_NEEDS: meets_needs,
    Rule.CAPACITY_IS_KNOWN: capacity_is_known,
    Rule.KEEPS_HOUSEHOLD_TOGETHER: keeps_household_together,
    Rule.OPEN_NOW: open_now,
    Rule.NOT_TRIED_BEFORE: not_tried_before,
}
"""Every hard rule, in the order in which a failing one is named first: safety before space."""

_FRESHNESS_ORDER = {freshness: order for order, freshness in enumerate(Freshness)}


def older_report(_search: Search, unit: UnitFacts) -> int:
    return _FRESHNESS_ORDER[unit.freshness]


def languages_missing(search: Search, unit: UnitFacts) -> int:
    """One shared language is enough to be understood."""
    spoken = search.request.languages
    return int(bool(spoken) and not set(spoken) & set(unit.profile.languages))


def support_not_needed(search: Search, unit: UnitFacts) -> int:
    """Special support this household would use up without needing it."""
    return len(set(unit.profile.supports) - search.needs)


def beds_left_over(search: Search, unit: UnitFacts) -> int:
    return unit.free - search.beds


def lottery_number(search: Search, unit: UnitFacts) -> int:
    """The same draw on every replay, and another for every household: no unit is first for ever."""
    drawn = hashlib.sha256(f"{search.request.request_id}/{unit.profile.unit_id}".encode()).digest()
    return int.from_bytes(drawn[:4])


PREFERENCES: Mapping[Preference, Callable[[Search, UnitFacts], int]] = {
    Preference.FRESHNESS: older_report,
    Preference.LANGUAGES: languages_missing,
    Preference.SCARCE_SUPPORT_SPARED: support_not_needed,
    Preference.TIGHT_FIT: beds_left_over,
    Preference.LOTTERY: lottery_number,
}
"""Lower is better; the first preference that differs decides."""


def failed_rules(search: Search, unit: UnitFacts) -> tuple[Rule, ...]:
    """Every hard rule the unit fails for this household, the first failing first."""
    return tuple(rule for rule, holds in HARD_RULES.items() if not holds(search, unit))


def draw_shortlist(
    request: RelocationRequestOpened,
    units: Iterable[UnitFacts],
    *,
    now: datetime,
    reference: Reference,
    tried: AbstractSet[str] = frozenset(),
    refused_countries: AbstractSet[str] = frozenset(),
) -> ShortlistDrawn:
    """Ranks the units that every hard rule allows and names, for each of the others, every rule it fails."""
    search = Search(
        request=request,
        beds=request.household.beds,
        minor=request.household.is_headed_by_minor,
        tried=tried,
        refused_countries=refused_countries,
        zones=excluded_codes(request, reference),
        night_in={
            code
            for code, country in reference.countries.items()
            if not NIGHT_ENDS <= country.local_time(now).hour < NIGHT_BEGINS
        },
        groups=groups_of(request.household),
        needs=frozenset(request.needs),
    )
    facts = sorted(units, key=lambda unit: unit.profile.unit_id)
    ranked: list[tuple[tuple[int, ...], UnitFacts]] = []
    rejected = []
    for unit in facts:
        if failed := failed_rules(search, unit):
            rejected.append(Rejection(unit_id=unit.profile.unit_id, country=unit.profile.country, failed=failed))
        else:
            ranked.append((tuple(prefer(search, unit) for prefer in PREFERENCES.values()), unit))
    ranked.sort(key=lambda pair: (pair[0], pair[1].profile.unit_id))
    return ShortlistDrawn(
        request_id=request.request_id,
        ruleset=RULESET,
        units_digest=_digest(facts),
        candidates=_candidates(ranked),
        rejected=tuple(rejected),
    )


def _candidates(ranked: Sequence[tuple[tuple[int, ...], UnitFacts]]) -> tuple[Candidate, ...]:
    candidates = []
    before: tuple[int, ...] | None = None
    for values, unit in ranked:
        decided_by = None
        if before is not None:
            decided_by = next(
                (name for name, mine, theirs in zip(PREFERENCES, values, before, strict=True) if mine != theirs), None
            )
        candidates.append(
            Candidate(
                unit_id=unit.profile.unit_id,
                shelter_id=unit.profile.shelter_id,
                country=unit.profile.country,
                region=unit.profile.region,
                free=unit.free,
                freshness=unit.freshness,
                preferences=dict(zip(map(str, PREFERENCES), values, strict=True)),
                decided_by=decided_by,
            )
        )
        before = values
    return tuple(candidates)


def _digest(facts: Sequence[UnitFacts]) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
