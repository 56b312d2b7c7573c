"""Signing in as a person: who may, how fast, and the one small page that asks."""

import base64
import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from flask import Response, g, make_response, request

from services.gateway.principals import Account

SIGN_INS_PER_NAME = 5
SIGN_INS_PER_PROCESS = 100
SIGN_IN_WINDOW = timedelta(seconds=60)

_NAME_BUCKETS = 1024
_SIGN_IN_COOKIE = "haven_sign_in"


class SignInRefused(Exception):
    """Wrong name, wrong secret or a revoked person: deliberately not said which."""


class TooManySignIns(Exception):
    """Under this name, or in this process: wait `SIGN_IN_WINDOW`."""


class Credentials:
    """Checks names and secrets, and slows down whoever guesses.

    The secrets are random and generated here, so there is no dictionary that a deliberately slow hash would defend against;
    it would only make every program's sign-in, and a start with hundreds of shelters, take seconds. What is kept is an HMAC under
    a key of this process: a memory dump of secrets is worth nothing elsewhere.

    Attempts are counted before they are checked, by a keyed hash of the name into a fixed number of buckets: memory stays bounded,
    parallel guesses do not slip through, and names that do not exist are slowed down exactly like those that do.
    """

    def __init__(self, logins: Mapping[str, str], now: Callable[[], datetime]) -> None:
        self._key = secrets.token_bytes(32)
        self._nobody = secrets.token_bytes(32)
        self._digests = {name: self._hash(secret) for name, secret in logins.items()}
        self._now = now
        self._lock = threading.Lock()
        self._all: deque[datetime] = deque()
        self._by_name: list[deque[datetime]] = [deque() for _ in range(_NAME_BUCKETS)]

    def check(self, name: str, secret: str) -> None:
        """Raises `SignInRefused` or `TooManySignIns`."""
        bucket = self._by_name[int.from_bytes(self._hash(name)[:2]) % _NAME_BUCKETS]
        self._count(bucket)
        if not hmac.compare_digest(self._hash(secret), self._digests.get(name, self._nobody)):
            raise SignInRefused
        with self._lock:
            for attempts in (bucket, self._all):
                if attempts:
                    attempts.pop()

    def _count(self, bucket: deque[datetime]) -> None:
        with self._lock:
            now = self._now()
            for attempts in (bucket, self._all):
                while attempts and now - attempts[0] >= SIGN_IN_WINDOW:
                    attempts.popleft()
            if len(bucket) >= SIGN_INS_PER_NAME or len(self._all) >= SIGN_INS_PER_PROCESS:
                raise TooManySignIns
            bucket.append(now)
            self._all.append(now)

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(errors="surrogatepass"), "sha256")


