"""What every page is made of: who looks, in which language, under which headers, and how a page asks the API."""

import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from flask import Blueprint, Response, current_app, g, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from events.log.engines import is_database_trouble
from events.vocabulary import Role
from reference import Reference
from services.gateway import problems
from services.gateway.api import failed
from services.gateway.pages.compression import compressed
from services.gateway.pages.language import LANGUAGE_COOKIE, Language, chosen_language, moment
from services.gateway.pages.login import Login, LoginFailed
from services.gateway.pages.sessions import KeptForm, Session, Sessions, session_id_of
from services.gateway.principals import Account, Principal
from services.gateway.read_model import Json
from services.gateway.routing import EVENT_STREAM, ON_BEHALF_OF, PREFIX, Gateway
from services.gateway.token_errors import TokenError

LARGEST_FORM = 64 * 1024
SEALED_ONCE_SENT = frozenset({"callback", "rendezvous", "steps"})
"""Fields that no page shows again, not even to whoever typed them: so they are not kept either."""
_NEXT_CURSOR = re.compile(r'[?&]cursor=([\w-]+)[^>]*>; rel="next"')
_OWN_PATH = re.compile(r"\A/[A-Za-z0-9_./~-]*(\?[A-Za-z0-9_.~=&%+-]*)?\Z")


class Refused(Exception):
    """The API said no: its problem document, for the page that asked."""

    def __init__(self, status: int, problem: Json) -> None:
        self.status = status
        self.problem = problem
        self.code: str = str(problem.get("type", "")).rpartition("/")[2]
        super().__init__(self.code)


class FormTooOld(Exception):
    """A form without the token of this session: from another site, or from before the last sign-in."""


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    data: Any
    etag: str = ""
    next_cursor: str = ""
    """Leads to the next page of a list; empty on the last one."""


@dataclass(frozen=True)
class Page:
    """One page, or one thing a page can do. A route without one cannot exist."""

    method: str
    path: str
    roles: tuple[Role, ...]
    view: "View"
    in_trouble: "InTrouble | None" = None
    """What is shown when the database fails and nobody knows any more who is there."""
    is_wall: Callable[[], bool] = lambda: False
    lives: bool = False
    """Whether it listens for what moves after it was made."""


View = Callable[["Visit"], Response]
InTrouble = Callable[["Site", str, int], Response]

EVERYBODY = tuple(role for role in Role if role is not Role.SYSTEM)


def page(
    method: str,
    path: str,
    *roles: Role,
    in_trouble: InTrouble | None = None,
    is_wall: Callable[[], bool] = lambda: False,
    lives: bool = False,
) -> Callable[[View], Page]:
    """Declares a page for these roles; for whoever is signed in, if none is named. `is_wall`: whether this request is for what a
    wall shows, which loads itself."""

    def declare(view: View) -> Page:
        return Page(method, path, roles or EVERYBODY, view, in_trouble, is_wall, lives)

    return declare


@dataclass(frozen=True)
class Site:
    """What the pages work with."""

    gateway: Gateway
    sessions: Sessions
    login: Login
    guests: Callable[[], Sequence[Account]] = tuple
    """Demo accounts that a visitor may look around as; none but in the embedded node."""

    @property
    def url(self) -> str:
        """Where people reach the pages: scheme, host and port."""
        return self.login.url

    @property
    def reference(self) -> Reference:
        return self.gateway.reference

    @property
    def is_secure(self) -> bool:
        return self.login.is_secure

    @property
    def cookie(self) -> str:
        return self.login.session_cookie

    def set_cookie(self, response: Response, name: str, value: str, **more: Any) -> None:
        settings: dict[str, Any] = {"path": "/", "httponly": True, "secure": self.is_secure, "samesite": "Strict"}
        response.set_cookie(name, value, **settings | more)


