"""From an offer to a journey: which offer is proposed, who signs, and how the household gets there.

Both signatures bind to the hash of what was shown. What is shown is kept in the form, so that a signer whose proposal has changed
sees what it was and what it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec
from flask import Response, request

from events.placement import Proposal
from events.vocabulary import OverrideReason, Role, SignatureRefusal, Stage
from services.gateway.pages.frame import Answer, Page, Refused, Visit, page
from services.gateway.pages.language import country_name, gettext, ngettext
from services.gateway.pages.requests_forms import SOON, Typed, Wrong, new_command, typed, what_was_wrong
from services.gateway.pages.requests_steps import read_request, request_api
from services.gateway.pages.shortlist import Offer, offers_of
from services.gateway.pages.words import problem_words, word
from services.gateway.pages.words_of_cases import about_case, household_words
from services.gateway.read_model import Json

FOR_THE_FRAME = ("sign-in-again", "not-found", "erased")
"""Refusals after which there is no form to show again."""


@dataclass(frozen=True)
class Changed:
    """One line of a proposal that is no longer what somebody was shown."""

    label: str
    before: str
    now: str


def send(visit: Visit, part: str, body: Json) -> Answer:
    """One command about the request in the path, under the key of the form: sent twice it is done once."""
    return visit.ask("POST", request_api(visit, part), body=body, key=visit.text("command"), headers=SOON)


def wrong_of(refused: Refused, fields: Mapping[str, Wrong]) -> list[Wrong]:
    """Why the API said no, for the form. Raises what the frame answers."""
    if refused.code in FOR_THE_FRAME:
        raise refused
    return what_was_wrong(refused, fields)


def next_command(visit: Visit, status: int, decision: str = "") -> str:
    """The key of a form that is shown after this status. What may have been recorded all the same keeps its own, so that it
    happens once; what was refused is another intent once it is corrected."""
    was_sent = status >= 500 and visit.text("decision") == decision
    return visit.text("command") if was_sent else new_command()


def not_decided_yet() -> str:
    return gettext("Received, and not decided yet. Load this page again in a moment.")


# The first signature


def _offer(visit: Visit, view: Json, ask_id: str) -> Offer | None:
    if Stage(view["stage"]) is not Stage.OFFERED or view["danger_country"] != visit.principal.country:
        return None
    shortlist = visit.ask("GET", request_api(visit, "/shortlist")).data["shortlist"]
    return next((offer for offer in offers_of(view, shortlist) if offer.ask_id == ask_id), None)


def _proposal_page(visit: Visit, ask_id: str, *, wrong: Sequence[Wrong] = (), status: int = 200) -> Response:
    view = read_request(visit)
    offer = _offer(visit, view, ask_id)
    if offer is None:
        is_ours = view["danger_country"] == visit.principal.country
        return visit.render(
            "signing_no_offer.html",
            status if status >= 400 else 409 if is_ours else 403,
            **about_case(visit, view),
            wrong=wrong,
            is_ours=is_ours,
        )
    filled = typed(visit)
    return visit.render(
        "signing_proposal.html",
        status,
        **about_case(visit, view),
        wrong=wrong,
        offer=offer,
        rows=_rows_of_offer(view, offer),
        needs_reason=offer.place > 1 or any(one.at == "override" for one in wrong),
        reasons=[(reason, word("OverrideReason", reason)) for reason in OverrideReason],
        typed=filled if filled.text("ask_id") == ask_id else Typed({}),
        command=next_command(visit, status),
        address=f"/requests/{view['request_id']}/proposal?{urlencode({'ask': ask_id})}",
    )


@page("GET", "/requests/<request_id>/proposal", Role.COORDINATOR)
def choose_offer(visit: Visit) -> Response:
    return _proposal_page(visit, request.args.get("ask", ""))


@page("POST", "/requests/<request_id>/proposal", Role.COORDINATOR)
def propose(visit: Visit) -> Response:
    ask_id = visit.text("ask_id")
    try:
        done = send(visit, "/proposal", {"ask_id": ask_id, "override": visit.text("override") or None})
    except Refused as refused:
        why = Wrong(gettext("Choose why you do not take the first offer"), "override")
        wrong = wrong_of(refused, {"override": why, "override-needs-reason": why})
        return _proposal_page(visit, ask_id, wrong=wrong, status=refused.status)
    said = not_decided_yet()
    if done.status == 200:
        said = gettext("Signed and proposed. The focal point of the host country signs next.")
    return visit.go_to(f"/requests/{visit.path['request_id']}/signature", said)


def _rows_of_offer(view: Json, offer: Offer) -> list[tuple[str, str]]:
    rows = [
        (gettext("Household"), household_words(view["household"])),
        (gettext("Needs"), _words("Need", view["needs"])),
        (gettext("From"), country_name(view["danger_country"])),
        (gettext("To"), country_name(offer.country)),
        (gettext("Shelter and unit"), f"{offer.shelter_id}, {offer.unit_id}"),
        (gettext("Condition of the shelter"), _condition(offer.condition)),
        (gettext("Place among the offers"), _place(offer.place)),
    ]
    if offer.region:
        rows.insert(4, (gettext("Region"), word("Region", offer.region)))
    return rows


# The second signature


def rows_of_proposal(proposal: Proposal) -> list[tuple[str, str]]:
    """Exactly what is signed, line by line."""
    return [
        (gettext("Household"), household_words(msgspec.to_builtins(proposal.household))),
        (gettext("Needs"), _words("Need", proposal.needs)),
        (gettext("Host country"), country_name(proposal.host_country)),
        (gettext("Shelter and unit"), f"{proposal.shelter_id}, {proposal.unit_id}"),
        (gettext("Condition of the shelter"), _condition(proposal.condition)),
        (gettext("Place among the offers"), _place(proposal.rank)),
        (
            gettext("Why not the first offer"),
            word("OverrideReason", proposal.override) if proposal.override else gettext("Does not apply"),
        ),
        (
            gettext("Consent"),
            _consent_seen(proposal.consent_version),
        ),
        (gettext("Rules of matching"), proposal.ruleset),
        (gettext("Hold"), proposal.hold_id),
    ]


def _consent_seen(version: int) -> str:
    """Consents are numbered from the opening on, where some may have been given already."""
    if not version:
        return gettext("As it was said when the request was opened; nobody has said anything else since")
    return ngettext("As it stood after %(num)s answer", "As it stood after %(num)s answers", version)


def what_changed(before: Proposal, now: Proposal | None) -> list[Changed]:
    """The lines that differ between what somebody was shown and what stands; all of them when nothing stands."""
    if now is None:
        return [Changed(label, text, gettext("Does not stand any more")) for label, text in rows_of_proposal(before)]
    pairs = zip(rows_of_proposal(before), rows_of_proposal(now), strict=True)
    return [Changed(label, was, text) for (label, was), (_, text) in pairs if was != text]


def _proposal_of(view: Json) -> tuple[Proposal | None, str]:
    if not view["proposal"]:
        return None, ""
    said = dict(view["proposal"])
    proposal_hash = said.pop("hash")
    return msgspec.convert(said, Proposal), proposal_hash


def _seen(sent: str) -> Proposal | None:
    try:
        return msgspec.json.decode(sent, type=Proposal)
    except (msgspec.DecodeError, ValueError):
        return None


def _signature_page(visit: Visit, *, wrong: Sequence[Wrong] = (), status: int = 200) -> Response:
    view = read_request(visit)
    proposal, proposal_hash = _proposal_of(view)
    filled = typed(visit)
    is_changed = bool(filled.text("proposal_hash")) and filled.text("proposal_hash") != proposal_hash
    seen = _seen(filled.text("seen")) if is_changed else None
    if is_changed and not wrong:
        wrong = [Wrong(problem_words("proposal-changed").title), Wrong(problem_words("proposal-changed").remedy)]
    return visit.render(
        "signing_signature.html",
        status,
        **about_case(visit, view),
        rows=rows_of_proposal(proposal) if proposal else [],
        proposal_hash=proposal_hash,
        seen=msgspec.json.encode(proposal).decode() if proposal else "",
        is_changed=is_changed,
        changed=what_changed(seen, proposal) if seen else [],
        signatures=[one for one in view["signatures"] if one["stands"]] if proposal else [],
        host_country=proposal.host_country if proposal else "",
        may_sign=_may_try_to_sign(view, visit, proposal),
        signed_here=_signed_here(view, visit),
        wrong=wrong,
        typed=filled,
        # What was about to be done is not done by itself to something else than was shown.
        was_about_to="" if is_changed or wrong else filled.text("decision"),
        refusals=[(reason, word("SignatureRefusal", reason)) for reason in SignatureRefusal],
        commands={decision: next_command(visit, status, decision) for decision in ("sign", "refuse")},
        address=f"/requests/{view['request_id']}/signature",
    )


def _signed_here(view: Json, visit: Visit) -> bool:
    return any(one["stands"] and one["person"] == visit.principal.person for one in view["signatures"])


def _may_try_to_sign(view: Json, visit: Visit, proposal: Proposal | None) -> bool:
    """Whether to show the forms: the API decides, and knows more than a page (who the referrer was)."""
    return (
        proposal is not None
        and Stage(view["stage"]) is Stage.PROPOSED
        and proposal.host_country == visit.principal.country
        and not _signed_here(view, visit)
    )


@page("GET", "/requests/<request_id>/signature", Role.COORDINATOR)
def see_proposal(visit: Visit) -> Response:
    return _signature_page(visit)


@page("POST", "/requests/<request_id>/signature", Role.COORDINATOR)
def sign(visit: Visit) -> Response:
    refuses, refusal = visit.text("decision") == "refuse", visit.text("refusal")
    if refuses and not refusal:
        wrong = [Wrong(gettext("Choose why you refuse to sign"), "refusal")]
        return _signature_page(visit, wrong=wrong, status=400)
    if not refuses and visit.text("decision") != "sign":
        return _signature_page(visit, wrong=[Wrong(gettext("Sign, or refuse to sign"), "sign")], status=400)
    body = {"proposal_hash": visit.text("proposal_hash"), "refusal": refusal if refuses else None}
    try:
        done = send(visit, "/countersignature", body)
    except Refused as refused:
        return _not_signed(visit, refused)
    if done.status == 202:
        return visit.go_to(f"/requests/{visit.path['request_id']}/signature", not_decided_yet())
    if refuses:
        return visit.go_to("/board", gettext("You refused to sign. The other country is told why."))
    said = gettext("Signed. Both countries have signed.")
    return visit.go_to(f"/requests/{visit.path['request_id']}/signature", said)


def _not_signed(visit: Visit, refused: Refused) -> Response:
    why = Wrong(gettext("Choose why you refuse to sign"), "refusal")
    wrong = wrong_of(refused, {"refusal": why})
    try:
        return _signature_page(visit, wrong=wrong, status=refused.status)
    except Refused:
        raise refused from None  # what changed took the request out of this country's sight


def _words(table: str, codes: Sequence[str]) -> str:
    return "; ".join(word(table, code) for code in codes) or gettext("None")


def _condition(condition: str | None) -> str:
    return word("AcceptCondition", condition) if condition else gettext("None")


def _place(place: int) -> str:
    if place == 1:
        return gettext("First ranked of the offers that stand")
    return gettext("Number %(place)s of the offers that stand", place=place)


PAGES: tuple[Page, ...] = (choose_offer, propose, see_proposal, sign)
