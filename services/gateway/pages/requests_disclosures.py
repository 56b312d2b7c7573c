"""Opening one sealed field: chosen, justified, written down, and shown once."""

from collections.abc import Sequence

from flask import Response

from events.vocabulary import DisclosureReason, Role
from services.gateway.pages.frame import Page, Refused, Visit, page
from services.gateway.pages.language import gettext
from services.gateway.pages.requests_acts import REASONS, Act, Standing
from services.gateway.pages.requests_forms import Wrong, new_command, next_command, typed, what_was_wrong
from services.gateway.pages.requests_steps import read_request, request_api
from services.gateway.pages.words_of_cases import case_code

OPEN_SEALED = (Role.REFERRER, Role.COORDINATOR, Role.SHELTER, Role.ESCORT)


@page("GET", "/requests/<request_id>/disclosures", *OPEN_SEALED)
def sealed_fields(visit: Visit) -> Response:
    standing = Standing(read_request(visit), visit.principal)
    if Act.DISCLOSURES not in standing.acts:
        return visit.render("requests_not_now.html", 409, view=standing.view)
    return _choice(visit, standing, new_command())


@page("POST", "/requests/<request_id>/disclosures", *OPEN_SEALED)
def open_sealed_field(visit: Visit) -> Response:
    body = {"field": visit.text("field"), "reason": visit.text("reason"), "recipient": visit.principal.person}
    try:
        opened = visit.ask("POST", request_api(visit, "/disclosures"), body=body, key=visit.text("command"))
    except Refused as refused:
        if refused.status in (401, 404):
            raise
        known = {
            "field": Wrong(gettext("Choose what you have to see"), "field"),
            "reason": Wrong(gettext("Choose why you have to see it"), "reason"),
            "reason-does-not-fit": Wrong(gettext("This reason does not justify seeing that. Choose another"), "reason"),
        }
        standing = Standing(read_request(visit), visit.principal)
        wrong = what_was_wrong(refused, known)
        return _choice(visit, standing, next_command(visit, refused), refused.status, wrong)
    return visit.render("requests_disclosed.html", opened=opened.data, request_id=visit.path["request_id"])


def _choice(visit: Visit, standing: Standing, command: str, status: int = 200, wrong: Sequence[Wrong] = ()) -> Response:
    fields = standing.sealed_fields
    reasons = [reason for reason in DisclosureReason if any(reason in REASONS[field] for field in fields)]
    return visit.render(
        "requests_disclosures.html",
        status,
        view=standing.view,
        case_code=case_code,
        fields=fields,
        reasons=reasons,
        wrong=wrong,
        typed=typed(visit),
        command=command,
    )


PAGES: tuple[Page, ...] = (sealed_fields, open_sealed_field)
