"""What is shown of a request and of a unit, as a fold over the events of its one stream. Pure; reads no clock."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from events import capacity as c
from events import placement as p
from events.envelope import Event
from events.gateway import OpenRelocationRequest
from events.vocabulary import BlockReason, Freshness, Household, Role, Stage
from services.gateway.demand import Counted, counted_after, counted_at_opening
from services.gateway.read_model import Json, moment_key

_SEALED_NAMES = ("callback", "rendezvous", "steps")


def plain(data: Any) -> Json:
    """What an event says, without its type and without ciphertext: that something is sealed is said, what is not."""
    said: Json = msgspec.to_builtins(data)
    said.pop("type", None)
    for name in _SEALED_NAMES:
        if isinstance(said.get(name), dict):
            said[name] = {"sealed": True}
    return said


def received_view(event: Event, command: OpenRelocationRequest) -> Json:
    """A request in the moment before it is opened."""
    return {
        "request_id": command.request_id,
        "revision": 0,
        "stage": Stage.RECEIVED,
        "opened_at": moment_key(event.time),
        "changed_at": moment_key(event.time),
        "owner": Role.SYSTEM,
        "owner_country": "",
        "next_steps": [],
        "deadline": None,
        "urgency": command.urgency,
        "danger_country": command.danger_country,
        "asks": {},
        "proposal": None,
        "journey": None,
    }


def parties_of(view: Json | None) -> set[str]:
    """Who may know of a request: the country and organisation it came from, whoever is being asked or chosen, and
    whoever travels with it. A shelter or country that is no longer asked no longer sees it."""
    if view is None:
        return set()
    # Of a request refused at the door nothing is known, also not that a guardian is needed.
    minor = bool(view["household"]) and msgspec.convert(view["household"], Household).is_headed_by_minor
    standing = [ask for ask in view["asks"].values() if ask["state"] in ("open", "accepted")]
    countries = {view["danger_country"], *(ask["country"] for ask in standing)}
    parties = {f"referrer:{view['referrer_organisation']}"}
    parties |= {f"coordinator:{country}" for country in countries}
    parties |= {f"shelter:{ask['shelter_id']}" for ask in standing}
    if minor:
        parties |= {f"guardian:{country}" for country in countries}
    if view["journey"] and view["stage"] in (Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY):
        parties.add(f"escort:{view['journey']['escort']}")
    return parties


def open_asks(view: Json) -> list[Json]:
    """The questions of a request that wait for an answer; none where questions are not shown."""
    return [ask for ask in view.get("asks", {}).values() if ask["state"] == "open"]


def view_of_request(view: Json | None, event: Event) -> Json | None:
    """The view after `event`; None while there is nothing to show."""
    data: Any = event.data
    if isinstance(data, p.RelocationRequestOpened | p.RelocationRequestRefused):
        return _opened(event)
    if view is None:
        return None
    view = {**view, "revision": event.version, "changed_at": moment_key(event.time)}
    _count(view, event)
    if change := _CHANGES.get(type(data)):
        change(view, data, event)
    return view


def _count(view: Json, event: Event) -> None:
    """Erasing a household takes it out of no figure: the figures of before and after would tell which it was."""
    if view.get("counted") and view["stage"] != Stage.ERASED:
        counted = counted_after(
            msgspec.convert(view["counted"], Counted), event, datetime.fromisoformat(view["opened_at"])
        )
        view["counted"] = msgspec.to_builtins(counted)


def _opened(event: Event) -> Json:
    data: Any = event.data
    moment = moment_key(event.time)
    view: Json = {
        "request_id": data.request_id,
        "revision": event.version,
        "opened_at": moment,
        "changed_at": moment,
        "referrer_organisation": event.actor.organisation,
        "stage": Stage.OPENED,
        "owner": "system",
        "owner_country": "",
        "next_steps": [],
        "deadline": None,
        "step_since": moment,
        "urgency": None,
        "danger_country": event.actor.country,
        "household": {},
        "consents": {},
        "shortlist": None,
        "asks": {},
        "proposal": None,
        "signatures": [],
        "lapsed": None,
        "host_country": None,
        "journey": None,
        "missed_deadlines": 0,
        "refusal": None,
        "counted": None,
    }
    if isinstance(data, p.RelocationRequestRefused):
        view.update(stage=Stage.REFUSED, refusal=data.reason)
        return view
    said = plain(data)
    said.pop("sealed_callback")
    consented = said.pop("consented_countries")
    view.update(said, consents={f"placement/{country}/household": True for country in consented})
    view["counted"] = msgspec.to_builtins(counted_at_opening(data, event.time))
    return view


def _ask_made(view: Json, data: p.ShelterAsked, event: Event) -> None:
    view["asks"] = {
        **view["asks"],
        data.ask_id: {
            "ask_id": data.ask_id,
            "unit_id": data.unit_id,
            "shelter_id": data.shelter_id,
            "country": data.country,
            "asked_at": moment_key(event.time),
            "deadline": moment_key(data.deadline),
            "state": "open",
            "decline": None,
            "condition": None,
        },
    }


def _ask_now(state: str) -> Callable[[Json, Any, Event], None]:
    def change(view: Json, data: Any, _event: Event) -> None:
        answer = {
            "state": state,
            "decline": getattr(data, "reason", None),
            "condition": getattr(data, "condition", None),
        }
        view["asks"] = {**view["asks"], data.ask_id: {**view["asks"][data.ask_id], **answer}}

    return change


def _proposed(view: Json, data: p.PlacementProposed, event: Event) -> None:
    view["proposal"] = {**plain(data.proposal), "hash": data.proposal_hash}
    view["host_country"] = data.proposal.host_country
    view["lapsed"] = None
    _signed(view, "proposed", event)


def _signed(view: Json, what: str, event: Event) -> None:
    signature = {
        "what": what,
        "person": event.actor.person,
        "organisation": event.actor.organisation,
        "country": event.actor.country,
        "at": moment_key(event.time),
        "stands": True,
    }
    view["signatures"] = [*view["signatures"], signature]


def _lapsed(view: Json, data: p.ProposalLapsed, event: Event) -> None:
    signed = sorted({signature["country"] for signature in view["signatures"] if signature["stands"]})
    view["lapsed"] = {"proposal_hash": data.proposal_hash, "at": moment_key(event.time), "signed_by": signed}
    view["proposal"] = view["host_country"] = view["journey"] = None
    view["signatures"] = [{**signature, "stands": False} for signature in view["signatures"]]


def _consent(given: bool) -> Callable[[Json, Any, Event], None]:
    def change(view: Json, data: Any, _event: Event) -> None:
        view["consents"] = {**view["consents"], f"{data.scope}/{data.country}/{data.by}": given}

    return change


def _details(view: Json, data: p.DetailsRecorded, event: Event) -> None:
    view.update(
        plain(data.known),
        details={
            "version": data.version,
            "at": moment_key(event.time),
            "role": event.actor.role,
            "country": event.actor.country,
        },
    )


def _next_step(view: Json, data: p.NextStepSet, event: Event) -> None:
    view.update(
        step_since=moment_key(event.time),
        stage=data.stage,
        owner=data.owner,
        owner_country=data.owner_country,
        next_steps=list(data.steps),
        deadline=moment_key(data.deadline) if data.deadline else None,
        missed_deadlines=0,
    )


def _deadline_missed(view: Json, data: p.DeadlineMissed, event: Event) -> None:
    view.update(step_since=moment_key(event.time), deadline=moment_key(data.next_deadline), missed_deadlines=data.times)


def _erased(view: Json, _data: p.HouseholdErased, _event: Event) -> None:
    view["stage"] = Stage.ERASED


def _shortlist(view: Json, data: p.ShortlistDrawn, event: Event) -> None:
    view["shortlist"] = {**plain(data), "drawn_at": moment_key(event.time)}


def _journey(view: Json, data: p.JourneyPlanned, _event: Event) -> None:
    view["journey"] = {"escort": data.escort, "arrival_due": moment_key(data.arrival_due)}


_CHANGES: Mapping[type, Callable[[Json, Any, Event], None]] = {
    p.ShelterAsked: _ask_made,
    p.AskAccepted: _ask_now("accepted"),
    p.AskDeclined: _ask_now("declined"),
    p.AskExpired: _ask_now("expired"),
    p.AskClosed: _ask_now("closed"),
    p.PlacementProposed: _proposed,
    p.PlacementCountersigned: lambda view, _data, event: _signed(view, "countersigned", event),
    p.ProposalLapsed: _lapsed,
    p.DetailsRecorded: _details,
    p.ConsentRecorded: _consent(True),
    p.ConsentWithdrawn: _consent(False),
    p.ShortlistDrawn: _shortlist,
    p.JourneyPlanned: _journey,
    p.HouseholdErased: _erased,
    p.NextStepSet: _next_step,
    p.DeadlineMissed: _deadline_missed,
}


def view_of_unit(view: Json | None, event: Event) -> Json | None:
    """The unit's view after `event`; None while it is not registered."""
    match event.data:
        case c.UnitRegistered(profile=profile, beds=beds):
            registered: Json = {
                **msgspec.to_builtins(profile),
                "beds": beds,
                "free": 0,
                "held": 0,
                "occupied": 0,
                "blocked": 0,
                "taken": beds,
                "revision": event.version,
                "freshness": Freshness.NOT_REPORTED,
                "reported_at": None,
                "reported_by": None,
                "blocked_because": None,
                "blocked_until": None,
            }
            return registered
        case _ if view is None:
            return None
        case c.UnitStandingChanged() as standing:
            counts = plain(standing)
            return {**view, **counts}
        case c.CapacityReported() as report:
            return {
                **view,
                **_reported(event),
                "blocked_because": report.blocked_because,
                "blocked_until": moment_key(report.blocked_until) if report.blocked_until else None,
            }
        case c.CapacityConfirmed():
            return {**view, **_reported(event)}
        case c.FreshnessChanged(freshness=freshness):
            return {**view, "freshness": freshness}
        case c.BedsVacated():
            return {**view, "blocked_because": view["blocked_because"] or BlockReason.TURNOVER}
        case _:
            return None


def _reported(event: Event) -> Json:
    return {
        "freshness": Freshness.FRESH,
        "reported_at": moment_key(event.time),
        "reported_by": event.actor.organisation,
    }
