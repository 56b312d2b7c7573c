"""Synthetic shelters, units and beds of the three countries. No row stands for a real place.

How many beds there are follows published figures; where, in which units and for whom is drawn by the seed. Sources:

* CoMensha, https://www.comensha.nl/onze-helpdesk/coordinatie-opvang/ (undated): 40 places in COSM (adults in the reflection
  period); full as a rule: https://www.comensha.nl/actualiteiten/item/jenv-verhoogt-aantal-bedden-bij-cosm/ (2018).
* NU.nl, https://www.nu.nl/binnenland/5840742/ (2019): 36 places in OMM (multiple problems), in five towns.
* PAG-ASA, https://www.pag-asa.be/nl/hulp-aan-slachtoffers (undated): 16 rooms, 5,200 nights a year: about 89 % full.
* La Villa, house page on https://www.caritas.lu (2020): 9 beds, mainly men, all taken.
* Assumed, as nobody publishes them: 15 beds in each other Belgian centre, 20 more in Luxembourg, every place for minors,
  how beds make up units, and the units' languages and support.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from events.vocabulary import BlockReason, Group, Need, Track, UnitProfile
from reference import Reference

OCCUPANCY = (0.85, 1.0)
"""Share of beds that somebody has or that are blocked: PAG-ASA about 0.89, La Villa and COSM 1."""

BLOCKED_SHARE = 0.25
"""Of the beds that nobody has, how many are not ready (assumed)."""

MIGRANT_LANGUAGES = (
    "ar",
    "bg",
    "es",
    "fa",
    "fr",
    "hu",
    "pl",
    "pt",
    "ro",
    "ru",
    "so",
    "sq",
    "ti",
    "tr",
    "uk",
    "vi",
    "zh",
)
"""Beside English and the country's own. The nationalities most often registered (CoMensha, Het beeld van 2020; Le Quotidien
2026, after the Luxembourg rapporteur), rounded out by assumption: the Belgian leaflet has 27 languages."""

UNIT_SIZES, UNIT_SIZE_WEIGHTS = (1, 2, 3, 4, 6, 8), (3, 6, 5, 4, 2, 1)
"""Beds of a unit: mostly single rooms and small flats, about 60 units in all (assumed)."""

WOMEN_WITH_CHILDREN = (Group.WOMEN, Group.FAMILIES, Group.CHILDREN)
EVERYBODY = (Group.WOMEN, Group.MEN, Group.FAMILIES, Group.CHILDREN)


class SyntheticUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One unit on the first day. The beds neither `free` nor `blocked` have somebody in them."""

    profile: UnitProfile
    beds: int
    free: int
    blocked: int = 0
    blocked_because: BlockReason | None = None


class Programme(NamedTuple):
    """Shelters of one kind in one country."""

    country: str
    shelter_beds: tuple[int, ...]
    """One number per shelter."""
    accepts: tuple[tuple[Group, ...], ...]
    """Drawn from, one for each unit."""
    supports: dict[Need, float]
    """How likely a unit offers it."""
    open_at_night: float
    """How likely a unit takes people in at night."""
    track: Track = Track.ADULT


GENERAL_SUPPORT = {
    Need.WHEELCHAIR_ACCESS: 0.1,
    Need.MEDICAL_CARE: 0.5,
    Need.PSYCHIATRIC_CARE: 0.15,
    Need.ADDICTION_CARE: 0.05,
    Need.PREGNANCY_CARE: 0.5,
    Need.INFANT_CARE: 0.4,
    Need.SECURED_ENTRANCE: 0.7,
    Need.LGBTQ_SAFE: 0.4,
    Need.PETS: 0.05,
}
COMPLEX_SUPPORT = GENERAL_SUPPORT | {Need.MEDICAL_CARE: 0.9, Need.PSYCHIATRIC_CARE: 0.9, Need.ADDICTION_CARE: 0.7}
CHILD_SUPPORT = GENERAL_SUPPORT | {Need.SECURED_ENTRANCE: 1.0, Need.ADDICTION_CARE: 0.0, Need.PETS: 0.0}

WOMEN_OR_MEN = ((Group.WOMEN,), (Group.MEN,))
WOMEN_MEN_OR_ALL = (WOMEN_WITH_CHILDREN, WOMEN_WITH_CHILDREN, (Group.MEN,), (Group.WOMEN,), EVERYBODY)
CHILDREN_ONLY = ((Group.CHILDREN,),)

