"""What the forms about a request share: what was typed, what was wrong with it, and the command they belong to."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from flask import request

from services.gateway.pages.frame import SEALED_ONCE_SENT, Refused, Visit
from services.gateway.pages.language import gettext
from services.gateway.pages.words import problem_words, word

SOON = {"Prefer": "wait=2"}
"""A form waits this many seconds for what becomes of it; then it was received, and is not decided yet."""


@dataclass(frozen=True)
class Typed:
    """What somebody typed: just now, or before they had to sign in once more. Empty for a new form."""

    fields: Mapping[str, Sequence[str]]

    def text(self, name: str, otherwise: str = "") -> str:
        return self.fields[name][0].strip() if self.fields.get(name) else otherwise

    def has(self, name: str, value: str) -> bool:
        return value in self.fields.get(name, ())

    def __bool__(self) -> bool:
        return bool(self.fields)


def typed(visit: Visit) -> Typed:
    """What the form of this page is filled in with."""
    if request.method == "POST":
        return what_was_typed()
    kept = visit.session.kept
    return _typed(kept.fields if kept is not None and kept.path == request.path else ())


def what_was_typed() -> Typed:
    """What was just sent, without what is never shown again."""
    return _typed(request.form.items(multi=True))


def _typed(sent: Iterable[tuple[str, str]]) -> Typed:
    fields: dict[str, list[str]] = {}
    for name, value in sent:
        if name not in SEALED_ONCE_SENT | {"csrf"}:
            fields.setdefault(name, []).append(value)
    return Typed(fields)


@dataclass(frozen=True)
class Wrong:
    """One thing to put right; `at` is the id of its field, empty when it is about the whole."""

    text: str
    at: str = ""


def what_was_wrong(refused: Refused, fields: Mapping[str, Wrong]) -> list[Wrong]:
    """A refusal of the API in words: about a field where it names one that is known here, else what to do next."""
    named = str(refused.problem.get("field", ""))
    for name in (named, re.split(r"[.\[]", named)[0], refused.code):
        if name in fields:
            return [fields[name]]
    said = problem_words(refused.code)
    wrong = [Wrong(said.title), Wrong(said.remedy)]
    if stage := refused.problem.get("stage"):
        wrong.append(Wrong(gettext("The case is now at: %(stage)s.", stage=word("Stage", stage))))
    return wrong


def new_command() -> str:
    return uuid4().hex


def next_command(visit: Visit, refused: Refused) -> str:
    """The key of a form that is shown again. What may have been recorded all the same keeps its own, so that it happens once;
    what was refused is another intent once it is corrected."""
    return visit.text("command") if refused.status >= 500 else new_command()
