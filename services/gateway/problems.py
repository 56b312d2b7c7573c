"""Every no the gateway says, as an RFC 9457 problem document, in one place.

A problem tells what was wrong and what to do next. It never repeats what was sent and never says whether something exists
that the reader may not know.
"""

from collections.abc import Iterable, Mapping

import msgspec
from flask import Response

from events.capacity import ReportRefusal
from events.placement import Refusal
from events.vocabulary import Stage, Step

TYPE_ROOT = "/problems/"
"""A `type` is a reference with its whole path (RFC 9457, 3.1.1): the same name at every installation, and at each of them it leads
to the words of the release that said it (services/gateway/pages/docs.py)."""

STATUSES: Mapping[str, str] = {
    "not-signed-in": "401",
    "proof-required": "401",
    "proof-invalid": "401",
    "sign-in-again": "401",
    "insufficient-scope": "403",
    "sign-in-unavailable": "503",
    "bad-field": "400",
    "malformed": "400",
    "not-json": "415",
    "length-required": "411",
    "too-large": "413",
    "idempotency-key-missing": "400",
    "idempotency-key-used": "422",
    "if-match-missing": "428",
    "too-many-requests": "429",
    "too-many-beds": "429",
    "http-405": "405",
    "http-*": "400-599",
    "not-found": "404",
    "wrong-role": "403",
    "not-your-country": "403",
    "not-your-organisation": "403",
    "erased": "410",
    "already-opened": "409",
    "wrong-stage": "409",
    "not-offered": "409",
    "override-needs-reason": "409",
    "referrer-cannot-sign": "403",
    "same-person": "403",
    "proposal-changed": "409",
    "details-changed": "409",
    "guardian-must-consent": "409",
    "no-transport-consent": "409",
    "arrival-due-in-past": "409",
    "not-the-recipient": "403",
    "not-entitled": "403",
    "reason-does-not-fit": "400",
    "nothing-sealed": "409",
    "not-decided-yet": "503",
    "disclosure-expired": "410",
    "stale-revision": "412",
    "claimed-beds-typed-away": "409",
    "already-registered": "409",
    "profile-does-not-fit": "409",
    "unknown-country": "409",
    "not-recorded": "503",
    "too-many-streams": "503",
    "nothing-live": "503",
    "unexpected": "500",
}
"""Under which HTTP status each problem is said; docs/problems.md has the words."""


class Problem(Exception):
    """Raised anywhere in a request; becomes the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        *,
        next_action: str,
        field: str | None = None,
        rule: str | None = None,
        stage: Stage | None = None,
        next_steps: Iterable[Step] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.document = {
            "type": TYPE_ROOT + code,
            "title": title,
            "status": status,
            "detail": next_action,
            **({"field": field} if field else {}),
            **({"rule": rule} if rule else {}),
            **({"stage": stage} if stage else {}),
            **({"next_steps": [str(step) for step in next_steps]} if stage else {}),
        }
        self.headers = headers or {}
        super().__init__(code)

    def response(self) -> Response:
        answer = Response(msgspec.json.encode(self.document), self.status, content_type="application/problem+json")
        answer.headers.update(self.headers)
        return answer


def not_found() -> Problem:
    """Also for what exists and is not the reader's: the two must not be told apart."""
    return Problem(404, "not-found", "Nothing here for you.", next_action="Check the id, or ask who gave it to you.")


def forbidden(code: str, title: str, next_action: str) -> Problem:
    return Problem(403, code, title, next_action=next_action)


def nothing_live() -> Problem:
    return Problem(
        503,
        "nothing-live",
        "What is shown lies behind, so nothing is live now.",
        next_action="Reload from time to time instead. What you send is kept.",
        headers={"Retry-After": "30"},
    )


def too_many_streams() -> Problem:
    return Problem(
        503,
        "too-many-streams",
        "Too many live streams are open.",
        next_action="Reload from time to time instead.",
        headers={"Retry-After": "30"},
    )


def erased() -> Problem:
    return Problem(410, "erased", "This household was erased.", next_action="Nothing can be read any more, by anybody.")


def bad_field(field: str, rule: str) -> Problem:
    return Problem(
        400,
        "bad-field",
        "One field does not follow its rule.",
        next_action="Correct the field and send the request again; nothing was changed.",
        field=field,
        rule=rule,
    )


def malformed(rule: str) -> Problem:
    return Problem(
        400,
        "malformed",
        "The body could not be read.",
        next_action="Send one JSON object in UTF-8 as the API document describes; nothing was changed.",
        rule=rule,
    )


