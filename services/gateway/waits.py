"""Who waits for whom, and since when: what somebody may be rung for, as a pure fold of a request or a unit.

A row says whose turn it is and never about what: no request, no place, no household. It is all that the process which rings
people can read (services/migrations/rights.sql), so it cannot tell more than that something waits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from events.envelope import derived_id
from events.vocabulary import Freshness, Role, Stage, Step, Urgency
from services.gateway.read_model import Json
from services.gateway.views import open_asks


class WaitKind(StrEnum):
    ASK = "ask"
    """A shelter is asked and has not answered."""
    STEP = "step"
    """A step is somebody's to take, or was not taken in time."""
    CHANGE = "change"
    """What somebody signed binds nobody any more."""
    PLACES = "places"
    """A shelter's report is overdue."""


@dataclass(frozen=True)
class Wait:
    """Something that waits for `party`, as the read model names parties (services/gateway/access.py).

    `wait_id` follows from what waits and says nothing about it. `pressing`: it may wake somebody. `escalates_to` is told when
    `party` stays silent; empty when nobody is."""

    wait_id: str
    kind: WaitKind
    party: str
    pressing: bool
    since: str
    escalates_to: str = ""


_OVER = (Stage.REFUSED, Stage.WITHDRAWN, Stage.ENDED, Stage.ERASED)
_STEPS = (
    Step.PROPOSE_PLACEMENT,
    Step.COUNTERSIGN_PLACEMENT,
    Step.RECORD_CONSENT,
    Step.RECORD_GUARDIAN_CONSENT,
    Step.PLAN_JOURNEY,
    Step.FIND_ALTERNATIVE,
    Step.FIND_HOUSEHOLD,
)
"""Steps that come to somebody who may not be looking. Departure, arrival and the end of a stay are done by whoever is there;
those ring only when their deadline is missed."""


def ask_wait_id(ask_id: str) -> str:
    """The wait of an open ask."""
    return derived_id(ask_id, "wait")


def waits_of_request(view: Json | None) -> frozenset[Wait]:
    """What waits in a request as the read model shows it."""
    if view is None or view["stage"] in _OVER:
        return frozenset()
    return frozenset((*_asks(view), *_step(view), *_lapse(view)))


def _asks(view: Json) -> Iterator[Wait]:
    for ask in open_asks(view):
        yield Wait(
            ask_wait_id(ask["ask_id"]),
            WaitKind.ASK,
            f"shelter:{ask['shelter_id']}",
            _is_pressing(view),
            str(ask.get("asked_at", view["opened_at"])),
            escalates_to=f"coordinator:{ask['country']}",
        )


def _step(view: Json) -> Iterator[Wait]:
    """A missed deadline is for both focal points (docs/adr/0016), a step in time for whoever owns it."""
    missed = view["missed_deadlines"]
    if missed:
        countries = {view["danger_country"], view["host_country"]} - {None}
        parties = {f"coordinator:{country}" for country in countries} | set(_owner(view))
    elif set(view["next_steps"]) & set(_STEPS):
        parties = set(_owner(view))
    else:
        return
    since = str(view.get("step_since", view["opened_at"]))
    for party in parties:
        wait_id = derived_id(view["request_id"], "wait", since, missed, party)
        yield Wait(wait_id, WaitKind.STEP, party, _is_pressing(view), since)


def _owner(view: Json) -> Iterator[str]:
    match view["owner"]:
        case Role.COORDINATOR | Role.GUARDIAN:
            yield f"{view['owner']}:{view['owner_country']}"
        case Role.SHELTER if view["proposal"]:
            yield f"shelter:{view['proposal']['shelter_id']}"


def _lapse(view: Json) -> Iterator[Wait]:
    if lapsed := view.get("lapsed"):
        for country in lapsed["signed_by"]:
            wait_id = derived_id(view["request_id"], "lapse", lapsed["proposal_hash"], country)
            yield Wait(wait_id, WaitKind.CHANGE, f"coordinator:{country}", _is_pressing(view), lapsed["at"])


def _is_pressing(view: Json) -> bool:
    """Whether somebody is woken for it: until the household is safe, if that is urgent, and whenever they are missing."""
    if Step.FIND_HOUSEHOLD in view["next_steps"]:
        return True
    return bool(view["urgency"] == Urgency.URGENT and view["stage"] != Stage.ARRIVED)


def waits_of_unit(view: Json | None) -> frozenset[Wait]:
    """A unit that was reported once and whose report is overdue: its shelter is asked to confirm it."""
    if view is None or view["reported_at"] is None:
        return frozenset()
    if view["freshness"] not in (Freshness.OVERDUE, Freshness.NOT_REPORTED):
        return frozenset()
    wait_id = derived_id(view["unit_id"], "wait", view["reported_at"], view["freshness"])
    return frozenset({Wait(wait_id, WaitKind.PLACES, f"shelter:{view['shelter_id']}", False, view["reported_at"])})
