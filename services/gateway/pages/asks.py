"""Asks: whether a shelter takes this household, with a clock; its yes or no, and what stands afterwards."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

import msgspec
from flask import Response, request

from events.vocabulary import AcceptCondition, DeclineReason, Household, Role, Stage
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import gettext
from services.gateway.pages.portions import portion
from services.gateway.pages.requests_forms import SOON, Typed, Wrong, new_command, next_command, typed, what_was_wrong
from services.gateway.pages.words_of_cases import case_code, household_words
from services.gateway.read_model import Json

ASKS_AT_ONCE = 14
ANSWERED_AT_ONCE = "20"
_MAY_TAKE_BACK = (Stage.OPENED, Stage.SHORTLISTED, Stage.ASKED, Stage.OFFERED)
"""Until a focal point has signed for a shelter, it may take its yes back."""
_SIGNED = (Stage.PROPOSED, Stage.COUNTERSIGNED, Stage.CONSENTED, Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY)


@page("GET", "/asks", Role.SHELTER, Role.COORDINATOR, lives=True)
def inbox(visit: Visit) -> Response:
    all_waiting = portion(visit.ask("GET", "/asks").data["asks"], ASKS_AT_ONCE, request.args.get("from", ""))
    may_answer = visit.principal.role is Role.SHELTER
    from_where = request.args.get("answered", "")
    answered, older = _answered(visit, from_where) if may_answer else ([], "")
    return visit.render(
        "asks_inbox.html",
        now=visit.site.gateway.clock(),
        waiting=[_in_words(ask) for ask in all_waiting.shown],
        all_waiting=all_waiting,
        answered=[_in_words(ask) for ask in answered],
        older=older,
        is_older=bool(from_where),
        may_answer=may_answer,
        unit_name=lambda ask: ask["unit_id"].removeprefix(f"{ask['shelter_id']}-"),
        once=visit.take_once() if may_answer else {},
    )


@page("GET", "/asks/<ask_id>", Role.SHELTER)
def read_ask(visit: Visit) -> Response:
    return _show(visit, once=visit.take_once())


@page("POST", "/asks/<ask_id>", Role.SHELTER)
def answer_ask(visit: Visit) -> Response:
    says = visit.text("answer")
    if says not in ("yes", "no"):
        return _show(visit, 400, wrong=[_what_to_put_right()["answer"]])
    before = _find(visit) if says == "no" else None
    ask_id = visit.path["ask_id"]
    try:
        answer = visit.ask(
            "POST",
            f"/asks/{quote(ask_id, safe='')}/answer",
            body=_yes(visit) if says == "yes" else _no(visit),
            key=visit.text("command"),
            headers=SOON,
        )
    except Refused as refused:
        if refused.status == 404:
            return _show(visit)
        wrong = what_was_wrong(refused, _what_to_put_right())
        return _show(visit, refused.status, wrong=wrong, command=next_command(visit, refused))
    if answer.status == 202:
        return visit.go_to("/asks", gettext("Your answer was received, and is not decided yet. Load this page again."))
    stands = answer.data.get("asks", {}).get(ask_id, {}).get("state", "")
    return _after_yes(visit, stands) if says == "yes" else _after_no(visit, stands, before)


def _yes(visit: Visit) -> Json:
    """Only what belongs to a yes: a radio that was once chosen cannot be left empty again."""
    place = visit.text("rendezvous").replace("\r\n", "\n")
    return {"accept": True, "condition": visit.text("condition") or None, "rendezvous": place or None}


def _no(visit: Visit) -> Json:
    return {"accept": False, "decline": visit.text("decline") or None}


def _after_yes(visit: Visit, stands: str) -> Response:
    if stands == "accepted":
        notice = gettext("Saved %(time)s: your yes. The beds stay held.", time=visit.time())
        return visit.go_to(f"/asks/{visit.path['ask_id']}", notice)
    return visit.go_to("/asks", once={"late": "yes"})


def _after_no(visit: Visit, stands: str, before: Json | None) -> Response:
    if stands == "accepted":
        return visit.go_to(f"/asks/{visit.path['ask_id']}", once={"late": "no"})
    if before is None or (before["state"] == "open" and _is_over(visit, before)):
        # Too late, or the second of two taps: what is said is true of both.
        return visit.go_to("/asks", once={"late": "no"})
    notice = gettext("Saved %(time)s: your no. The beds are free again.", time=visit.time())
    return visit.go_to("/asks", notice)


def _show(
    visit: Visit,
    status: int = 200,
    *,
    wrong: Sequence[Wrong] = (),
    command: str = "",
    once: Mapping[str, str] | None = None,
) -> Response:
    """The question as it stands. Of one that was closed, expired or declined a shelter knows nothing any more, and that is said
    in the same words as of one that was never asked."""
    ask = _find(visit)
    if ask is None:
        return visit.render("asks_gone.html", 404)
    is_open = ask["state"] == "open"
    return visit.render(
        "asks_answer.html" if is_open else "asks_stands.html",
        status,
        now=visit.site.gateway.clock(),
        ask=_in_words(ask),
        is_over=is_open and _is_over(visit, ask),
        may_take_back=ask["state"] == "accepted" and ask.get("stage") in _MAY_TAKE_BACK,
        is_signed=ask.get("stage") in _SIGNED,
        unit_name=ask["unit_id"].removeprefix(f"{visit.principal.organisation}-"),
        wrong=wrong,
        command=command or new_command(),
        typed=_answer_typed(visit),
        conditions=list(AcceptCondition),
        reasons=list(DeclineReason),
        once=once or {},
    )


def _answer_typed(visit: Visit) -> Typed:
    """What was chosen, without the hand-over place: what is sealed once it is sent goes into no page."""
    fields = typed(visit).fields
    return Typed({name: fields[name] for name in ("answer", "condition", "decline") if name in fields})


def _find(visit: Visit) -> Json | None:
    """The ask in the path, with what the shelter may know of its household; None if it does not stand or is another's."""
    try:
        ask: Json = visit.ask("GET", f"/asks/{quote(visit.path['ask_id'], safe='')}").data
    except Refused as refused:
        if refused.status == 404:
            return None
        raise
    return ask


def _answered(visit: Visit, cursor: str) -> tuple[list[Json], str]:
    """Some of the shelter's asks that wait no longer and of which it may still know, the newest case first, and where older ones
    are: of those there are more every day, and one page reads no more than it shows."""
    query = {"answered": "true", "limit": ANSWERED_AT_ONCE} | ({"cursor": cursor} if cursor else {})
    answer = visit.ask("GET", "/asks", query=query)
    return answer.data["asks"], answer.next_cursor


def _in_words(ask: Json) -> Json:
    household = msgspec.convert(ask["household"], Household)
    return {
        **ask,
        "case": case_code(ask["request_id"]),
        "household_words": household_words(ask["household"]),
        "beds": household.beds,
        "is_child": household.is_headed_by_minor,
    }


def _is_over(visit: Visit, ask: Json) -> bool:
    return datetime.fromisoformat(ask["deadline"]) <= visit.site.gateway.clock()


def _what_to_put_right() -> Mapping[str, Wrong]:
    return {
        "answer": Wrong(gettext("Say yes or no"), "answer"),
        "condition": Wrong(gettext("Choose a condition from the list, or none"), "condition"),
        "rendezvous": Wrong(gettext("Say where they are handed over, in at most 1000 plain characters"), "rendezvous"),
        "decline": Wrong(gettext("Choose the reason for your no"), "decline"),
    }


PAGES: tuple[Page, ...] = (inbox, read_ask, answer_ask)
