"""How long a shortlist takes, every refusal explained, over a made-up set of units in every region that takes part."""

import random
import time
from datetime import UTC, datetime
from statistics import median

import reference
from bench.row import Row, percentile
from events.placement import RelocationRequestOpened
from events.vocabulary import DangerZone, Freshness, Group, Household, Need, Track, UnitProfile, Urgency
from reference import Reference
from services.placement.domain.matching import UnitFacts, draw_shortlist

UNITS = 10_000
DRAWS = 60
NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def measure() -> list[Row]:
    """The goal is set for 100,000 units; these are a tenth of that."""
    known = reference.load()
    units = synthetic_units(UNITS, known)
    request = a_request()
    milliseconds = []
    for _ in range(DRAWS):
        started = time.perf_counter()
        drawn = draw_shortlist(request, units, now=NOW, reference=known)
        milliseconds.append((time.perf_counter() - started) * 1000)
        assert len(drawn.candidates) + len(drawn.rejected) == UNITS
        assert drawn.candidates
    return [
        Row(name=f"shortlist over {UNITS} units, p50", value=round(median(milliseconds), 1), unit="ms"),
        Row(
            name=f"shortlist over {UNITS} units, p99",
            value=round(percentile(milliseconds, 99), 1),
            unit="ms",
            goal="<= 10 ms",
        ),
    ]


def synthetic_units(count: int, known: Reference) -> list[UnitFacts]:
    chance = random.Random(2026)
    regions = list(known.regions.values())
    units = []
    for n in range(count):
        region = chance.choice(regions)
        profile = UnitProfile(
            unit_id=f"unit-{n:06}",
            shelter_id=f"shelter-{n // 3:06}",
            country=region.country,
            region=region.code,
            track=chance.choices((Track.ADULT, Track.CHILD), (9, 1))[0],
            accepts=tuple(chance.sample(tuple(Group), chance.randint(1, 4))),
            languages=tuple(chance.sample(("nl", "fr", "de", "en", "ar", "uk"), 3)),
            supports=tuple(chance.sample(tuple(Need), chance.randint(0, 4))),
            open_at_night=chance.random() < 0.5,
        )
        units.append(UnitFacts(profile=profile, free=chance.randint(0, 8), freshness=chance.choice(tuple(Freshness))))
    return units


def a_request() -> RelocationRequestOpened:
    """A woman with two children, in the night, in danger in one region and all around it."""
    return RelocationRequestOpened(
        request_id="request-1",
        urgency=Urgency.URGENT,
        danger_country="BE",
        danger_zones=(DangerZone(code="BE21", with_neighbours=True),),
        household=Household(women=1, children_under_6=1, children_6_to_11=1),
        needs=(Need.INFANT_CARE,),
        languages=("fr", "ar"),
        consented_countries=(),
        third_country_national=None,
        reflection_started_on=None,
        reflection_ends_on=None,
        region_of_stay=None,
        sealed_callback="event-1",
    )