_REFUSALS: dict[Refusal, tuple[int, str, str]] = {
    Refusal.UNKNOWN_REQUEST: (404, "Nothing here for you.", "Check the id, or ask who gave it to you."),
    Refusal.ALREADY_OPENED: (409, "This request is open already.", "Read it instead of opening it again."),
    Refusal.WRONG_STAGE: (
        409,
        "The request is not where this can be done.",
        "See next_steps for what can be done now.",
    ),
    Refusal.NOT_YOUR_ORGANISATION: (
        403,
        "This is for another organisation to do.",
        "Ask the organisation that owns the next step.",
    ),
    Refusal.NOT_YOUR_COUNTRY: (403, "This is for another country's focal point.", "Ask that country's focal point."),
    Refusal.WRONG_ROLE: (403, "Your role cannot do this.", "Ask somebody whose role can."),
    Refusal.UNKNOWN_ASK: (404, "Nothing here for you.", "Check the id, or ask who gave it to you."),
    Refusal.NOT_OFFERED: (409, "That shelter has not said yes.", "Choose an offer that stands, or wait for an answer."),
    Refusal.OVERRIDE_NEEDS_REASON: (
        409,
        "This is not the first ranked offer.",
        "Give a reason in `override`, or choose the first ranked offer.",
    ),
    Refusal.REFERRER_CANNOT_SIGN: (
        403,
        "Whoever referred the household cannot sign for it.",
        "Ask another coordinator of your country to sign.",
    ),
    Refusal.SAME_PERSON: (
        403,
        "One person cannot sign for both countries.",
        "Ask another coordinator of the host country to countersign.",
    ),
    Refusal.PROPOSAL_CHANGED: (
        409,
        "What you signed is not what stands now.",
        "Read the request again, see what changed, and sign what is shown.",
    ),
    Refusal.GUARDIAN_MUST_CONSENT: (
        409,
        "The guardian has not consented to this.",
        "Ask the guardianship service to record its consent.",
    ),
    Refusal.NO_TRANSPORT_CONSENT: (
        409,
        "The household has not consented to the journey.",
        "Ask the household again and record the answer (scope `transport`).",
    ),
    Refusal.ARRIVAL_DUE_IN_PAST: (
        409,
        "The planned arrival lies in the past.",
        "Plan an arrival that is still to come.",
    ),
    Refusal.NOT_THE_RECIPIENT: (
        403,
        "Only the person signed in can be the recipient.",
        "Ask the person who needs it to sign in and ask for it.",
    ),
    Refusal.NOT_ENTITLED: (403, "This is not released to you.", "Ask the coordinator who owns the request."),
    Refusal.REASON_DOES_NOT_FIT: (400, "This reason cannot justify that field.", "Choose the reason that applies."),
    Refusal.NOTHING_SEALED: (409, "Nobody has given this yet.", "Ask the shelter or the coordinator to give it."),
    Refusal.DETAILS_CHANGED: (
        409,
        "Somebody recorded something else since you looked.",
        "Read the request again, compare, and send what is right with the version it has now.",
    ),
    Refusal.ERASED: (410, "This household was erased.", "Nothing can be read any more, by anybody."),
}


def refused(reason: Refusal, stage: Stage, next_steps: Iterable[Step]) -> Problem:
    """Placement refused the command: the reason, where the request stands and what can be done."""
    status, title, next_action = _REFUSALS[reason]
    if status == 404:
        return not_found()
    return Problem(
        status,
        reason.value.replace("_", "-"),
        title,
        next_action=next_action,
        stage=stage,
        next_steps=next_steps,
    )


_REPORT_REFUSALS: dict[ReportRefusal, tuple[int, str, str]] = {
    ReportRefusal.UNKNOWN_UNIT: (404, "Nothing here for you.", "Check the id, or ask who gave it to you."),
    ReportRefusal.STALE_REVISION: (
        412,
        "A bed of this unit has moved since you looked.",
        "Read the unit again, compare, and report once more.",
    ),
    ReportRefusal.CLAIMED_BEDS_TYPED_AWAY: (
        409,
        "Beds that are held or lived in cannot be typed away.",
        "Count them in: `beds` is at least `free` + `blocked` + held + occupied.",
    ),
    ReportRefusal.ALREADY_REGISTERED: (409, "This unit is registered already.", "Report its capacity instead."),
    ReportRefusal.PROFILE_DOES_NOT_FIT: (
        409,
        "The profile is not of this unit, or its region is not in its country.",
        "Correct the profile and register the unit again.",
    ),
    ReportRefusal.NOT_YOUR_SHELTER: (404, "Nothing here for you.", "Check the id, or ask who gave it to you."),
    ReportRefusal.UNKNOWN_COUNTRY: (409, "That country does not take part.", "Add it to the reference data first."),
}


def report_refused(reason: ReportRefusal) -> Problem:
    """Capacity refused a staff report."""
    status, title, next_action = _REPORT_REFUSALS[reason]
    if status == 404:
        return not_found()
    return Problem(status, reason.value.replace("_", "-"), title, next_action=next_action)
