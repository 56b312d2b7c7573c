"""What is done with a request, one page each: consent, journey, departure, arrival, end, withdrawal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from flask import Response

from events.vocabulary import ConsentBy, ConsentScope, EndingReason, Role, WithdrawalReason
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import country_name, gettext
from services.gateway.pages.requests_acts import Act, Standing
from services.gateway.pages.requests_forms import (
    SOON,
    Wrong,
    new_command,
    next_command,
    typed,
    what_was_wrong,
)
from services.gateway.pages.words import word
from services.gateway.pages.words_of_cases import case_code
from services.gateway.read_model import Json

RECORD_CONSENT = (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN, Role.SHELTER)
RECORD_DEPARTURE = (Role.COORDINATOR, Role.ESCORT, Role.REFERRER)
RECORD_ARRIVAL = (Role.SHELTER, Role.COORDINATOR, Role.ESCORT)
RECORD_END = (Role.SHELTER, Role.COORDINATOR)
WITHDRAW = (Role.REFERRER, Role.COORDINATOR)


@dataclass(frozen=True)
class Question:
    """One group of radio buttons."""

    name: str
    text: str
    answers: tuple[tuple[str, str], ...]
    hint: str = ""


@dataclass(frozen=True)
class Form:
    """What one page asks, in the words of its reader, and what it says once it is done."""

    title: str
    said: tuple[str, ...]
    questions: tuple[Question, ...]
    button: str
    done: str = ""
    is_warning: bool = False


Asks = Callable[[Visit, Standing], Form]


def request_api(visit: Visit, part: str = "") -> str:
    """Where the API has the request of this page."""
    return f"/relocation-requests/{quote(visit.path['request_id'], safe='')}{part}"


def read_request(visit: Visit) -> Json:
    """The request as whoever looks may see it. Raises Refused."""
    view: Json = visit.ask("GET", request_api(visit)).data
    return view


def show(visit: Visit, act: Act, form: Asks, refused: Refused | None = None, command: str = "") -> Response:
    """The form, or, when nothing like it can be done with the request as it stands, that and the way back."""
    standing = Standing(read_request(visit), visit.principal)
    if refused is None and act not in standing.acts:
        return visit.render("requests_not_now.html", 409, view=standing.view)
    asked = form(visit, standing)
    wrong: Sequence[Wrong] = ()
    if refused is not None:
        known = {
            question.name: Wrong(gettext("Choose an answer: %(question)s", question=question.text), question.name)
            for question in asked.questions
        }
        wrong = what_was_wrong(refused, known)
    return visit.render(
        "requests_step.html",
        refused.status if refused else 200,
        view=standing.view,
        form=asked,
        act=act,
        case_code=case_code,
        wrong=wrong,
        typed=typed(visit),
        command=command or new_command(),
    )


def send(visit: Visit, act: Act, form: Asks, body: Json) -> Response:
    """Does it, and goes back to the case."""
    try:
        answer = visit.ask("POST", request_api(visit, f"/{act}"), body=body, key=visit.text("command"), headers=SOON)
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        return show(visit, act, form, refused, next_command(visit, refused))
    case = f"/requests/{visit.path['request_id']}"
    if answer.status == 202:
        return visit.go_to(case, gettext("Received, and not decided yet. Look again in a moment."))
    if "stage" not in answer.data:
        return visit.go_to("/requests", gettext("It is recorded. You no longer see this case."))
    return visit.go_to(case, form(visit, Standing(answer.data, visit.principal)).done)


def _consent(visit: Visit, standing: Standing) -> Form:
    guardian = standing.role is Role.GUARDIAN
    countries = [standing.country] if standing.is_receiver else _countries_to_go_to(visit, standing.view)
    return Form(
        title=gettext("Record a consent"),
        said=(
            gettext("You record the word of the guardian, who speaks for a presumed minor.")
            if guardian
            else gettext("You record the word of the household. Ask them yourself, in a language they understand."),
            gettext("They may say no at any time, and nobody needs a reason."),
        ),
        questions=(
            Question(
                "scope", gettext("What is it about?"), tuple((one, word("ConsentScope", one)) for one in ConsentScope)
            ),
            Question("country", gettext("To which country?"), tuple((one, country_name(one)) for one in countries)),
            Question(
                "given",
                gettext("What did they say?"),
                (("yes", gettext("Yes, they agree")), ("no", gettext("No, they do not agree or no longer do"))),
            ),
        ),
        button=gettext("Record this consent"),
        done=gettext("Their word is recorded."),
    )


def _countries_to_go_to(visit: Visit, view: Json) -> list[str]:
    """All but the one they are in danger in; the one that takes them in first."""
    countries = [code for code in visit.site.reference.countries if code != view.get("danger_country")]
    return sorted(countries, key=lambda code: code != view.get("host_country"))


def _withdrawal(_visit: Visit, _standing: Standing) -> Form:
    return Form(
        title=gettext("Withdraw this request"),
        said=(
            gettext("Every bed that is held for this household is free again at once, and nobody is asked any more."),
            gettext("This cannot be undone. If they need a bed after all, make a new request."),
        ),
        questions=(
            Question(
                "reason",
                gettext("Why do you withdraw it?"),
                tuple((one, word("WithdrawalReason", one)) for one in WithdrawalReason),
            ),
        ),
        button=gettext("Withdraw this request"),
        done=gettext("The request is withdrawn."),
        is_warning=True,
    )


def _departure(_visit: Visit, _standing: Standing) -> Form:
    return Form(
        title=gettext("Record the departure"),
        said=(
            gettext("Say this when the household has left, not before."),
            gettext("They must have agreed to the journey."),
        ),
        questions=(),
        button=gettext("The household has left"),
        done=gettext("The departure is recorded."),
    )


def _arrival(_visit: Visit, standing: Standing) -> Form:
    return Form(
        title=gettext("Record the arrival"),
        said=(gettext("If nobody has come, say so at once: people will look for the household."),),
        questions=(
            Question(
                "outcome",
                gettext("What happened?"),
                tuple((one, word("ArrivalOutcome", one)) for one in standing.outcomes),
            ),
        ),
        button=gettext("Record this"),
        done=gettext("It is recorded."),
    )


def _end(_visit: Visit, _standing: Standing) -> Form:
    return Form(
        title=gettext("Record the end of the stay"),
        said=(gettext("Their beds stay blocked until staff report them ready."),),
        questions=(
            Question(
                "reason",
                gettext("Why does the stay end?"),
                tuple((one, word("EndingReason", one)) for one in EndingReason),
            ),
        ),
        button=gettext("Record the end"),
        done=gettext("The end of the stay is recorded."),
    )


@page("GET", "/requests/<request_id>/consent", *RECORD_CONSENT)
def consent(visit: Visit) -> Response:
    return show(visit, Act.CONSENT, _consent)


@page("POST", "/requests/<request_id>/consent", *RECORD_CONSENT)
def record_consent(visit: Visit) -> Response:
    by = ConsentBy.GUARDIAN if visit.principal.role is Role.GUARDIAN else ConsentBy.HOUSEHOLD
    given = {"yes": True, "no": False}.get(visit.text("given"))
    body = {"scope": visit.text("scope"), "country": visit.text("country"), "given": given, "by": by}
    return send(visit, Act.CONSENT, _consent, body)


@page("GET", "/requests/<request_id>/withdrawal", *WITHDRAW)
def withdrawal(visit: Visit) -> Response:
    return show(visit, Act.WITHDRAWAL, _withdrawal)


@page("POST", "/requests/<request_id>/withdrawal", *WITHDRAW)
def withdraw(visit: Visit) -> Response:
    return send(visit, Act.WITHDRAWAL, _withdrawal, {"reason": visit.text("reason")})


@page("GET", "/requests/<request_id>/departure", *RECORD_DEPARTURE)
def departure(visit: Visit) -> Response:
    return show(visit, Act.DEPARTURE, _departure)


@page("POST", "/requests/<request_id>/departure", *RECORD_DEPARTURE)
def record_departure(visit: Visit) -> Response:
    return send(visit, Act.DEPARTURE, _departure, {})


@page("GET", "/requests/<request_id>/arrival", *RECORD_ARRIVAL)
def arrival(visit: Visit) -> Response:
    return show(visit, Act.ARRIVAL, _arrival)


@page("POST", "/requests/<request_id>/arrival", *RECORD_ARRIVAL)
def record_arrival(visit: Visit) -> Response:
    return send(visit, Act.ARRIVAL, _arrival, {"outcome": visit.text("outcome")})


@page("GET", "/requests/<request_id>/end", *RECORD_END)
def end(visit: Visit) -> Response:
    return show(visit, Act.END, _end)


@page("POST", "/requests/<request_id>/end", *RECORD_END)
def record_end(visit: Visit) -> Response:
    return send(visit, Act.END, _end, {"reason": visit.text("reason")})


PAGES: tuple[Page, ...] = (
    consent,
    record_consent,
    withdrawal,
    withdraw,
    departure,
    record_departure,
    arrival,
    record_arrival,
    end,
    record_end,
)
