"""What codes are called. The domain speaks in codes; here each has its English words, and the catalogues have the others."""

from collections.abc import Mapping
from typing import NamedTuple

from events.vocabulary import Role
from services.gateway.pages.language import gettext


def mark(text: str) -> str:
    """Says that a text is to be translated, where it stands and not where it is shown."""
    return text


class Said(NamedTuple):
    """What was wrong, and what to do next."""

    title: str
    remedy: str


ROLES: Mapping[str, str] = {
    Role.REFERRER: mark("Referrer"),
    Role.SHELTER: mark("Shelter"),
    Role.COORDINATOR: mark("Focal point"),
    Role.GUARDIAN: mark("Guardian"),
    Role.ESCORT: mark("Escort"),
    Role.AUDITOR: mark("Auditor"),
}

PROBLEMS: Mapping[str, Said] = {
    "not-found": Said(mark("There is nothing here for you"), mark("Check the address, or ask who gave it to you.")),
    "wrong-role": Said(mark("Your role cannot do this"), mark("Ask somebody whose role can.")),
    "form-too-old": Said(
        mark("This form is too old"), mark("Nothing was changed. Open the page again and send it once more.")
    ),
    "sign-in-not-begun": Said(
        mark("This sign-in was not begun here"), mark("Go to the first page and sign in from there.")
    ),
    "sign-in-failed": Said(
        mark("You could not be signed in"),
        mark("Try once more. If it fails again, ask whoever manages your account."),
    ),
    "sign-in-unavailable": Said(
        mark("Sign-in does not work right now"),
        mark("Try again in a minute. If it is urgent, phone the focal point of your country."),
    ),
    "not-recorded": Said(
        mark("This was not recorded"),
        mark("Send it again. If it is urgent, phone the focal point of your country."),
    ),
}

_UNEXPECTED = Said(
    mark("Something went wrong on our side"),
    mark("Send it again; nothing happens twice. If it is urgent, phone the focal point of your country."),
)

TABLES: Mapping[str, Mapping[str, str]] = {"Role": ROLES}
"""By the name of the code list (`events.vocabulary`)."""


def word(table: str, code: str) -> str:
    """What a code is called, in the language of the page."""
    return gettext(TABLES[table][code])


def problem_words(code: str) -> Said:
    """What was wrong and what to do, in the language of the page."""
    said = PROBLEMS.get(code, _UNEXPECTED)
    return Said(gettext(said.title), gettext(said.remedy))