_STYLE = """
body { margin: 0; font: 1.125rem/1.5 system-ui, sans-serif; color: #0b0c0c; background: #fff; }
main { max-width: 24rem; margin: 0 auto; padding: 1.5rem 1rem; }
label { display: block; margin-top: 1rem; font-weight: 600; }
input, button { box-sizing: border-box; width: 100%; min-height: 2.75rem; padding: .5rem; font: inherit; }
input { border: 2px solid #0b0c0c; }
button { margin-top: 1.5rem; border: 0; color: #fff; background: #1d4f91; font-weight: 600; }
input:focus, button:focus { outline: 3px solid #b45f06; outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0; padding: 0; list-style: none; }
nav li { padding: .25rem 0; }
nav span { font-weight: 600; }
a { color: #1d4f91; }
a:focus { outline: 3px solid #b45f06; outline-offset: 2px; }
.problem { padding: .5rem .75rem; border-left: .375rem solid #b00020; font-weight: 600; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


class SignInPage:
    """The authorization endpoint: one small page. Its CSRF token binds this process, the browser's cookie and the very
    request that is signed in to.

    `sign_in(name, secret)` gives the account or raises `SignInRefused` or `TooManySignIns`.
    """

    def __init__(self, server: AuthorizationServer, sign_in: Callable[[str, str], Account], issuer: str) -> None:
        self._server = server
        self._sign_in = sign_in
        self._issuer = issuer
        self._key = secrets.token_bytes(32)

    def ask(self) -> Response:
        """GET: the form, if the request is one that may be answered."""
        try:
            return self._page(self._server.get_consent_grant().redirect_uri)
        except OAuth2Error as error:
            return self._refusal(error)

    def answer(self) -> Response:
        """POST: back to the client with a code, or the form again."""
        # Authlib reads query and body alike: the body must not be able to change what the query asks for.
        if not set(request.form) <= {"username", "password", "csrf"}:
            return self._refusal(InvalidRequestError())
        try:
            grant = self._server.get_consent_grant()
        except OAuth2Error as error:
            return self._refusal(error)
        if not self._is_our_form():
            return self._page(grant.redirect_uri, "too-old", 403)
        try:
            account = self._sign_in(request.form.get("username", ""), request.form.get("password", ""))
        except SignInRefused:
            return self._page(grant.redirect_uri, "wrong", 403)
        except TooManySignIns:
            return self._page(grant.redirect_uri, "too-many", 429)
        response: Response = self._server.create_authorization_response(grant_user=account, grant=grant)
        response.delete_cookie(_SIGN_IN_COOKIE, path=request.path, httponly=True, samesite="Strict")
        return response

    def _refusal(self, error: OAuth2Error) -> Response:
        # Back to the client if its address is known to be right; else nowhere: an open redirect is an attacker's tool.
        if error.redirect_uri:
            response: Response = self._server.handle_error_response(request, error)
            return response
        return plain_answer(400, "This sign-in link is not valid. Go back to Haven and start again.")

    def _page(self, redirect_uri: str, problem: str = "", status: int = 200) -> Response:
        browser = request.cookies.get(_SIGN_IN_COOKIE) or secrets.token_urlsafe(32)
        page = _form().render(
            style=_STYLE,
            problem=problem,
            csrf=self._csrf(browser),
            here=request.full_path,
            spoken=_speak(),
            username=request.args.get("login_hint", ""),
        )
        response = make_response(page, status)
        client = urlsplit(redirect_uri)
        # The client's origin too: browsers apply form-action to where the answer redirects.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self' {client.scheme}://{client.netloc}; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        secure = self._issuer.startswith("https:")
        response.set_cookie(
            _SIGN_IN_COOKIE, browser, path=request.path, httponly=True, samesite="Strict", secure=secure
        )
        if status == 429:
            response.headers["Retry-After"] = str(int(SIGN_IN_WINDOW.total_seconds()))
        return response

    def _is_our_form(self) -> bool:
        # The origin besides the token, because all ports of a host share their cookies: another local server could plant
        # one whose token it has fetched itself, and so sign the reader in as somebody else.
        if request.headers.get("Origin", self._issuer) != self._issuer:
            return False
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return False
        browser = request.cookies.get(_SIGN_IN_COOKIE)
        given = request.form.get("csrf", "").encode()
        return browser is not None and hmac.compare_digest(given, self._csrf(browser).encode())

    def _csrf(self, browser: str) -> str:
        return hmac.new(self._key, browser.encode() + b"\n" + request.query_string, "sha256").hexdigest()


@cache
def _form() -> jinja2.Template:
    from services.gateway.pages.language import speak  # noqa: PLC0415 - the pages need this module

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
    )
    speak(environment)
    return environment.get_template("sign_in.html")


def _speak() -> str:
    """Chooses the language that the pages are in too, and says which."""
    from services.gateway.pages.language import LANGUAGE_COOKIE, chosen_language  # noqa: PLC0415 - as above

    g.language = chosen_language(request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("Accept-Language", ""))
    return str(g.language.code)


def plain_answer(status: int, text: str) -> Response:
    """One line, for whoever cannot be sent anywhere."""
    return Response(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
