"""The pages: what people see. A page is a client of the API inside the same process: it can do nothing the API refuses."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from flask import Flask, g, request

from events.vocabulary import Role
from services.config import BadSetting, Settings
from services.gateway.identity import PAGES as CLIENT
from services.gateway.identity import Identity
from services.gateway.pages import (
    asks,
    audit,
    board,
    demand,
    entrance,
    journey,
    live,
    places,
    regions,
    requests,
    shortlist,
    signing,
)
from services.gateway.pages.docs import docs_pages
from services.gateway.pages.frame import Page, Site, frame
from services.gateway.pages.help import help_pages
from services.gateway.pages.language import gettext, language, speak
from services.gateway.pages.login import Login, LoginFailed, origin_of
from services.gateway.pages.offline import offline_pages, static_address
from services.gateway.pages.paper import paper_pages
from services.gateway.pages.sessions import Sessions
from services.gateway.pages.words import mark, problem_words, word
from services.gateway.principals import Account
from services.gateway.routing import Gateway

MENUS: Mapping[Role, tuple[tuple[str, str], ...]] = {
    Role.REFERRER: (("/requests", mark("Cases")),),
    Role.SHELTER: (("/asks", mark("Asks")), ("/places", mark("Our places")), ("/requests", mark("Cases"))),
    Role.COORDINATOR: (
        ("/board", mark("Board")),
        ("/asks", mark("Asks")),
        ("/requests", mark("Cases")),
        ("/regions", mark("Regions")),
        ("/demand", mark("Figures")),
    ),
    Role.GUARDIAN: (("/requests", mark("Cases")),),
    Role.ESCORT: (("/requests", mark("Cases")),),
    Role.AUDITOR: (("/audit", mark("Audit trail")), ("/demand", mark("Figures"))),
}

PAGES: tuple[Page, ...] = (
    *entrance.PAGES,
    *live.PAGES,
    *audit.PAGES,
    *board.PAGES,
    *shortlist.PAGES,
    *signing.PAGES,
    *journey.PAGES,
    *asks.PAGES,
    *places.PAGES,
    *regions.PAGES,
    *demand.PAGES,
    *requests.PAGES,
)
"""Every page for whoever is signed in."""

PAGES_WITHOUT_STREAM = tuple(page for page in PAGES if page not in live.PAGES)
"""Those of a gateway beside which `haven stream` runs."""


def add_pages(
    app: Flask,
    gateway: Gateway,
    identity: Identity,
    sessions: Sessions,
    settings: Settings,
    now: Callable[[], datetime],
    guests: Callable[[], Sequence[Account]] = tuple,
    pages: Sequence[Page] = PAGES,
) -> Site:
    """Gives the application its pages. `now` is real time; `guests` are the demo accounts that the first page leads to; `pages` are
    those that this process serves, with those that are open to all unless it serves the stream alone."""
    login = Login(
        sessions=sessions,
        verifier=identity.verifier,
        metadata=identity.metadata,
        client_id=CLIENT.client_id,
        client_secret=lambda: _secret(identity),
        url=settings.url,
        origin=origin_of(identity.issuer),
        now=now,
        is_revoked=identity.store.is_revoked,
        signing_acr=settings.signing_acr,
        asks_again=bool(settings.issuer),
    )
    gateway.feed.doubts.append(sessions.doubts)
    gateway.feed.unheard = live.Unheard(gateway.unheard)
    site = Site(gateway, sessions, login, guests)
    open_to_all = (
        entrance.entrance(site),
        help_pages(site),
        docs_pages(site, settings.layout),
        offline_pages(),
        paper_pages(site),
    )
    app.register_blueprint(frame(site, pages, open_to_all=() if pages is live.PAGES else open_to_all))
    speak(app.jinja_env)
    app.jinja_env.globals |= {
        "exit_to": entrance.EXIT_TO,
        "minutes_late": lambda: int(gateway.lateness.seconds() // 60),
        "here": lambda: request.full_path.rstrip("?"),
        "language": language,
        "menu": _menu,
        "nonce": lambda: g.nonce,
        "clock_now": gateway.clock,
        "problem_words": problem_words,
        "reference": gateway.reference,
        "speed": settings.exercise_speed,
        "static": static_address,
        "word": word,
    }
    return site


def _menu() -> list[tuple[str, str]]:
    """The pages of whoever looks, in the order in which they are needed."""
    return [(address, gettext(name)) for address, name in MENUS[g.visit.principal.role]]


def _secret(identity: Identity) -> str:
    try:
        return identity.pages_secret()
    except BadSetting:
        raise LoginFailed("sign-in-unavailable", 503) from None
