"""The auditor's page: who did, saw and opened what, when and why. To read it one says for which purpose, and that is written down;
taking it along as a file is written down as well."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from events.vocabulary import ReadPurpose, Role, Verb
from services.gateway.pages.frame import Page, Visit, page
from services.gateway.pages.language import ZONE, gettext, moment
from services.gateway.pages.requests_forms import Wrong
from services.gateway.pages.words import word
from services.gateway.pages.words_of_entries import facts_of, told_by
from services.gateway.read_model import Json

SHOWN = 15
ON_PAPER = 100
"""Entries on one page; as many as the API gives at once where nothing is to be pressed or unfolded."""
CASES_OF_A_READ = 5
"""Of a read of many cases at once, which a board does again and again: a page of those would be too heavy for a phone."""
FILTERS = ("case", "actor", "organisation", "verb")
ASKED = (*FILTERS, "day", "purpose", "order")


class NoSuchDay(ValueError):
    """What was typed is no day of the calendar."""


@page("GET", "/audit", Role.AUDITOR)
def trail(visit: Visit) -> Response:
    """The trail of a case, a person or a day; nothing before a purpose is chosen, for the reading itself is an entry."""
    asked = _asked()
    shown: dict[str, Any] = {
        "asked": asked,
        "purposes": list(ReadPurpose),
        "verbs": list(Verb),
        "wrong": [],
        "address": lambda path="/audit", **changes: _address(path, asked | changes),
    }
    if not asked["purpose"]:
        return visit.render("audit_trail.html", entries=None, next_page="", **shown)
    try:
        query = _query(asked)
    except NoSuchDay:
        return _no_such_day(visit, shown)
    is_paper = "paper" in request.args
    query["limit"] = str(ON_PAPER if is_paper else SHOWN)
    query["order"] = "oldest" if asked["order"] == "oldest" else "newest"
    if cursor := request.args.get("cursor", ""):
        query["cursor"] = cursor
    answer = visit.ask("GET", "/audit/events", query=query, headers={"Haven-Purpose": asked["purpose"]})
    entries = [_entry(entry) for entry in answer.data["events"]]
    return visit.render(
        "audit_trail.html",
        entries=entries,
        is_paper=is_paper,
        next_page=answer.next_cursor,
        is_oldest_first=query["order"] == "oldest",
        is_further_on=bool(cursor),
        filters=_filters_in_words(asked),
        now=moment(visit.site.gateway.clock(), "medium"),
        **shown,
    )


@page("GET", "/audit/export", Role.AUDITOR)
def export(visit: Visit) -> Response:
    """Everything that fits, as one file."""
    asked = _asked()
    try:
        query = _query(asked) | {"format": request.args.get("format", "")}
    except NoSuchDay:
        return visit.render("problem.html", 400, code="bad-field")
    return visit.download("/audit/export", query, {"Haven-Purpose": asked["purpose"]})


def _asked() -> dict[str, str]:
    return {name: request.args.get(name, "").strip() for name in ASKED}


def _query(asked: Mapping[str, str]) -> dict[str, str]:
    """What the API is asked. Raises NoSuchDay."""
    query = {name: asked[name] for name in FILTERS if asked[name]}
    if not asked["day"]:
        return query
    try:
        day = date.fromisoformat(asked["day"])
        return query | {"since": _begins(day), "until": _begins(day + timedelta(days=1))}
    except (ValueError, OverflowError):
        raise NoSuchDay from None


def _begins(day: date) -> str:
    return datetime.combine(day, time(), ZONE).isoformat()


def _no_such_day(visit: Visit, shown: Json) -> Response:
    wrong = [Wrong(gettext("Write the day as year, month and day, as in 2026-11-26."), "day")]
    return visit.render("audit_trail.html", 400, entries=None, next_page="", **shown | {"wrong": wrong})


def _address(path: str, asked: Mapping[str, str]) -> str:
    """The same question again, changed in one thing: the next page, one person, a file."""
    return f"{path}?{urlencode({name: value for name, value in asked.items() if value})}"


def _filters_in_words(asked: Mapping[str, str]) -> list[tuple[str, str]]:
    """What was asked for, for whoever reads it on paper."""
    named = (
        (gettext("Purpose of reading"), asked["purpose"] and word("ReadPurpose", asked["purpose"])),
        (gettext("Case"), asked["case"]),
        (gettext("Person"), asked["actor"]),
        (gettext("Organisation"), asked["organisation"]),
        (gettext("What was done with data"), asked["verb"] and word("Verb", asked["verb"])),
        (gettext("Day"), asked["day"]),
    )
    return [(name, value) for name, value in named if value]


def _entry(entry: Json) -> Json:
    """One line of the trail: what happened in words, who it was, who learned something by it, and how it is recorded."""
    actor = entry["actor"]
    told = told_by(entry)
    subjects = entry["detail"].get("subjects", [])
    return {
        "at": moment(entry["time"], "medium"),
        "moment": entry["time"],
        "sentence": word("EventType", entry["type"]),
        "facts": [] if told else facts_of(entry),
        "told": told,
        "verb": word("Verb", entry["verb"]),
        "case": entry["case_id"] or "",
        "person": actor["person"],
        "organisation": actor["organisation"],
        "role": word("Role", actor["role"]),
        "is_person": actor["role"] != Role.SYSTEM,
        "detail": entry["detail"] | ({"subjects": subjects[:CASES_OF_A_READ]} if subjects else {}),
        "cases_left_out": max(0, len(subjects) - CASES_OF_A_READ),
        "event_id": entry["event_id"],
    }


PAGES: tuple[Page, ...] = (trail, export)
