"""Signing in and out of the pages, as a client of whoever says who somebody is: the embedded server, or Keycloak."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from flask import Response, request

from services.code_flow import Flow, IssuerUnreachable, SignInFailed, Token, begin, finish
from services.gateway.issuer import Metadata
from services.gateway.key_set import KeysUnavailable
from services.gateway.pages.sessions import KeptForm, Session, Sessions
from services.gateway.token_errors import TokenError
from services.gateway.tokens import TokenVerifier

CHECKED_EVERY = timedelta(minutes=5)
"""How long a person who was locked out at the issuer may still look: as long as an access token lives."""
FORM_UNCHECKED = timedelta(minutes=10)
"""The same for sending a form that was opened before."""
FLOW_COOKIE = "haven-signing-in"


class LoginFailed(Exception):
    """Somebody could not be signed in; `code` names the text that says what to do."""

    def __init__(self, code: str, status: int) -> None:
        self.code = code
        self.status = status
        super().__init__(code)


@dataclass
class Login:
    """The pages' side of the code flow. `metadata` is asked for each sign-in and may raise KeysUnavailable."""

    sessions: Sessions
    verifier: TokenVerifier
    metadata: Callable[[], Metadata]
    client_id: str
    client_secret: Callable[[], str]
    url: str
    origin: str
    """The issuer's: scheme, host and port."""
    now: Callable[[], datetime]
    is_revoked: Callable[[str], bool]
    signing_acr: str = ""
    asks_again: bool = True
    """Whether the issuer keeps a session of its own that can be asked."""

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")

    def begin(
        self,
        came_from: str,
        *,
        fresh: bool = False,
        kept: KeptForm | None = None,
        replaces: str = "",
        login_hint: str = "",
    ) -> Response:
        """Sends the browser to the issuer. `fresh`: the person has to prove anew who they are, as signing demands; what they
        were sending is `kept` for them meanwhile, and their session `replaces` ends once they are back. `login_hint`: the user
        name that is filled in; the password never is."""
        # Whoever walks up to a wall is somebody else than who put it there, whatever the issuer's own session may say.
        flow = self._begin(fresh or self._shows_wall(), login_hint)
        session = Session(csrf=secrets.token_urlsafe(24), flow=flow, came_from=came_from, kept=kept, replaces=replaces)
        response = Response(status=303, headers={"Location": flow.url})
        # Lax: the issuer may be another site, and it is from there that the browser comes back with this cookie.
        response.set_cookie(
            self.flow_cookie,
            self.sessions.begin(session),
            path="/",
            httponly=True,
            secure=self.is_secure,
            samesite="Lax",
            max_age=600,
        )
        return response

    def finish(self) -> tuple[Session, str]:
        """The session of whoever comes back from the issuer, and where they wanted to go. Raises LoginFailed."""
        cookie = request.cookies.get(self.flow_cookie, "")
        begun = self.sessions.find(cookie) if cookie else None
        if begun is None or begun.flow is None:
            raise LoginFailed("sign-in-not-begun", 400)
        self.sessions.end(cookie)  # once, whatever becomes of it
        session = self._session(self._finish(begun.flow))
        assert session.principal is not None
        person = session.principal.person
        if begun.replaces:
            self.sessions.end_one(person, begun.replaces)
        if begun.kept and begun.kept.person == person:
            session.kept = begun.kept
        return session, begun.came_from

    def may_stay(self, cookie: str, session: Session) -> bool:
        """Whether nobody has revoked this person meanwhile (`haven revoke`); asked for every page."""
        assert session.principal is not None
        if not self.is_revoked(session.principal.person):
            return True
        self.sessions.end(cookie)
        return False

    def must_ask_again(self, session: Session, method: str) -> bool:
        """Whether it is time to ask the issuer if this person may still be here: somebody who was locked out there is out here
        too. The issuer answers by itself while its own session lasts, and nobody notices but for a blink. A form is given
        longer, so that it can be filled in. The demo sign-in has no session of its own to ask."""
        asked = int(self.now().timestamp()) - session.checked_at
        limit = FORM_UNCHECKED if method == "POST" else CHECKED_EVERY
        return self.asks_again and asked >= limit.total_seconds()

    def sign_out_address(self, session: Session) -> str:
        """Where the issuer ends its own session too; empty if it cannot."""
        try:
            metadata = self.metadata()
        except KeysUnavailable:
            return ""
        if not metadata.end_session_endpoint:
            return ""
        query = {"client_id": self.client_id, "post_logout_redirect_uri": f"{self.url}/"}
        if session.id_token:
            query["id_token_hint"] = session.id_token
        return f"{metadata.end_session_endpoint}?{urlencode(query)}"

    def _begin(self, fresh: bool, login_hint: str) -> Flow:
        try:
            metadata = self.metadata()
        except KeysUnavailable:
            raise LoginFailed("sign-in-unavailable", 503) from None
        return begin(
            metadata,
            self.client_id,
            f"{self.url}/signed-in",
            max_age=0 if fresh else None,
            acr_values=self.signing_acr if fresh else "",
            login_hint=login_hint,
        )

    def _finish(self, flow: Flow) -> Token:
        answer = request.args.to_dict()
        if any(len(values) > 1 for values in request.args.listvalues()) or sum(map(len, answer.values())) > 8192:
            raise LoginFailed("sign-in-not-begun", 400)
        try:
            return finish(self.metadata(), self.client_id, self.client_secret(), flow, answer)
        except (IssuerUnreachable, KeysUnavailable):
            raise LoginFailed("sign-in-unavailable", 503) from None
        except SignInFailed:
            raise LoginFailed("sign-in-failed", 403) from None

    def _session(self, token: Token) -> Session:
        try:
            principal = self.verifier.principal(token.access_token)
        except TokenError:
            raise LoginFailed("sign-in-failed", 403) from None
        return Session(
            csrf=secrets.token_urlsafe(24),
            principal=principal,
            checked_at=int(self.now().timestamp()),
            id_token=token.id_token,
        )

    def _shows_wall(self) -> bool:
        cookie = request.cookies.get(self.session_cookie, "")
        session = self.sessions.find(cookie, is_touch=False) if cookie else None
        return session is not None and session.is_wall

    @property
    def session_cookie(self) -> str:
        """A browser takes a `__Host-` cookie from nobody else; it needs TLS, which the embedded node has not."""
        return "__Host-haven" if self.is_secure else "haven"

    @property
    def flow_cookie(self) -> str:
        """Of a sign-in under way; gone once it is over."""
        return f"__Host-{FLOW_COOKIE}" if self.is_secure else FLOW_COOKIE


def origin_of(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
