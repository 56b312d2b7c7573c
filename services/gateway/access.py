"""Who may call what and see what: the one place.

Three questions, asked in this order for every request. *May this token do this kind of thing?* scope, and the roles a
route names. *May this principal know of this case?* its parties (`parties`), kept by the projection. *Which part of it?*
a list of fields per role; what is not listed is not shown.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from events.gateway import OpenRelocationRequest
from events.vocabulary import Actor, Role
from services.gateway import problems
from services.gateway.principals import Principal, Scope
from services.gateway.read_model import Json
from services.gateway.tokens import require_scope


def authorise(principal: Principal, scope: Scope, roles: Iterable[Role]) -> None:
    """Raises InsufficientScope or Problem 403 unless the principal may call a route with this rule."""
    if principal.role not in roles:
        raise problems.forbidden("wrong-role", "Your role cannot do this.", "Ask somebody whose role can.")
    require_scope(principal, scope)


def actor_of(principal: Principal) -> Actor:
    return Actor(
        person=principal.person,
        role=principal.role,
        organisation=principal.organisation,
        country=principal.country,
    )


def parties(principal: Principal) -> list[str]:
    """The names under which a request, a unit or the trail may be known to this principal."""
    match principal.role:
        case Role.REFERRER:
            return [f"referrer:{principal.organisation}"]
        case Role.COORDINATOR:
            return [f"coordinator:{principal.country}"]
        case Role.SHELTER:
            return [f"shelter:{principal.organisation}"]
        case Role.GUARDIAN:
            return [f"guardian:{principal.country}"]
        case Role.ESCORT:
            return [f"escort:{principal.person}"]
        case Role.AUDITOR:
            return ["auditor"]  # of the trail; no request is known under this name
        case _:
            return []


_EVERYBODY = (
    "request_id",
    "revision",
    "stage",
    "opened_at",
    "changed_at",
    "owner",
    "owner_country",
    "next_steps",
    "deadline",
)
_REFERRER = (
    *_EVERYBODY,
    "urgency",
    "danger_country",
    "danger_zones",
    "household",
    "needs",
    "languages",
    "consents",
    "region_of_stay",
    "third_country_national",
    "reflection_started_on",
    "reflection_ends_on",
    "details",
    "host_country",
    "journey",
    "refusal",
)
_COORDINATOR = (
    *_REFERRER,
    "referrer_organisation",
    "shortlist",
    "asks",
    "proposal",
    "signatures",
    "missed_deadlines",
)
_GUARDIAN = (
    *_EVERYBODY,
    "urgency",
    "danger_country",
    "household",
    "needs",
    "languages",
    "consents",
    "reflection_ends_on",
    "host_country",
)
_SHELTER = (
    *(name for name in _EVERYBODY if name != "owner_country"),  # it would name the country of danger
    "urgency",
    "household",
    "needs",
    "languages",
)
_ESCORT = (*_EVERYBODY, "host_country", "journey")

FIELDS_OF_ROLE: Mapping[Role, tuple[str, ...]] = {
    Role.REFERRER: _REFERRER,
    Role.COORDINATOR: _COORDINATOR,
    Role.GUARDIAN: _GUARDIAN,
    Role.SHELTER: _SHELTER,
    Role.ESCORT: _ESCORT,
    Role.AUDITOR: (),
    Role.SYSTEM: (),
}
"""What each role is shown of a request. A referrer never learns which shelter, a shelter never learns where the danger
is, an escort learns only the journey."""


def present_request(view: Json, principal: Principal) -> Json:
    """The part of the view this principal may see."""
    shown = {name: view[name] for name in FIELDS_OF_ROLE[principal.role] if name in view}
    if principal.role is Role.SHELTER:
        shown["asks"] = {
            ask_id: ask for ask_id, ask in view["asks"].items() if ask["shelter_id"] == principal.organisation
        }
        proposal = view["proposal"]
        if proposal and proposal["shelter_id"] == principal.organisation and view["journey"]:
            shown["journey"] = {"arrival_due": view["journey"]["arrival_due"]}
    if principal.role is Role.COORDINATOR and principal.country != view["danger_country"]:
        return _for_host_coordinator(shown, principal, view["danger_country"])
    if principal.role in (Role.REFERRER, Role.GUARDIAN) and shown.get("journey"):
        shown["journey"] = {"arrival_due": shown["journey"]["arrival_due"]}
    return shown


def _for_host_coordinator(shown: Json, principal: Principal, danger_country: str) -> Json:
    """A country that is asked sees its own shelters, not which others are asked or have signed."""
    concerned = ("", principal.country, danger_country)
    shown["asks"] = {ask_id: ask for ask_id, ask in shown["asks"].items() if ask["country"] == principal.country}
    shown["signatures"] = [signature for signature in shown["signatures"] if signature["country"] in concerned]
    shown.pop("shortlist", None)
    if shown["owner_country"] not in concerned:
        shown["owner_country"] = ""
    if shown["proposal"] and shown["proposal"]["host_country"] != principal.country:
        for name in ("proposal", "host_country", "journey"):
            shown[name] = None
    return shown


def may_know_received(principal: Principal, command: OpenRelocationRequest, actor: Actor) -> bool:
    """Of a request that is received and not opened yet: its referrer's organisation and the country's focal point."""
    if principal.role is Role.REFERRER:
        return actor.role is Role.REFERRER and actor.organisation == principal.organisation
    return principal.role is Role.COORDINATOR and command.danger_country == principal.country


_TIMELINE_DETAIL = ("stage", "reason", "scope", "country", "by", "step", "times", "field", "outcome", "deadline")

_LEARNT = ("known", "before")
"""Of `DetailsRecorded`."""


def present_timeline(entries: list[Json], principal: Principal, danger_country: str) -> list[Json]:
    """A case's events for who follows it: the origin coordinator reads them whole, others only what happened and when, and
    a country that is asked nothing about the others that are."""
    at_origin = principal.country == danger_country or principal.role is Role.REFERRER
    if at_origin and principal.role is Role.COORDINATOR:
        return entries
    if not at_origin:
        elsewhere = _countries_of_asks(entries)
        concerned = {"", principal.country, danger_country}
        entries = [entry for entry in entries if _countries_in(entry, elsewhere) <= concerned]
    return [_without_places(entry, FIELDS_OF_ROLE[principal.role]) for entry in entries]


def _countries_of_asks(entries: list[Json]) -> dict[str, str]:
    """Which country each ask, hold and proposal is about; only some of their events say it themselves."""
    countries: dict[str, str] = {}
    for entry in entries:
        detail = entry["detail"]
        if isinstance(detail.get("proposal"), dict):
            countries[detail["proposal_hash"]] = detail["proposal"]["host_country"]
        elif "country" in detail:
            countries |= {detail[name]: detail["country"] for name in ("ask_id", "hold_id") if name in detail}
    return countries


def _countries_in(entry: Json, countries_of_asks: Mapping[str, str]) -> set[str]:
    detail = entry["detail"]
    about = [detail.get(name) for name in ("ask_id", "hold_id", "proposal_hash", "proposal")]
    asked = [countries_of_asks.get(one, "") for one in about if isinstance(one, str)]
    return {entry["actor"]["country"], detail.get("country", ""), detail.get("host_country", ""), *asked}


def _without_places(entry: Json, fields: Iterable[str]) -> Json:
    """What was learnt of a household is shown as far as the request itself is: by `fields`."""
    detail: dict[str, Any] = entry["detail"]
    learnt = {
        name: {field: detail[name][field] for field in fields if field in detail[name]}
        for name in _LEARNT
        if isinstance(detail.get(name), dict)
    }
    return {
        "time": entry["time"],
        "type": entry["type"],
        "verb": entry["verb"],
        "role": entry["actor"]["role"],
        "country": entry["actor"]["country"],
        "detail": {
            name: detail[name] for name in _TIMELINE_DETAIL if name in detail and not isinstance(detail[name], dict)
        }
        | learnt,
    }


def may_see_shelter(principal: Principal, shelter_id: str, country: str | None) -> bool:
    """Own shelter for its staff, the country's shelters for its coordinators."""
    if principal.role is Role.SHELTER:
        return principal.organisation == shelter_id
    return principal.role is Role.COORDINATOR and principal.country == country
