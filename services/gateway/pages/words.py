"""What codes are called. The domain speaks in codes; here each has its English words, and the catalogues have the others."""

import logging
from collections.abc import Mapping
from functools import lru_cache

from events.placement import Refusal
from services.gateway.pages.language import gettext, mark
from services.gateway.pages.words_of_codes import CODES, Table
from services.gateway.pages.words_of_events import EVENT_TYPES
from services.gateway.pages.words_of_problems import PROBLEMS, UNEXPECTED, Said

logger = logging.getLogger(__name__)

_NOTHING_THERE = {Refusal.UNKNOWN_REQUEST, Refusal.UNKNOWN_ASK}

TABLES: Mapping[str, Table] = {
    **CODES,
    "EventType": EVENT_TYPES,
    "Refusal": {
        refusal: PROBLEMS["not-found" if refusal in _NOTHING_THERE else refusal.replace("_", "-")].title
        for refusal in Refusal
    },
}
"""By the name of the code list."""


class NoSuchTable(LookupError):
    """A page asked for the words of a code list that has none: a fault of the page."""

    def __init__(self, table: str) -> None:
        super().__init__(f"No words for a code list {table}; there are {', '.join(sorted(TABLES))}.")


def word(table: str, code: str) -> str:
    """What a code is called, in the language of the page. A code that a newer release sent is shown as it is: it must never
    break a page. Raises `NoSuchTable`."""
    if table not in TABLES:
        raise NoSuchTable(table)
    if code not in TABLES[table]:
        _note_missing(table, code)
        return code
    return gettext(TABLES[table][code])


def named(what: str) -> str:
    """What introduces something: with the colon as the language of the page sets it."""
    return gettext("%(what)s:", what=what)


def problem_words(code: str) -> Said:
    """What was wrong and what to do, in the language of the page."""
    said = PROBLEMS.get(code) or (PROBLEMS["http-*"] if code.startswith("http-") else UNEXPECTED)
    return Said(gettext(said.title), gettext(said.remedy))


@lru_cache(maxsize=256)
def _note_missing(table: str, code: str) -> None:
    """Once for each code, not with every page."""
    shown = code if code.isascii() and code.replace("_", "").replace(".", "").isalnum() and len(code) <= 80 else "?"
    logger.warning("no words category=%s reason=%s", table, shown)


__all__ = ["PROBLEMS", "TABLES", "NoSuchTable", "Said", "mark", "problem_words", "word"]
