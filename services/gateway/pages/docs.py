"""What a program is told, for people: the API, the events in Kafka, and the problems. Open to all, for it is about nobody, and
who is refused a token has to be able to read why."""

import re
from functools import cache
from typing import Any

from flask import Blueprint, Response, abort, g, make_response, render_template

from events import asyncapi
from events.envelope import CONTRACTS
from events.kafka.layout import Layout
from services.gateway.api import RULES
from services.gateway.pages.docs_events import Message
from services.gateway.pages.entrance import who_looks
from services.gateway.pages.frame import Site, see_other
from services.gateway.pages.words_of_problems import GROUPS
from services.gateway.problems import STATUSES, TYPE_ROOT
from services.gateway.routing import PREFIX

_HTTP_STATUS = re.compile(r"\Ahttp-[45][0-9]{2}\Z")


def docs_pages(site: Site, layout: Layout) -> Blueprint:
    """Pages that need no sign-in. `layout`: the topics of this installation."""
    blueprint = Blueprint("docs", __name__)
    described = cache(
        lambda: asyncapi.document(layout)
    )  # when it is asked for: a process that only serves its API never is

    def shown(template: str, **context: Any) -> Response:
        g.visit = who_looks(site)
        return make_response(render_template(template, visit=g.visit, notices=[], kept={}, **context))

    @blueprint.get("/docs")
    def api() -> Response:
        return shown("docs_api.html", rules=RULES, prefix=PREFIX)

    @blueprint.get("/docs/events")
    def events() -> Response:
        return shown("docs_events.html", document=described(), contracts=CONTRACTS, message=None)

    @blueprint.get("/docs/events/<name>")
    def event(name: str) -> Response:
        if name not in described()["components"]["messages"]:
            abort(404)
        return shown("docs_events.html", document=described(), contracts=CONTRACTS, message=Message(described(), name))

    @blueprint.get("/docs/asyncapi.json")
    def document() -> Response:
        return Response(asyncapi.text(layout), content_type="application/json")

    @blueprint.get("/docs/problems")
    def problems() -> Response:
        return shown("docs_problems.html", groups=GROUPS, statuses=STATUSES)

    @blueprint.get(f"{TYPE_ROOT}<name>")
    def problem(name: str) -> Response:
        if name not in STATUSES and not _HTTP_STATUS.match(name):
            abort(404)
        return see_other(f"/docs/problems#{name if name in STATUSES else 'http-*'}")

    return blueprint
