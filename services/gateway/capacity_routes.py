"""The routes of shelters' capacity: what is free, said in seconds and kept true."""

import re
from collections import defaultdict
from datetime import UTC
from typing import Any

from flask import Response, request

from events.capacity import ReportRefusal, ReportRefused
from events.envelope import Contract
from events.gateway import ConfirmCapacity, ReportCapacity
from events.vocabulary import Freshness, Role
from services.gateway import bodies, problems
from services.gateway.access import may_see_shelter, parties
from services.gateway.principals import Scope
from services.gateway.read_model import AVAILABILITY, Json
from services.gateway.routing import PREFIX, Call, answer, received, rule

_REVISION = re.compile(r'\A"(\d{1,9})"\Z')
_CERTAIN = (Freshness.FRESH, Freshness.AGEING)


def _unit(call: Call) -> Json:
    """The unit in the path if this principal may see it; else Problem 404."""
    shelter_id = call.path["shelter_id"]
    for unit in call.gateway.read_model.units(parties(call.principal), shelter_id):
        if unit["unit_id"] == call.path["unit_id"] and may_see_shelter(call.principal, shelter_id, unit["country"]):
            return unit
    raise problems.not_found()


def _unit_path(unit: Json) -> str:
    return f"{PREFIX}/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"


def _shown(unit: Json) -> Response:
    return answer(unit, ETag=f'"{unit["revision"]}"')


@rule(
    "GET",
    "/shelters/{shelter_id}/units",
    Scope.READ_CAPACITY,
    (Role.SHELTER, Role.COORDINATOR),
    "Every unit of one shelter",
)
def list_units(call: Call) -> Response:
    units = [
        unit
        for unit in call.gateway.read_model.units(parties(call.principal), call.path["shelter_id"])
        if may_see_shelter(call.principal, unit["shelter_id"], unit["country"])
    ]
    if not units:
        raise problems.not_found()
    return answer({"units": units})


@rule(
    "GET",
    "/shelters/{shelter_id}/units/{unit_id}/capacity",
    Scope.READ_CAPACITY,
    (Role.SHELTER, Role.COORDINATOR),
    "Beds of one unit: free, held, occupied, blocked, taken, and how old the report is",
)
def read_capacity(call: Call) -> Response:
    return _shown(_unit(call))


@rule(
    "PUT",
    "/shelters/{shelter_id}/units/{unit_id}/capacity",
    Scope.REPORT_CAPACITY,
    (Role.SHELTER,),
    "Report one unit: absolute values, with the revision that was shown",
    body=bodies.Capacity,
    headers={"If-Match": "ETag of the capacity that was shown"},
    waits=True,
)
def report_capacity(call: Call) -> Response:
    body: bodies.Capacity = call.body
    bodies.check_capacity(body, call.gateway.clock())
    unit = _unit(call)
    revision = _revision_seen()
    # A PUT is its own key: the same values on the same revision are the same report, however often they are sent.
    intent = call.intent(
        f"{revision}/{body.beds}/{body.free}/{body.blocked}/{body.blocked_because}/{body.blocked_until}"
    )
    # One whose answer was lost has moved the revision itself: sent again, it has its answer (RFC 9110, 13.1.1).
    if revision != unit["revision"] and not call.gateway.intake.has_accepted(intent):
        raise _refused(ReportRefusal.STALE_REVISION, unit)

    def commands(_event_id: Any) -> list[tuple[str, Contract]]:
        report = ReportCapacity(
            unit_id=unit["unit_id"],
            revision_seen=revision,
            beds=body.beds,
            free=body.free,
            blocked=body.blocked,
            blocked_because=body.blocked_because,
            blocked_until=body.blocked_until.astimezone(UTC) if body.blocked_until else None,
        )
        return [(f"unit-{unit['unit_id']}", report)]

    accepted = call.gateway.intake.accept(intent, unit["unit_id"], commands)
    outcomes = call.outcome(accepted) if call.wait else None
    if outcomes is None:
        return received(accepted, _unit_path(unit), unit_id=unit["unit_id"])
    if refusal := _refusal_of(outcomes[0]):
        raise _refused(refusal, _unit(call))
    return _shown(_unit(call))