PROGRAMMES = (
    Programme("NL", (14, 13, 13), WOMEN_MEN_OR_ALL, GENERAL_SUPPORT, open_at_night=0.3),
    Programme("NL", (8, 7, 7, 7, 7), WOMEN_OR_MEN, COMPLEX_SUPPORT, open_at_night=0.5),
    Programme("NL", (2, 2), CHILDREN_ONLY, CHILD_SUPPORT, open_at_night=1.0, track=Track.CHILD),
    Programme("BE", (16, 15, 15), (EVERYBODY, WOMEN_WITH_CHILDREN, (Group.WOMEN, Group.MEN)), GENERAL_SUPPORT, 0.8),
    Programme("BE", (2, 2, 2), CHILDREN_ONLY, CHILD_SUPPORT, open_at_night=1.0, track=Track.CHILD),
    # Mainly men in the first house (La Villa's published profile).
    Programme("LU", (9,), ((Group.MEN,), (Group.MEN,), (Group.WOMEN, Group.MEN)), GENERAL_SUPPORT, open_at_night=0.5),
    Programme("LU", (5, 5, 5, 5), (WOMEN_WITH_CHILDREN, (Group.WOMEN,)), GENERAL_SUPPORT, open_at_night=0.5),
    Programme("LU", (2,), CHILDREN_ONLY, CHILD_SUPPORT, open_at_night=1.0, track=Track.CHILD),
)
"""22 shelters, 163 beds."""


def synthetic_inventory(
    seed: int, reference: Reference, *, occupancy: tuple[float, float] = OCCUPANCY
) -> tuple[SyntheticUnit, ...]:
    """The same units for the same seed. `occupancy` is the range from which the share of beds taken or blocked is drawn,
    both ends between 0 and 1. Raises `reference.UnknownCountry` when `reference` lacks one of the three countries."""
    rng = random.Random(seed)
    units = tuple(_units(rng, reference))
    beds = [number for number, unit in enumerate(units) for _ in range(unit.beds)]
    empty = rng.sample(beds, len(beds) - round(len(beds) * rng.uniform(*occupancy)))
    blocked = empty[: round(len(empty) * BLOCKED_SHARE)]
    return tuple(
        msgspec.structs.replace(
            unit,
            free=empty.count(number) - blocked.count(number),
            blocked=blocked.count(number),
            blocked_because=rng.choice(list(BlockReason)) if number in blocked else None,
        )
        for number, unit in enumerate(units)
    )


def _units(rng: random.Random, reference: Reference) -> Iterator[SyntheticUnit]:
    """Every unit, with nobody's bed known yet."""
    shelters: dict[str, int] = {}
    for programme in PROGRAMMES:
        country = programme.country
        languages = reference.country(country).languages
        for beds in programme.shelter_beds:
            shelters[country] = shelters.get(country, 0) + 1
            shelter_id = f"{country.lower()}-shelter-{shelters[country]:02}"
            region = rng.choice(reference.regions_of(country))
            for number, size in enumerate(_split(rng, beds), 1):
                profile = UnitProfile(
                    unit_id=f"{shelter_id}-u{number}",
                    shelter_id=shelter_id,
                    country=country,
                    region=region,
                    track=programme.track,
                    accepts=_accepts(rng, programme, size),
                    languages=_languages(rng, languages),
                    supports=tuple(need for need, chance in programme.supports.items() if rng.random() < chance),
                    open_at_night=rng.random() < programme.open_at_night,
                )
                yield SyntheticUnit(profile=profile, beds=size, free=0)


def _split(rng: random.Random, beds: int) -> Iterator[int]:
    """A shelter's beds as sizes of units."""
    while beds:
        size = min(beds, *rng.choices(UNIT_SIZES, UNIT_SIZE_WEIGHTS))
        yield size
        beds -= size


def _accepts(rng: random.Random, programme: Programme, size: int) -> tuple[Group, ...]:
    groups = rng.choice(programme.accepts)
    if size == 1 and Group.FAMILIES in groups:
        # One bed takes no family: an offer that no household could use would only look like capacity.
        return tuple(group for group in groups if group in {Group.WOMEN, Group.MEN})
    return groups


def _languages(rng: random.Random, own: tuple[str, ...]) -> tuple[str, ...]:
    spoken = (*own, "en", *rng.sample(MIGRANT_LANGUAGES, rng.randint(1, 4)))
    return tuple(dict.fromkeys(spoken))
