"""What need not be known of a household at the opening: said there already, or later, by whoever learns it."""

import re
from collections.abc import Mapping, Sequence

from flask import Response, request

from events.vocabulary import Role
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import country_name, gettext
from services.gateway.pages.requests_acts import Act, Standing
from services.gateway.pages.requests_forms import (
    SOON,
    Typed,
    Wrong,
    new_command,
    next_command,
    typed,
    what_was_wrong,
)
from services.gateway.pages.requests_steps import read_request, request_api
from services.gateway.pages.words import problem_words, word
from services.gateway.pages.words_of_cases import case_code, detail_labels, detail_words
from services.gateway.read_model import Json

RECORD_DETAILS = (Role.REFERRER, Role.COORDINATOR)
NOT_NEEDED_NOW = ("third_country_national", "reflection_started_on", "region_of_stay")
"""What nobody has to know at night."""
CITIZENSHIP: Mapping[str, bool | None] = {"yes": True, "no": False, "": None}
_SAID = {said: text for text, said in CITIZENSHIP.items()}
_VERSION = re.compile(r"\A[0-9]{1,9}\Z")


def questions() -> dict[str, str]:
    """What a form asks for each of them."""
    return {
        "third_country_national": gettext("Are they citizens of a country outside the European Union?"),
        "reflection_started_on": gettext("When did their reflection period begin?"),
        "region_of_stay": gettext("In which region are they now?"),
    }


def details_to_put_right() -> Mapping[str, Wrong]:
    return {
        "third_country_national": Wrong(
            gettext("Say whether they are citizens of a country outside the European Union, or that it is not known"),
            "third_country_national",
        ),
        "reflection_started_on": Wrong(
            gettext("Give the day on which the reflection period began, today at the latest, or none"),
            "reflection_started_on",
        ),
        "region_of_stay": Wrong(gettext("Choose the region from the list, or none"), "region_of_stay"),
    }


@page("GET", "/requests/<request_id>/details", *RECORD_DETAILS)
def details(visit: Visit) -> Response:
    view = read_request(visit)
    if Act.DETAILS not in Standing(view, visit.principal).acts:
        return visit.render("requests_not_now.html", 409, view=view)
    filled = typed(visit)
    is_old = bool(filled) and filled.text("version_seen") != _version(view)  # sent, and stopped to sign in once more
    return _form(visit, view, filled or _as_it_stands(view), is_conflict=is_old)


@page("POST", "/requests/<request_id>/details", *RECORD_DETAILS)
def record_details(visit: Visit) -> Response:
    if not _VERSION.match(visit.text("version_seen")):
        return visit.render("problem.html", 400, code="form-too-old")
    body = {
        "version_seen": int(visit.text("version_seen")),
        # Of anything else the API says that it is wrong: as "not known" it would forget what somebody knew.
        "third_country_national": CITIZENSHIP.get(said := request.form.get("third_country_national", "?"), said),
        "reflection_started_on": visit.text("reflection_started_on") or None,
        "region_of_stay": visit.text("region_of_stay") or None
        if "region_of_stay" in request.form
        else read_request(visit)["region_of_stay"],  # they have left: it is not asked any more
    }
    try:
        answer = visit.ask("POST", request_api(visit, "/details"), body=body, key=visit.text("command"), headers=SOON)
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        return _refused(visit, refused)
    done = gettext("What is known of them is recorded.")
    if answer.status == 202:
        done = gettext("Received, and not decided yet. Look again in a moment.")
    return visit.go_to(f"/requests/{visit.path['request_id']}", done)


def _refused(visit: Visit, refused: Refused) -> Response:
    view, command = read_request(visit), next_command(visit, refused)
    if refused.code == "details-changed":
        return _form(visit, view, typed(visit), refused.status, is_conflict=True, command=command)
    wrong = what_was_wrong(refused, details_to_put_right())
    return _form(visit, view, typed(visit), refused.status, wrong=wrong, command=command)


def _form(
    visit: Visit,
    view: Json,
    filled: Typed,
    status: int = 200,
    *,
    wrong: Sequence[Wrong] = (),
    is_conflict: bool = False,
    command: str = "",
) -> Response:
    if is_conflict:
        said = problem_words("details-changed")
        wrong = [Wrong(said.title, "both"), Wrong(said.remedy)]
    reference, own = visit.site.reference, view["danger_country"]
    standing = Standing(view, visit.principal)
    asked = [name for name in NOT_NEEDED_NOW if name != "region_of_stay" or standing.moves_region_of_stay]
    stands = _as_it_stands(view)
    now = visit.site.gateway.clock()
    return visit.render(
        "requests_details.html",
        status,
        view=view,
        now=now,
        case_code=case_code,
        questions=questions(),
        asked=asked,
        regions={
            code: reference.regions_of(code) for code in sorted(reference.countries, key=lambda code: code != own)
        },
        # Whoever has seen both decides between them; after any other mistake what was seen at first still counts.
        version=_version(view) if is_conflict else filled.text("version_seen", _version(view)),
        both=_both(view, filled, asked) if is_conflict else (),
        whose=_whose(view),
        recorded_at=(view.get("details") or {}).get("at"),
        wrong=wrong,
        typed=_on_top_of(stands, filled) if is_conflict else filled,
        seen={
            name: stands.text(name) if is_conflict else filled.text(f"seen_{name}", stands.text(name)) for name in asked
        },
        command=command or new_command(),
    )


def _version(view: Json) -> str:
    return str((view.get("details") or {}).get("version", 0))


def _whose(view: Json) -> str:
    said = view.get("details")
    return (
        gettext("%(role)s, %(country)s", role=word("Role", said["role"]), country=country_name(said["country"]))
        if said
        else ""
    )


def _as_it_stands(view: Json) -> Typed:
    stands = {name: view.get(name) for name in NOT_NEEDED_NOW}
    stands["third_country_national"] = _SAID[stands["third_country_national"]]
    return Typed({name: [str(said)] for name, said in stands.items() if said is not None})


def _on_top_of(stands: Typed, filled: Typed) -> Typed:
    """What somebody changed, and of everything else what stands now: a hasty second tap undoes nothing of a colleague's."""
    fields = {name: filled.text(name) for name in NOT_NEEDED_NOW}
    unchanged = {name for name, text in fields.items() if text == filled.text(f"seen_{name}", "changed")}
    return Typed({name: [stands.text(name) if name in unchanged else text] for name, text in fields.items()})


def _both(view: Json, filled: Typed, asked: Sequence[str]) -> list[tuple[str, str, str]]:
    """What each of them is called, what was just sent, and what stands."""
    labels = detail_labels()
    sent = {name: filled.text(name) for name in asked}
    said = {
        name: CITIZENSHIP.get(text, text) if name == "third_country_national" else text for name, text in sent.items()
    }
    return [(labels[name], detail_words(said[name]), detail_words(view.get(name))) for name in asked]


PAGES: tuple[Page, ...] = (details, record_details)
