"""The routes of asks: what a shelter is asked, and its answer."""

from functools import partial

from flask import Response

from events.gateway import AnswerAsk
from events.vocabulary import Role, SealedField
from services.gateway import bodies, problems
from services.gateway.access import parties, present_request
from services.gateway.principals import Scope
from services.gateway.read_model import Json
from services.gateway.request_routes import accept, page_of_requests, seal
from services.gateway.routing import Call, answer, rule
from services.gateway.views import open_asks

_OF_WHOM = ("request_id", "urgency", "household", "needs", "languages")
_WHERE_IT_STANDS = ("stage", "owner", "next_steps", "journey")


@rule(
    "GET",
    "/asks",
    Scope.READ_ASKS,
    (Role.SHELTER, Role.COORDINATOR),
    "The questions that wait for an answer, the soonest first; or those that were answered, with where their request stands",
    query={
        "answered": "true: those that wait no longer, for as long as you may know of their request, the newest request first",
        "limit": "requests on one page of what was answered: 1 to 100, default 50",
        "cursor": "from the Link header of the page before",
    },
)
def list_asks(call: Call) -> Response:
    if call.query_flag("answered"):
        return _answered_asks(call)
    for name in ("limit", "cursor"):
        if call.query(name, longest=500) is not None:
            raise problems.bad_field(name, "only with answered=true: what waits is shown at once")
    waiting = []
    for view in call.gateway.read_model.requests_with_open_asks(parties(call.principal)):
        shown = present_request(view, call.principal)
        of_whom = {name: shown[name] for name in _OF_WHOM}
        waiting += [ask | of_whom for ask in open_asks(shown)]
    waiting.sort(key=lambda ask: (ask["deadline"], ask["ask_id"]))
    call.gateway.note_read(call.principal, "asks", sorted({ask["request_id"] for ask in waiting}))
    return answer({"asks": waiting})


def _answered_asks(call: Call) -> Response:
    principal, model = call.principal, call.gateway.read_model
    shelter_id = principal.organisation if principal.role is Role.SHELTER else None
    page, headers = page_of_requests(
        call, partial(model.requests_with_answered_asks, shelter_id=shelter_id), {"answered": "true"}
    )
    found = [
        _in_full(ask, shown)
        for shown in (present_request(view, principal) for view in page)
        for ask in shown["asks"].values()
        if ask["state"] != "open"
    ]
    call.gateway.note_read(principal, "answered_asks", sorted({ask["request_id"] for ask in found}))
    return answer({"asks": found}, 200, **headers)


def _in_full(ask: Json, shown: Json) -> Json:
    return {**ask, **{name: shown[name] for name in (*_OF_WHOM, *_WHERE_IT_STANDS) if name in shown}}


@rule(
    "GET",
    "/asks/{ask_id}",
    Scope.READ_ASKS,
    (Role.SHELTER, Role.COORDINATOR),
    "One question, answered or not, for as long as you may know of its request",
)
def read_ask(call: Call) -> Response:
    ask_id = call.path["ask_id"]
    view = call.gateway.read_model.request_with_ask(ask_id, parties(call.principal))
    shown = present_request(view, call.principal) if view is not None else {"asks": {}}
    if ask_id not in shown["asks"]:
        raise problems.not_found()
    call.gateway.note_read(call.principal, "ask", [shown["request_id"]])
    return answer(_in_full(shown["asks"][ask_id], shown))


@rule(
    "POST",
    "/asks/{ask_id}/answer",
    Scope.ANSWER_ASKS,
    (Role.SHELTER,),
    "A shelter's yes, with the hand-over place (sealed at once), or its no, with the reason",
    body=bodies.AskAnswer,
    waits=True,
)
def answer_ask(call: Call) -> Response:
    body: bodies.AskAnswer = call.body
    bodies.check_answer(body)
    ask_id = call.path["ask_id"]
    request_id = call.gateway.read_model.request_of_ask(ask_id, call.principal.organisation)
    if request_id is None:
        raise problems.not_found()

    def command(event_id: str) -> AnswerAsk:
        sealed = None
        if body.rendezvous is not None:
            sealed = seal(call, request_id, AnswerAsk, event_id, SealedField.RENDEZVOUS, body.rendezvous)
        return AnswerAsk(
            request_id=request_id,
            ask_id=ask_id,
            decline=body.decline,
            condition=body.condition,
            rendezvous=sealed,
        )

    return accept(call, request_id, command)


RULES = (list_asks, read_ask, answer_ask)
