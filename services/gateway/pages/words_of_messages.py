"""What Haven says when it rings somebody: that something waits, and never what."""

from collections.abc import Mapping

from services.gateway.pages.language import LANGUAGES, mark, translations

_WAITS = mark("Something waits for you.")
_TEXTS: Mapping[str, str] = {
    "asked": _WAITS,
    "waiting": _WAITS,
    "changed": mark("Something you signed has changed."),
    "places": mark("Please confirm your places."),
    "call": mark("Somebody does not answer. Please look at the calls to make."),
    "test": mark("This is a test. Nothing waits for you."),
}

SPOKEN = tuple(language.code for language in LANGUAGES)
"""The languages in which somebody can be rung."""


def message_text(message: str, language: str, link: str) -> str:
    """The whole text of a message."""
    return f"{translations(language).ugettext(_TEXTS[message])} {link}"
