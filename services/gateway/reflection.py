"""The reflection period of one household, and what moving does to it: shown beside the case, decided by nobody here.

Directive 2004/81/EC art. 6; CJEU C-66/21: no transfer against the household's will while it runs.
"""

from typing import Any

import msgspec

from events.vocabulary import Role
from reference import Reference, Sourced
from services.gateway.read_model import Json

SHOWN_TO = frozenset({Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN})


def reflection_clock(view: Json, reference: Reference) -> Json | None:
    """Length, start and end of the period where the household is, and the known effects of leaving, each with its source
    and whether it was verified. None when the household cannot have one or the country is unknown."""
    country = reference.countries.get(view["danger_country"])
    if country is None or view.get("third_country_national") is False:
        return None
    return {
        "country": view["danger_country"],
        "length": country.reflection.length,
        "unit": country.reflection.unit,
        "started_on": view.get("reflection_started_on"),
        "ends_on": view.get("reflection_ends_on"),
        **_provenance(country.reflection),
        "if_moved": [
            {"effect": moving.effect, "note": moving.note, **_provenance(moving)} for moving in country.moving
        ],
    }


def _provenance(row: Sourced) -> dict[str, Any]:
    kept = ("source", "dated", "verified")
    return {name: value for name, value in msgspec.structs.asdict(row).items() if name in kept}
