"""The auditor's page: who did, saw and opened what, when and why. To read it one says for which purpose, and that is written down."""

from datetime import date, datetime, time, timedelta
from typing import Any

from flask import Response, request

from events.vocabulary import ReadPurpose, Role, Verb
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.language import ZONE, gettext, moment
from services.gateway.pages.words import word
from services.gateway.read_model import Json

SHOWN = 50
FILTERS = ("case", "actor", "organisation", "verb")


@page("GET", "/audit", Role.AUDITOR)
def trail(visit: Visit) -> Response:
    """The trail of a case, a person or a day; nothing before a purpose is chosen, for the reading itself is an entry."""
    asked = {name: request.args.get(name, "").strip() for name in (*FILTERS, "day", "purpose", "cursor")}
    shown: dict[str, Any] = {"asked": asked, "purposes": list(ReadPurpose), "verbs": list(Verb)}
    if not asked["purpose"]:
        return visit.render("audit_trail.html", entries=None, next_page="", **shown)
    query = {name: asked[name] for name in (*FILTERS, "cursor") if asked[name]} | {"limit": str(SHOWN)}
    if asked["day"]:
        day = _day(asked["day"])
        if day is None:
            problem = {"field": "day", "text": gettext("Write the day as year, month and day, as in 2026-11-26.")}
            return visit.render("audit_trail.html", 400, entries=None, next_page="", problem=problem, **shown)
        query |= {"since": _begins(day), "until": _begins(day + timedelta(days=1))}
    answer = visit.ask("GET", "/audit/events", query=query, headers={"Haven-Purpose": asked["purpose"]})
    entries = [_entry(entry) for entry in answer.data["events"]]
    return visit.render("audit_trail.html", entries=entries, next_page=answer.next_cursor, **shown)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _begins(day: date) -> str:
    return datetime.combine(day, time(), ZONE).isoformat()


def _entry(entry: Json) -> Json:
    """One line of the trail: a sentence, who it was, and what the event says beside that."""
    actor = entry["actor"]
    return {
        "at": moment(entry["time"], "medium"),
        "moment": entry["time"],
        "sentence": word("EventType", entry["type"]),
        "verb": word("Verb", entry["verb"]),
        "case": entry["case_id"] or "",
        "person": actor["person"],
        "organisation": actor["organisation"],
        "role": word("Role", actor["role"]),
        "is_person": actor["role"] != Role.SYSTEM,
        "detail": entry["detail"],
        "event_id": entry["event_id"],
    }


PAGES: tuple[Page, ...] = (trail,)