@dataclass
class Visit:
    """One request for a page by somebody who is signed in."""

    site: Site
    cookie: str
    session: Session
    path: Mapping[str, str] = field(default_factory=dict)
    language: Language = field(default_factory=lambda: chosen_language("", ""))
    last_change: int | None = None
    """The last one before anything was read for a page that lives: whoever listens from there on misses nothing."""

    @property
    def principal(self) -> Principal:
        assert self.session.principal is not None
        return self.session.principal

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks the API on behalf of whoever looks at the page; `path` is what follows /api/v1. Raises Refused."""
        sent = dict(headers or {})
        if method == "POST":
            sent["Idempotency-Key"] = key or uuid4().hex
        response = self._dispatched(method, path, query, body, sent)
        data = msgspec.json.decode(response.get_data()) if response.get_data() else None
        next_page = _NEXT_CURSOR.search(response.headers.get("Link", ""))
        return Answer(response.status_code, data, response.headers.get("ETag", ""), next_page[1] if next_page else "")

    def download(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """A file of the API as it comes, never whole in memory. Raises Refused."""
        return self._dispatched("GET", path, query, None, headers)

    def _dispatched(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Json | None, headers: Mapping[str, str]
    ) -> Response:
        context = current_app.test_request_context(
            f"{PREFIX}{path}",
            method=method,
            base_url=self.site.url,
            query_string=dict(query or {}),
            json=body,
            headers=dict(headers),
            environ_overrides={ON_BEHALF_OF: self.principal},
        )
        # What is noted of this call, such as when it began, is not of the page (operations/web.py).
        with current_app.app_context(), context:
            response = current_app.full_dispatch_request()
        if response.status_code >= 400:
            raise Refused(response.status_code, msgspec.json.decode(response.get_data() or b"{}"))
        return response

    def time(self) -> str:
        """The time of day, to say when something was saved."""
        return moment(self.site.gateway.clock(), "HH:mm")

    def text(self, name: str) -> str:
        """One field of the form that was sent, without space around it; empty if it is not there."""
        return request.form.get(name, "").strip()

    def texts(self, name: str) -> list[str]:
        """All values of a field: boxes that were ticked."""
        return request.form.getlist(name)

    def render(self, template: str, status: int = 200, **context: Any) -> Response:
        notices, self.session.notices = self.session.notices, []
        if notices:
            self.site.sessions.keep(self.cookie, self.session)
        before = self.session.kept
        kept = dict(before.fields) if before and before.path == request.path else {}
        came_back = bool(kept) and request.method == "GET"
        return make_response(
            render_template(template, visit=self, notices=notices, kept=kept, came_back=came_back, **context), status
        )

    def take_once(self) -> dict[str, str]:
        """What the page before left for this view of this page alone."""
        taken, self.session.once = self.session.once, {}
        if taken:
            self.site.sessions.keep(self.cookie, self.session)
        return taken

    def go_to(self, path: str, notice: str = "", once: Mapping[str, str] | None = None) -> Response:
        """On to another page, which says once what was done. `once` is what that page takes (`take_once`) and no later one has."""
        if notice:
            self.session.notices = [*self.session.notices, notice]
        if once is not None:
            self.session.once = dict(once)
        self.session.kept = None
        self.site.sessions.keep(self.cookie, self.session)
        return see_other(path)


def see_other(address: str) -> Response:
    """303: what was sent is done, and a reload repeats nothing."""
    return Response(status=303, headers={"Location": address})


def own_path(text: str) -> str:
    """A path on this site, or the first page: what comes from an address is never a way to somewhere else."""
    return text if _OWN_PATH.match(text) and not text.startswith("//") and ".." not in text else "/"


def guarded(site: Site, page: Page) -> Callable[..., Response]:
    """The page behind its rule: signed in, in one of its roles, and a form only with its token."""

    def open_page(**path: str) -> Response:
        try:
            return open_while_all_is_well(**path)
        except Exception as error:
            if page.in_trouble is None or not is_database_trouble(error):
                raise
            problem = failed(error)
            return page.in_trouble(site, problem.code, problem.status)

    def open_while_all_is_well(**path: str) -> Response:
        cookie = request.cookies.get(site.cookie, "")
        is_touch = not (_is_part() or page.is_wall())
        session = site.sessions.find(cookie, is_touch=is_touch) if cookie else None
        if session is None or session.principal is None:
            return _sign_in_first(site)
        if session.is_wall and not page.is_wall():
            return _sign_in_first(site)
        if not site.login.may_stay(cookie, session):
            return _sign_in_first(site)
        last_change = site.gateway.read_model.last_change() if page.lives else None
        visit = Visit(site, cookie, session, path, g.language, last_change)
        g.visit = visit
        if page.method == "POST":
            require_own_form(site, session)
        # A wall leads nowhere; whoever put it there is looked up in `may_stay` all the same.
        if not session.is_wall and site.login.must_ask_again(session, page.method):
            return _sign_in_again(visit, fresh=False)
        if session.principal.role not in page.roles:
            return visit.render("problem.html", 403, code="wrong-role")
        try:
            return page.view(visit)
        except Refused as refused:
            return _refused(visit, refused)

    open_page.__name__ = f"{page.view.__module__.rpartition('.')[2]}_{page.view.__name__}"
    return open_page


def require_own_page(site: Site) -> None:
    """Raises FormTooOld if a form was sent from another site."""
    if request.headers.get("Origin", site.url) != site.url:
        raise FormTooOld
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise FormTooOld


def require_own_form(site: Site, session: Session) -> None:
    """Raises FormTooOld unless the form came from one of our own pages, in this session. All ports of a host share their
    cookies, so the token alone would not do, and neither would the origin: both."""
    require_own_page(site)
    if not hmac.compare_digest(request.form.get("csrf", "").encode(), session.csrf.encode()):
        raise FormTooOld


def _sign_in_first(site: Site) -> Response:
    if _is_part():
        return _load_whole_page()
    if request.method == "GET":
        return site.login.begin(own_path(request.full_path.rstrip("?")))
    cookie = request.cookies.get(site.cookie, "")
    locked = site.sessions.locked(cookie) if cookie else None
    if locked is None or locked.principal is None:
        return site.login.begin("/")  # nobody can say any more whose it is
    require_own_form(site, locked)
    wanted, kept = _what_was_sent(locked.principal)
    return site.login.begin(wanted, kept=kept, replaces=session_id_of(cookie))


def _is_part() -> bool:
    """Whether a script of a page asks: htmx for a part of it, or the browser for the stream."""
    return "HX-Request" in request.headers or request.headers.get("Accept") == EVENT_STREAM


def _load_whole_page() -> Response:
    """A part of a page cannot lead to the issuer: the page is loaded anew, and that does. The stream says so in its own way: a page
    that hears of a change asks for the part of it that changes, or offers to be loaded again."""
    if request.headers.get("Accept") == EVENT_STREAM:
        return Response(b"retry: 10000\n\nevent: moved\ndata: {}\n\n", content_type=EVENT_STREAM)
    return Response(status=204, headers={"HX-Refresh": "true"})


def _refused(visit: Visit, refused: Refused) -> Response:
    if refused.code == "sign-in-again":
        return _sign_in_again(visit, fresh=True)
    return visit.render("problem.html", refused.status, code=refused.code, problem=refused.problem)


def _sign_in_again(visit: Visit, *, fresh: bool) -> Response:
    """By way of the issuer and back to the same page, with what was being sent."""
    if _is_part():
        return _load_whole_page()
    wanted, kept = own_path(request.full_path.rstrip("?")), None
    if request.method == "POST":
        wanted, kept = _what_was_sent(visit.principal)
    return visit.site.login.begin(wanted, fresh=fresh, kept=kept, replaces=session_id_of(visit.cookie))


def _what_was_sent(principal: Principal) -> tuple[str, KeptForm | None]:
    """The page a form belongs to, and what was filled in; the first page, where a form has none of its own."""
    wanted = own_path(request.form.get("page", request.path))
    path = urlsplit(wanted).path
    try:
        current_app.create_url_adapter(request).match(path, method="GET")  # type: ignore[union-attr]
    except HTTPException:
        return "/", None
    unwanted = SEALED_ONCE_SENT | {"csrf"}
    fields = tuple((name, value) for name, value in request.form.items(multi=True) if name not in unwanted)
    return wanted, KeptForm(path=path, fields=fields, person=principal.person)


def frame(site: Site, pages: Iterable[Page], *, open_to_all: Sequence[Blueprint] = ()) -> Blueprint:
    """The pages as one blueprint."""
    blueprint = Blueprint(
        "pages", __name__, template_folder="../templates", static_folder="../static", static_url_path="/static"
    )
    blueprint.before_request(_prepare)
    blueprint.after_request(lambda response: _harden(site, response))
    blueprint.register_error_handler(FormTooOld, lambda _old: _plain_problem("form-too-old", 403))
    blueprint.register_error_handler(LoginFailed, lambda failed: _plain_problem(failed.code, failed.status))
    blueprint.register_error_handler(HTTPException, lambda error: _plain_problem("not-found", error.code or 500))
    # The stream is opened without `visit.ask`, by a script: it has no use for words.
    blueprint.register_error_handler(problems.Problem, lambda problem: problem.response())
    blueprint.register_error_handler(TokenError, lambda _error: _plain_problem("insufficient-scope", 403))
    blueprint.register_error_handler(Exception, _in_trouble)
    blueprint.app_errorhandler(404)(lambda _error: _nothing_here(site))
    for one in pages:
        blueprint.add_url_rule(one.path, view_func=guarded(site, one), methods=[one.method])
    for other in open_to_all:
        blueprint.register_blueprint(other)
    return blueprint


def _prepare() -> None:
    request.max_content_length = LARGEST_FORM
    g.nonce = secrets.token_urlsafe(16)
    g.language = chosen_language(request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("Accept-Language", ""))
    g.visit = None


def _nothing_here(site: Site) -> Response:
    """An address that does not exist: words for a person, a problem document for a program."""
    if request.path.startswith(PREFIX) or not request.accept_mimetypes.accept_html:
        return problems.not_found().response()
    _prepare()
    return _harden(site, _plain_problem("not-found", 404))


def _plain_problem(code: str, status: int) -> Response:
    return make_response(render_template("problem.html", visit=g.get("visit"), notices=[], kept={}, code=code), status)


def _in_trouble(error: Exception) -> Response:
    """Words and telephone numbers, whatever failed: a problem document is for programs."""
    problem = failed(error)
    g.visit = None  # it might need the very thing that fails
    response = _plain_problem(problem.code, problem.status)
    response.headers.update(problem.headers)
    return response


def _harden(site: Site, response: Response) -> Response:
    # "no-referrer" would turn the origin of a form into "null", and that header is checked.
    response.headers["Referrer-Policy"] = "same-origin"
    if site.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
    is_static = request.endpoint == "pages.static"
    if not is_static:  # a file has the policy of everything else, which allows nothing, and is shorter
        response.headers["Content-Security-Policy"] = _policy(site)
    if is_static and response.status_code == 200:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    elif "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return compressed(response, is_static=is_static)


def _policy(site: Site) -> str:
    issuer = urlsplit(site.login.origin)
    return (
        f"default-src 'none'; script-src 'nonce-{g.nonce}' 'strict-dynamic'; style-src 'self'; font-src 'self'; "
        "img-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; "
        # The issuer's origin too: browsers apply form-action to where the answer to a form redirects.
        f"form-action 'self' {issuer.scheme}://{issuer.netloc}; "
        "frame-ancestors 'none'; base-uri 'none'; object-src 'none'; "
        # htmx swaps parts of pages; haven names the address of our worker, and can name no other.
        "require-trusted-types-for 'script'; trusted-types htmx haven"
    )
