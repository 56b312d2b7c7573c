"""The cases somebody may know: the list, one case, and what happened to it."""

from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from events import gateway as g
from events.envelope import wire_name
from events.vocabulary import Role, Stage, Step
from services.gateway.pages import requests_details, requests_disclosures, requests_opening, requests_steps
from services.gateway.pages.frame import Page, Visit, page, see_other
from services.gateway.pages.language import country_name, gettext
from services.gateway.pages.requests_acts import OVER, Act, Standing
from services.gateway.pages.requests_steps import read_request, request_api
from services.gateway.pages.words import word
from services.gateway.pages.words_of_cases import case_code, clock_of, household_words, owner_words
from services.gateway.pages.words_of_entries import facts_of
from services.gateway.read_model import Json

FOLLOW = (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN, Role.ESCORT, Role.SHELTER)
READ_TIMELINE = (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN)
AT_ONCE = "20"
"""Cases on one page of the list."""

_READS = frozenset({wire_name(g.RecordConsulted), wire_name(g.FieldDisclosed)})


def _waits_for(view: Json, step: str) -> str:
    """Who must take a step, which need not be who owes it: only who receives can say that they came."""
    if view["owner"] == Role.COORDINATOR and step == Step.RECORD_ARRIVAL:
        return gettext("the shelter or the focal point of the host country")
    return owner_words(view)


@page("GET", "/requests", *FOLLOW)
def requests(visit: Visit) -> Response:
    query = {"limit": AT_ONCE}
    if cursor := request.args.get("cursor"):
        query["cursor"] = cursor
    listed = visit.ask("GET", "/relocation-requests", query=query)
    return visit.render(
        "requests_list.html",
        cases=listed.data["requests"],
        more=listed.next_cursor,
        is_first=not cursor,
        may_open=visit.principal.role in (Role.REFERRER, Role.COORDINATOR),
        **_shared(visit),
    )


@page("GET", "/requests/<request_id>", *FOLLOW, Role.AUDITOR, lives=True)
def case(visit: Visit) -> Response:
    if visit.principal.role is Role.AUDITOR:
        # What an auditor may see of a case is its trail: the link of a colleague leads there.
        return see_other(f"/audit?{urlencode({'case': visit.path['request_id']})}")
    view = read_request(visit)
    standing = Standing(view, visit.principal)
    steps = [(step, standing.page_of(Step(step)), _waits_for(view, step)) for step in view["next_steps"]]
    pages_of_steps = {address for _, address, _ in steps}
    also = [(act, standing.page_for(act)) for act in standing.acts]
    return visit.render(
        "requests_case.html",
        view=view,
        steps=steps,
        also=[(act, address) for act, address in also if address not in pages_of_steps],
        to_add=[(name, requests_details.questions()[name]) for name in standing.still_to_learn],
        titles=_titles(view),
        zones=[_zone_words(visit, zone) for zone in view.get("danger_zones", ())],
        consents=_consents(view),
        is_received=view["stage"] == Stage.RECEIVED,
        is_over=view["stage"] in OVER,
        has_timeline=visit.principal.role in READ_TIMELINE and view["stage"] != Stage.RECEIVED,
        emergency=_emergency_number(visit, view),
        **_shared(visit),
    )


def _shared(visit: Visit) -> dict[str, Any]:
    now = visit.site.gateway.clock()
    return {
        "now": now,
        "clock_of": clock_of,
        "case_code": case_code,
        "household_words": household_words,
        "owner_words": owner_words,
    }


def _titles(view: Json) -> dict[Act, str]:
    """What can be done besides the next step."""
    return {
        Act.SHORTLIST: gettext("See the shortlist, and who is asked"),
        Act.SIGNATURE: gettext("See what is proposed and signed"),
        Act.DETAILS: gettext("Add or correct what is known of them"),
        Act.CONSENT: gettext("Record or withdraw a consent"),
        Act.JOURNEY: gettext("Plan the journey anew") if view.get("journey") else gettext("Plan the journey"),
        Act.DEPARTURE: gettext("Record the departure"),
        Act.ARRIVAL: gettext("Record the arrival"),
        Act.END: gettext("Record the end of the stay"),
        Act.DISCLOSURES: gettext("Open what is sealed"),
        Act.WITHDRAWAL: gettext("Withdraw this request"),
    }


def _consents(view: Json) -> list[tuple[str, str, str, bool]] | None:
    """About what, which country, whose word, and the answer; None for whoever is not shown it."""
    if "consents" not in view:
        return None
    said = [(*key.split("/"), given) for key, given in sorted(view["consents"].items())]
    return [(scope, country, by, given) for scope, country, by, given in said]


def _zone_words(visit: Visit, zone: Json) -> str:
    name = country_name(code) if (code := zone["code"]) in visit.site.reference.countries else word("Region", code)
    return gettext("%(place)s and its neighbours", place=name) if zone["with_neighbours"] else name


def _emergency_number(visit: Visit, view: Json) -> str:
    """Of the country where the household is, as far as whoever looks may know it, else of their own."""
    countries = visit.site.reference.countries
    country = countries.get(view.get("danger_country") or visit.principal.country)
    return country.emergency[0].number if country and country.emergency else ""


@page("GET", "/requests/<request_id>/timeline", *READ_TIMELINE)
def timeline(visit: Visit) -> Response:
    events = visit.ask("GET", request_api(visit, "/timeline")).data["events"]
    sentences = [_sentence(entry) for entry in reversed(events)]
    return visit.render(
        "requests_timeline.html",
        request_id=visit.path["request_id"],
        steps=[one for one in sentences if not one["is_read"]],
        reads=[one for one in sentences if one["is_read"]],
        **_shared(visit),
    )


def _sentence(entry: Json) -> Json:
    """One event in words: what, by whom, and its facts."""
    actor = entry.get("actor", entry)
    by = word("Role", actor["role"])
    return {
        "time": entry["time"],
        "is_read": entry["type"] in _READS,
        "what": word("EventType", entry["type"]),
        "by": f"{by}, {country_name(actor['country'])}" if actor["country"] else by,
        "said": facts_of(entry),
    }


PAGES: tuple[Page, ...] = (
    requests,
    *requests_opening.PAGES,
    case,
    timeline,
    *requests_details.PAGES,
    *requests_steps.PAGES,
    *requests_disclosures.PAGES,
)
