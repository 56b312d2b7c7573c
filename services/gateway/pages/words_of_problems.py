"""What was wrong and what to do now, for somebody at a page. What a program is told is in docs/problems.md."""

from collections.abc import Mapping
from typing import NamedTuple

from services.gateway.pages.language import mark


class Said(NamedTuple):
    """What was wrong, and what to do next."""

    title: str
    remedy: str


_SIGN_IN_ANEW = mark("Go to the first page and sign in again.")
_TRY_OR_PHONE = mark("Try again in a minute. If it is urgent, phone the focal point of your country.")
_TELL_US = mark("Nothing was changed. Open the page again; if it happens again, tell whoever runs Haven for you.")

UNEXPECTED = Said(
    mark("Something went wrong on our side"),
    mark("Send it again; nothing happens twice. If it is urgent, phone the focal point of your country."),
)

_SIGNING_IN: Mapping[str, Said] = {
    "not-signed-in": Said(mark("You are not signed in, or not any more"), _SIGN_IN_ANEW),
    "sign-in-again": Said(
        mark("A signature needs a person who has just signed in"),
        mark("Sign in again. What you filled in is kept, and nothing was signed yet."),
    ),
    "proof-required": Said(mark("Your sign-in is not protected as it has to be"), _SIGN_IN_ANEW),
    "proof-invalid": Said(mark("Your sign-in could not be checked"), _SIGN_IN_ANEW),
    "insufficient-scope": Said(
        mark("Your account is not allowed to do this"),
        mark("Ask somebody who is allowed to, or whoever manages your account."),
    ),
    "sign-in-unavailable": Said(mark("Sign-in does not work right now"), _TRY_OR_PHONE),
    "sign-in-not-begun": Said(
        mark("This sign-in was not begun here"), mark("Go to the first page and sign in from there.")
    ),
    "sign-in-failed": Said(
        mark("You could not be signed in"),
        mark("Try once more. If it fails again, ask whoever manages your account."),
    ),
}

_INPUT: Mapping[str, Said] = {
    "bad-field": Said(
        mark("One field is not filled in as it should be"),
        mark("Correct the field and send the form again. Nothing was changed."),
    ),
    "malformed": Said(mark("The form could not be read"), _TELL_US),
    "not-json": Said(mark("The form was sent in a way that Haven does not understand"), _TELL_US),
    "length-required": Said(mark("The form arrived incomplete"), _TELL_US),
    "too-large": Said(
        mark("That is too much at once"), mark("Write less and send the form again. Nothing was changed.")
    ),
    "idempotency-key-missing": Said(mark("The form has lost its number"), _TELL_US),
    "idempotency-key-used": Said(
        mark("This form was sent before, with something else in it"),
        mark("The first one counts. Open the page again to see what stands, and change it there."),
    ),
    "if-match-missing": Said(mark("The form does not say which report you saw"), _TELL_US),
    "too-many-requests": Said(
        mark("Too much was asked for in too short a time"), mark("Wait a moment, then load this page again.")
    ),
    "too-many-beds": Said(
        mark("Your organisation has asked for very many beds"),
        mark("Phone the focal point of your country: they are told of this and can open the request."),
    ),
    "http-405": Said(mark("This cannot be done on this page"), mark("Go back to the first page and start from there.")),
    "http-*": Said(mark("The page could not be asked for in this way"), _TELL_US),
    "form-too-old": Said(
        mark("This form is too old"), mark("Nothing was changed. Open the page again and send it once more.")
    ),
}

_WHO_AND_WHAT: Mapping[str, Said] = {
    "not-found": Said(mark("There is nothing here for you"), mark("Check the address, or ask who gave it to you.")),
    "wrong-role": Said(mark("Your role cannot do this"), mark("Ask somebody whose role can.")),
    "not-your-country": Said(
        mark("This is for the focal point of another country"), mark("Ask the focal point of that country.")
    ),
    "not-your-organisation": Said(
        mark("This is for another organisation to do"), mark("Ask the organisation whose turn it is.")
    ),
    "erased": Said(mark("This household was erased"), mark("Nothing can be read any more, by anybody.")),
}

