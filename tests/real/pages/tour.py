"""Every page somebody can get to by its links: from the first page on, and from each of those."""

import re
from collections import Counter
from collections.abc import Sequence
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from services.gateway.pages import PAGES
from services.gateway.pages.frame import Page

_NAME = re.compile(r"[^/]*\.[^/]*|[0-9a-f]{32}")
"""What is one of many in an address without a role: the type of an event, say."""
_LINK = re.compile(r'<a\b[^>]*\bhref="(/[^"#]*)')
NO_PAGES = ("/language/", "/sign-in", "/static/", "/api/v1/")
AT_MOST = 2
"""So many pages of one kind are looked at."""
STATES_OF_A_CASE = 12
"""A case looks different at every stage."""


def _kind_of_page(page: Page) -> str:
    return re.sub(r"<[^>]+>", "*", page.path)


# A route with fewer open places is the more particular one.
_KINDS = sorted(
    {(kind, re.compile(re.escape(kind).replace(r"\*", "[^/]+"))) for kind in map(_kind_of_page, PAGES)},
    key=lambda one: one[0].count("*"),
)

Tour = dict[str, list[str]]
"""Addresses by what kind of page they are, the nearest first."""


def kind_of(address: str) -> str:
    """What kind of page an address is: the route it is of, and whether it asks for something."""
    parts = urlsplit(address)
    path = next((kind for kind, pattern in _KINDS if pattern.fullmatch(parts.path)), _NAME.sub("*", parts.path))
    return f"{path}?" if parts.query else path


def tour_of(page: Any, begin: Sequence[str]) -> Tour:
    """The addresses of all pages that are linked. They are fetched and not drawn: whoever looks at them draws them."""
    waiting, known = list(begin), set(begin)
    tour: Tour = {}
    seen: Counter[str] = Counter()
    while waiting:
        address = waiting.pop(0)
        kind = kind_of(address)
        seen[kind] += 1
        if seen[kind] > (STATES_OF_A_CASE if kind == "/requests/*" else AT_MOST):
            continue
        answer = page.request.get(address)
        assert answer.ok, f"{answer.status}: {address}"
        if "text/html" not in answer.headers["content-type"]:
            continue  # a document to keep
        tour.setdefault(kind, []).append(address)
        for link in map(unescape, _LINK.findall(answer.text())):
            if link not in known and not link.startswith(NO_PAGES):
                known.add(link)
                waiting.append(link)
    return tour


def pages_for(role: str) -> set[str]:
    """The kinds of pages that are made for this role."""
    return {_kind_of_page(page) for page in PAGES if page.method == "GET" and role in page.roles} - {"/live"}