@rule(
    "POST",
    "/shelters/{shelter_id}/capacity-confirmations",
    Scope.REPORT_CAPACITY,
    (Role.SHELTER,),
    "Nothing changed: every unit named is as it was shown",
    body=bodies.CapacityConfirmations,
    waits=True,
)
def confirm_capacity(call: Call) -> Response:
    shelter_id = call.path["shelter_id"]
    if not may_see_shelter(call.principal, shelter_id, None):
        raise problems.not_found()
    own = {unit["unit_id"]: unit for unit in call.gateway.read_model.units(parties(call.principal), shelter_id)}
    seen: tuple[bodies.UnitSeen, ...] = call.body.units
    if any(unit.unit_id not in own for unit in seen):
        raise problems.not_found()
    if len({unit.unit_id for unit in seen}) != len(seen):
        raise problems.bad_field("units", "every unit once")

    def commands(_event_id: Any) -> list[tuple[str, Contract]]:
        return [
            (f"unit-{unit.unit_id}", ConfirmCapacity(unit_id=unit.unit_id, revision_seen=unit.revision_seen))
            for unit in seen
        ]

    accepted = call.gateway.intake.accept(call.intent(), shelter_id, commands)
    outcomes = call.outcome(accepted) if call.wait else None
    if outcomes is None:
        return received(accepted, f"{PREFIX}/shelters/{shelter_id}/units", shelter_id=shelter_id)
    results = [
        {"unit_id": unit.unit_id, "confirmed": refusal is None, "reason": refusal}
        for unit, refusal in zip(seen, map(_refusal_of, outcomes), strict=True)
    ]
    if len(results) == 1 and (refusal := _refusal_of(outcomes[0])):
        raise _refused(refusal, own[seen[0].unit_id])
    return answer({"shelter_id": shelter_id, "units": results})


@rule(
    "GET",
    "/availability",
    Scope.READ_AVAILABILITY,
    (Role.COORDINATOR,),
    "Free beds by country, region and track; only recent reports count as certain. How many units, and how old their reports",
)
def read_availability(call: Call) -> Response:
    rows: dict[tuple[str, str, str], Json] = defaultdict(
        lambda: {"free_certain": 0, "free_uncertain": 0, "units": 0} | {f"units_{one}": 0 for one in Freshness}
    )
    for unit in call.gateway.read_model.units([AVAILABILITY]):
        row = rows[unit["country"], unit["region"], unit["track"]]
        row["units"] += 1
        row[f"units_{unit['freshness']}"] += 1
        if unit["freshness"] != Freshness.NOT_REPORTED:
            row["free_certain" if unit["freshness"] in _CERTAIN else "free_uncertain"] += unit["free"]
    return answer(
        {
            "as_of": call.gateway.clock().isoformat(),
            "regions": [
                {"country": country, "region": region, "track": track, **row}
                for (country, region, track), row in sorted(rows.items())
            ],
        }
    )


def _revision_seen() -> int:
    sent = request.headers.get("If-Match")
    if sent is None:
        raise problems.Problem(
            428,
            "if-match-missing",
            "The If-Match header is missing.",
            next_action="Read the unit first and send its ETag, so that nobody's change is overwritten unseen.",
        )
    if not (revision := _REVISION.match(sent)):
        raise problems.bad_field("If-Match", "one ETag as it was given")
    return int(revision[1])


def _refusal_of(outcome: Json) -> str | None:
    refused = outcome["type"] == ReportRefused.__struct_config__.tag
    return str(outcome["reason"]) if refused else None


def _refused(reason: str, unit: Json) -> problems.Problem:
    problem = problems.report_refused(ReportRefusal(reason))
    problem.headers["ETag"] = f'"{unit["revision"]}"'
    return problem


RULES = (list_units, read_capacity, report_capacity, confirm_capacity, read_availability)