_REQUESTS: Mapping[str, Said] = {
    "already-opened": Said(mark("This request is open already"), mark("Look at it instead of opening it again.")),
    "wrong-stage": Said(
        mark("This cannot be done at this point of the request"),
        mark("Open the request: it shows what can be done now, and by whom."),
    ),
    "not-offered": Said(
        mark("That shelter has not said yes"), mark("Choose an offer that stands, or wait for an answer.")
    ),
    "override-needs-reason": Said(
        mark("This is not the first offer of the shortlist"), mark("Choose a reason, or choose the first offer.")
    ),
    "referrer-cannot-sign": Said(
        mark("Whoever referred the household cannot sign for it"),
        mark("Ask a colleague of the focal point of your country to sign."),
    ),
    "same-person": Said(
        mark("One person cannot sign for both countries"),
        mark("Ask a colleague of the focal point of the host country to countersign."),
    ),
    "proposal-changed": Said(
        mark("What you wanted to sign is not what stands now"),
        mark("Nothing was signed. See what changed, and sign what is shown now."),
    ),
    "details-changed": Said(
        mark("Somebody recorded something else while you looked"),
        mark("Nothing was overwritten. Compare both, and record what is right."),
    ),
    "guardian-must-consent": Said(
        mark("The guardian has not consented to this"), mark("Ask the guardian to record the consent first.")
    ),
    "no-transport-consent": Said(
        mark("The household has not consented to the journey"),
        mark("Ask the household again and record its answer about the journey."),
    ),
    "arrival-due-in-past": Said(
        mark("The planned arrival lies in the past"), mark("Choose a time that is still to come.")
    ),
}

_SEALED: Mapping[str, Said] = {
    "not-the-recipient": Said(
        mark("You can only ask to see this for yourself"),
        mark("Whoever needs it signs in and asks."),
    ),
    "not-entitled": Said(mark("This is not released to you"), mark("Ask the focal point that owns the request.")),
    "reason-does-not-fit": Said(mark("That reason does not fit this field"), mark("Choose the reason that applies.")),
    "nothing-sealed": Said(mark("Nobody has given this yet"), mark("Ask the shelter or the focal point to give it.")),
    "not-decided-yet": Said(
        mark("It is not decided yet whether you may see this"), mark("Wait a few seconds and send the form again.")
    ),
    "disclosure-expired": Said(
        mark("You asked for this more than fifteen minutes ago"),
        mark("Ask again, with the reason that applies now."),
    ),
}

_CAPACITY: Mapping[str, Said] = {
    "stale-revision": Said(
        mark("A bed of this unit has moved since you looked"),
        mark("Compare what you typed with what stands now, and report once more."),
    ),
    "claimed-beds-typed-away": Said(
        mark("Beds that are held or lived in cannot be typed away"),
        mark("Count them in: all beds are at least the free, blocked, held and occupied ones together."),
    ),
    "already-registered": Said(mark("This unit is registered already"), mark("Report its beds instead.")),
    "profile-does-not-fit": Said(
        mark("The profile does not fit this unit or its country"), mark("Correct it and register the unit again.")
    ),
    "unknown-country": Said(
        mark("That country does not take part"), mark("Ask whoever runs Haven for you to add it first.")
    ),
}

_TROUBLE: Mapping[str, Said] = {
    "not-recorded": Said(
        mark("This was not recorded"),
        mark("Send it again. If it is urgent, phone the focal point of your country."),
    ),
    "nothing-live": Said(
        mark("What is shown here lies behind"),
        mark("Load this page again from time to time. What you send is kept. If it cannot wait, phone."),
    ),
    "too-many-streams": Said(
        mark("Too many pages are open that update themselves"),
        mark("Close some of them, or load this page again from time to time."),
    ),
    "unexpected": UNEXPECTED,
}

GROUPS: Mapping[str, Mapping[str, Said]] = {
    mark("Signing in"): _SIGNING_IN,
    mark("Input"): _INPUT,
    mark("Who and what"): _WHO_AND_WHAT,
    mark("A request and its rules"): _REQUESTS,
    mark("Sealed fields"): _SEALED,
    mark("Beds"): _CAPACITY,
    mark("Trouble on our side"): _TROUBLE,
}
"""By what they are about."""

PROBLEMS: Mapping[str, Said] = {code: said for group in GROUPS.values() for code, said in group.items()}
"""By the name of the problem (docs/problems.md), and three that only a page can say: about a form that is too old, and about a
sign-in that did not begin here or failed."""
