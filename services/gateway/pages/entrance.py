"""Coming in and going out: sign-in, sign-out, the exit, the language, and where somebody is signed in."""

import re
from collections.abc import Mapping

from flask import Blueprint, Response, g, make_response, render_template, request

from events.vocabulary import Role
from services.gateway.pages.frame import (
    FormTooOld,
    Page,
    Site,
    Visit,
    own_path,
    page,
    require_own_form,
    see_other,
)
from services.gateway.pages.language import LANGUAGE_COOKIE, LANGUAGES, gettext, mark
from services.gateway.pages.sessions import session_id_of

EXIT_TO = "https://www.meteo.be/"
"""Where the exit leads: a page of the weather, which says nothing about who opened it."""

_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")

LOOKS_AFTER: Mapping[Role, str] = {
    Role.REFERRER: mark("Opens a request in a minute, and follows its own."),
    Role.SHELTER: mark("Answers what it is asked, and keeps its beds true."),
    Role.COORDINATOR: mark("Sees who must act, chooses among the offers, and signs."),
    Role.GUARDIAN: mark("Speaks for a minor: without this yes nobody travels."),
    Role.ESCORT: mark("Sees one journey while it lasts, and where they meet."),
    Role.AUDITOR: mark("Reads who did, read and opened what, and why."),
}
"""What a visitor would look around as."""

FIRST_PAGE = {
    Role.REFERRER: "/requests",
    Role.SHELTER: "/asks",
    Role.COORDINATOR: "/board",
    Role.GUARDIAN: "/requests",
    Role.ESCORT: "/requests",
    Role.AUDITOR: "/audit",
}


def entrance(site: Site) -> Blueprint:
    """What is open to whoever has not signed in yet, or no longer."""
    blueprint = Blueprint("entrance", __name__)

    @blueprint.get("/")
    def start() -> Response:
        visit = who_looks(site)
        if visit is not None:
            return see_other(FIRST_PAGE[visit.principal.role])
        guests = [(account, gettext(LOOKS_AFTER[account.role])) for account in site.guests()]
        return make_response(render_template("start.html", visit=None, notices=[], kept={}, guests=guests))

    @blueprint.get("/sign-in")
    def sign_in() -> Response:
        """Where the icon on a home screen leads: who is signed in goes on, and nobody else is told what this is."""
        to, name = own_path(request.args.get("to", "/")), request.args.get("as", "")
        if _USER_NAME.fullmatch(name):
            # Somebody wants to be this account, whoever they are now: the link fills in its name, and they give the password.
            return site.login.begin(to, login_hint=name)
        return site.login.begin(to) if who_looks(site) is None else see_other(to)

    @blueprint.get("/signed-in")
    def signed_in() -> Response:
        session, came_from = site.login.finish()
        before = request.cookies.get(site.cookie, "")
        if before:
            site.sessions.end(before)  # whatever it was: nobody brings a session into a sign-in
        # A page and no redirect: coming from another site the browser would leave the strict cookie out of its next request.
        response = make_response(render_template("on_we_go.html", visit=None, notices=[], kept={}, address=came_from))
        site.set_cookie(response, site.cookie, site.sessions.begin(session))
        response.delete_cookie(site.login.flow_cookie, path="/", secure=site.is_secure, httponly=True, samesite="Lax")
        return response

    @blueprint.post("/sign-out")
    def sign_out() -> Response:
        return _leave(site, lambda visit: site.login.sign_out_address(visit.session) or "/")

    @blueprint.post("/exit")
    def leave_fast() -> Response:
        return _leave(site, lambda _visit: EXIT_TO)

    @blueprint.get("/language/<code>")
    def choose(code: str) -> Response:
        response = see_other(own_path(request.args.get("to", "/")))
        if any(code == language.code for language in LANGUAGES):
            site.set_cookie(response, LANGUAGE_COOKIE, code, max_age=365 * 24 * 3600, samesite="Lax")
        return response

    return blueprint


def _leave(site: Site, where) -> Response:  # type: ignore[no-untyped-def]
    visit = who_looks(site)
    address = "/"
    if visit is not None:
        require_own_form(site, visit.session)
        address = where(visit)
        site.sessions.end(visit.cookie)
    elif request.headers.get("Origin", site.url) != site.url:
        raise FormTooOld
    elif request.path == "/exit":
        address = EXIT_TO  # whoever was locked meanwhile still wants to be gone
    # No redirect: form-action would keep a form from leading to another site.
    response = make_response(render_template("on_we_go.html", visit=None, notices=[], kept={}, address=address))
    response.delete_cookie(site.cookie, path="/", secure=site.is_secure, httponly=True, samesite="Strict")
    return _forget(response)


def _forget(response: Response) -> Response:
    """Tells the browser to: its copies of our files, the worker and its shell, and numbers that wait to be sent."""
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


def who_looks(site: Site) -> Visit | None:
    """The visit of whoever is signed in, on a page that is open to everybody; None for a stranger."""
    cookie = request.cookies.get(site.cookie, "")
    session = site.sessions.find(cookie) if cookie else None
    if session is None or session.principal is None or session.is_wall:
        return None
    return Visit(site, cookie, session, {}, g.language) if site.login.may_stay(cookie, session) else None


@page("GET", "/sessions")
def sessions(visit: Visit) -> Response:
    return visit.render(
        "sessions.html", sessions=visit.site.sessions.of(visit.principal.person), own=session_id_of(visit.cookie)
    )


@page("POST", "/sessions/end")
def end_session(visit: Visit) -> Response:
    person = visit.principal.person
    if visit.text("which") == "all":
        visit.site.sessions.end_all(person)
        return _forget(see_other("/"))
    visit.site.sessions.end_one(person, visit.text("which"))
    return visit.go_to("/sessions", gettext("That session has ended."))


PAGES: tuple[Page, ...] = (sessions, end_session)
