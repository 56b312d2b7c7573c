"""The urgent request: one page, filled in within a minute, with a thumb and at night."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, make_response, render_template, request

from events.vocabulary import AgeStatus, Need, Role, Urgency
from reference import Reference
from services.gateway.pages.frame import Page, Refused, Site, Visit, page, require_own_page
from services.gateway.pages.language import country_within, gettext, language_name
from services.gateway.pages.requests_details import CITIZENSHIP, NOT_NEEDED_NOW, details_to_put_right, questions
from services.gateway.pages.requests_forms import (
    SOON,
    Wrong,
    new_command,
    next_command,
    typed,
    what_was_typed,
    what_was_wrong,
)
from services.gateway.pages.words import problem_words
from services.gateway.read_model import Json

MOST_SPOKEN = ("en", "fr", "nl", "ar", "es", "ro")
"""Boxes to tick; every other language is in a list."""
ALSO_SPOKEN = (
    *("am", "az", "be", "bg", "bn", "bs", "ca", "cs", "da", "de", "el", "et", "fa", "ff", "fi", "ga", "gu", "ha", "he"),
    *("hi", "hr", "hu", "hy", "id", "ig", "it", "ja", "ka", "kk", "km", "ko", "ku", "ky", "lb", "ln", "lo", "lt", "lv"),
    *("mg", "mk", "ml", "mn", "ms", "mt", "my", "ne", "no", "om", "pa", "pl", "ps", "pt", "ru", "rw", "sg", "si", "sk"),
    *("sl", "so", "sq", "sr", "sv", "sw", "ta", "te", "th", "ti", "tl", "tr", "uk", "ur", "uz", "vi", "wo", "yo", "zh"),
)
PEOPLE = ("women", "men", "children_under_6", "children_6_to_11", "children_12_to_17")
MOST_PEOPLE = 40


@page("GET", "/requests/new", Role.REFERRER, Role.COORDINATOR)
def new_request(visit: Visit) -> Response:
    return _form(visit, new_command())


def not_recorded(site: Site, code: str, status: int) -> Response:
    """The form once more, as it was sent, when the database fails and nobody knows who sent it: it can be sent again as soon as
    that is over, and whom to phone stands above it. What it says of its session is checked then."""
    require_own_page(site)
    said = problem_words(code)
    sender = {"session": {"csrf": request.form.get("csrf", "")}}
    page = render_template(
        "requests_new.html",
        visit=None,
        sender=sender,
        notices=[],
        kept={},
        command=request.form.get("command", ""),
        wrong=[Wrong(said.title), Wrong(said.remedy)],
        typed=what_was_typed(),
        is_trouble=True,
        **_choices(site.reference, request.form.get("danger_country", ""), list(site.reference.countries)),
    )
    return make_response(page, status)


@page("POST", "/requests/new", Role.REFERRER, Role.COORDINATOR, in_trouble=not_recorded)
def open_request(visit: Visit) -> Response:
    if wrong := _numbers_that_are_none(visit):
        return _form(visit, new_command(), 400, wrong)
    try:
        answer = visit.ask("POST", "/relocation-requests", body=_body(visit), key=visit.text("command"), headers=SOON)
    except Refused as refused:
        wrong = what_was_wrong(refused, _what_to_put_right(visit))
        return _form(visit, next_command(visit, refused), refused.status, wrong)
    return visit.go_to(f"/requests/{answer.data['request_id']}", gettext("Your request is recorded. Note its code."))


def _body(visit: Visit) -> Json:
    region = visit.text("region")
    languages = dict.fromkeys([*visit.texts("languages"), visit.text("language")])
    head = AgeStatus.PRESUMED_MINOR if visit.text("minor") else AgeStatus.ADULT
    return {
        "urgency": visit.text("urgency"),
        "danger_country": visit.text("danger_country"),
        "danger_zones": [{"code": region, "with_neighbours": True}] if region else [],
        "household": {"age_status": head} | {name: int(visit.text(name) or 0) for name in PEOPLE},
        "needs": visit.texts("needs"),
        "languages": [language for language in languages if language],
        "consented_countries": visit.texts("consented_countries"),
        "third_country_national": CITIZENSHIP.get(visit.text("third_country_national")),
        "reflection_started_on": visit.text("reflection_started_on") or None,
        "region_of_stay": visit.text("region_of_stay") or None,
        "callback": visit.text("callback"),
    }


def _numbers_that_are_none(visit: Visit) -> list[Wrong]:
    labels = people_labels()
    return [
        Wrong(gettext("%(who)s: give a number from 0 to %(most)s", who=labels[name], most=MOST_PEOPLE), name)
        for name in PEOPLE
        if (text := visit.text(name)) and not (text.isascii() and text.isdigit() and int(text[:9]) <= MOST_PEOPLE)
    ]


def people_labels() -> dict[str, str]:
    """Who is counted, in the order of the form."""
    return {
        "women": gettext("Women"),
        "men": gettext("Men"),
        "children_under_6": gettext("Children under 6"),
        "children_6_to_11": gettext("Children of 6 to 11"),
        "children_12_to_17": gettext("Children of 12 to 17"),
    }


def _what_to_put_right(visit: Visit) -> Mapping[str, Wrong]:
    place = Wrong(gettext("Choose the country and the region from the lists"), "danger_country")
    return {
        "urgency": Wrong(gettext("Say whether it is urgent"), "urgency"),
        "danger_country": place,
        "danger_zones": place,
        "not-your-country": Wrong(gettext("You open requests for your own country"), "danger_country"),
        "household": Wrong(gettext("Say how many people there are, at least one"), "women"),
        "needs": Wrong(gettext("Choose what they need from the list"), "needs"),
        "languages": Wrong(gettext("Choose the languages from the list"), "languages"),
        "consented_countries": Wrong(
            gettext("They cannot go to %(country)s, where they are in danger", country=_danger_country(visit)),
            "consented_countries",
        ),
        **details_to_put_right(),
        "callback": Wrong(
            gettext("Give a safe way to call back, in at most 1000 plain characters"),
            "callback",
        ),
    }


def _danger_country(visit: Visit) -> str:
    code = visit.text("danger_country")
    return country_within(code) if code in visit.site.reference.countries else gettext("the country")


def _form(visit: Visit, command: str, status: int = 200, wrong: Sequence[Wrong] = ()) -> Response:
    reference, own = visit.site.reference, visit.principal.country
    opens_for = [own] if visit.principal.role is Role.COORDINATOR else list(reference.countries)
    filled = typed(visit)
    return visit.render(
        "requests_new.html",
        status,
        sender=visit,
        command=command,
        wrong=wrong,
        typed=filled,
        more_is_said=any(filled.text(name) for name in NOT_NEEDED_NOW)
        or any(one.at in NOT_NEEDED_NOW for one in wrong),
        is_trouble=status >= 500,
        **_choices(reference, own, opens_for),
    )


def _choices(reference: Reference, own: str, opens_for: Sequence[str]) -> dict[str, Any]:
    return {
        "questions": questions(),
        "not_needed_now": NOT_NEEDED_NOW,
        "urgencies": list(Urgency),
        "people": people_labels(),
        "needs": list(Need),
        "countries": sorted(opens_for, key=lambda code: code != own),
        "regions": {
            code: reference.regions_of(code) for code in sorted(reference.countries, key=lambda code: code != own)
        },
        "hosts": sorted(reference.countries, key=lambda code: code == own),
        "most_spoken": MOST_SPOKEN,
        "also_spoken": sorted(ALSO_SPOKEN, key=lambda code: language_name(code).casefold()),
    }


PAGES: tuple[Page, ...] = (new_request, open_request)
