"""What the embedded authorization server grants, as Authlib wants it said: clients, codes, access tokens, revocation."""

import hashlib
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

import msgspec
from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from joserfc import jwt
from joserfc.jwk import ECKey

from services.gateway.principals import SCOPES_OF_ROLE, Account, Principal, Scope
from services.gateway.token_errors import InvalidToken
from services.gateway.token_store import TokenStore
from services.gateway.tokens import LONGEST_LIFETIME

CODE_LIFETIME = timedelta(seconds=60)
TOKEN_LIFETIME = LONGEST_LIFETIME

_AuthlibResponse = tuple[int, str, list[tuple[str, str]]]

PASSWORD_ACR = "urn:haven:acr:password"  # noqa: S105
"""How everybody signs in here (`acr`): with one secret."""

_CODES_KEPT = 10_000
_SHA256_IN_BASE64URL = re.compile(r"[A-Za-z0-9_-]{43}")
_SECONDS = re.compile(r"[0-9]{1,9}")


class PagesClient(msgspec.Struct, frozen=True, kw_only=True):
    """The node's own pages as an OAuth client: confidential, with the exact addresses it may be sent back to."""

    client_id: str
    secret: str
    redirect_uris: frozenset[str]


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Authlib's `ClientMixin` by duck typing: the pages, which act for whoever signs in, or a program acting for one account."""

    client_id: str
    grant_type: str
    scopes: frozenset[Scope]
    redirect_uris: frozenset[str] = frozenset()

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """All that may be had if nothing is asked for; `None`, which Authlib answers with `invalid_scope`, if a scope does
        not exist or none of those asked for may be had."""
        asked = frozenset(scope.split()) if scope else self.scopes
        granted = asked & self.scopes
        if not granted or not asked <= frozenset(Scope):
            return None
        return " ".join(sorted(granted))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        # Character by character (RFC 9700 section 2.1): cleverer comparisons have let somebody else's address through.
        return redirect_uri in self.redirect_uris

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, _response_type: str) -> bool:
        # `CodeRules` refuses what is not "code". Authlib would quote the client's text, and fail on forbidden characters.
        return True

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == self.grant_type


class AuthorizationCode(msgspec.Struct, kw_only=True):
    """An issued authorization code. It knows the id of its token beforehand, so that a second use can revoke that token
    even while the first use is still being answered."""

    account: Account
    client_id: str
    redirect_uri: str
    code_challenge: str
    scope: str
    token_id: str
    issued_at: datetime
    """When the person signed in: the page always asks."""
    dpop_jkt: str = ""
    """Thumbprint of the key that must redeem it, if the client named one (RFC 9449 section 10)."""
    used: bool = False
    code_challenge_method: str = "S256"

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class _IssuedToken(msgspec.Struct, frozen=True):
    principal: Principal

    def check_client(self, client: Client) -> bool:
        return self.principal.client_id == client.client_id


class AuthorizationCodes:
    """Codes by their digest, each good for one use within `CODE_LIFETIME`, and remembered for as long as its token lives."""

    def __init__(self, store: TokenStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._codes: dict[str, AuthorizationCode] = {}

    def add(self, code: str, issued: AuthorizationCode) -> None:
        with self._lock:
            oldest_kept = self._now() - CODE_LIFETIME - TOKEN_LIFETIME
            while self._codes:
                digest, oldest = next(iter(self._codes.items()))
                if oldest.issued_at > oldest_kept and len(self._codes) < _CODES_KEPT:
                    break
                del self._codes[digest]
            self._codes[_digest(code)] = issued

    def take(self, code: str, client_id: str) -> AuthorizationCode | None:
        """Uses the code up, whatever becomes of the request: whoever has a stolen one gets a single guess at its verifier."""
        with self._lock:
            issued = self._codes.get(_digest(code))
            if issued is None or issued.client_id != client_id:
                return None
            if issued.used:
                # RFC 6749 section 4.1.2: two holders of one code means that one of them stole it.
                self._store.revoke(issued.token_id, self._now() + TOKEN_LIFETIME)
                return None
            issued.used = True
            return issued if self._now() - issued.issued_at < CODE_LIFETIME else None


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


class AccessTokens:
    """Makes RFC 9068 tokens; called by Authlib. Its own generator names no key and takes no clock.

    `sender_key()` gives the thumbprint of the key whose possession the present request shows, to bind the token to; `None`
    if it shows none. It is asked last: a proof is used up by whoever would get a token, and by nobody else.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        signing_key: ECKey,
        accounts: Mapping[str, Account],
        sender_key: Callable[[], str | None],
        now: Callable[[], datetime],
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._signing_key = signing_key
        self._accounts = accounts
        self._sender_key = sender_key
        self._now = now

    def __call__(
        self, *, client: Client, scope: str | None, user: AuthorizationCode | None, **_: object
    ) -> dict[str, Any]:
        granted = client.get_allowed_scope(scope)
        if granted is None:
            raise InvalidScopeError
        key = self._sender_key()
        if user and user.dpop_jkt and user.dpop_jkt != key:
            raise InvalidGrantError  # whoever stole the code has another key, or none
        account = user.account if user else self._accounts[client.client_id]
        issued_at = int(self._now().timestamp())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": account.username,
            "client_id": client.client_id,
            "iat": issued_at,
            "exp": issued_at + int(TOKEN_LIFETIME.total_seconds()),
            "jti": user.token_id if user else secrets.token_urlsafe(16),
            "scope": granted,
            "haven_person": account.person,
            "haven_role": account.role,
            "haven_organisation": account.organisation,
            "haven_country": account.country,
            # A program here acts for the person whose account it is, and signs in with that person's own secret.
            "auth_time": int(user.issued_at.timestamp()) if user else issued_at,
            "acr": PASSWORD_ACR,
        } | ({"cnf": {"jkt": key}} if key else {})
        header = {"alg": "ES256", "typ": "at+jwt", "kid": self._signing_key.kid}
        return {
            "token_type": "DPoP" if key else "Bearer",
            "access_token": jwt.encode(header, claims, self._signing_key, algorithms=["ES256"]),
            "expires_in": int(TOKEN_LIFETIME.total_seconds()),
            "scope": granted,
        }


class CodeRules(CodeChallenge):  # type: ignore[misc]  # Authlib ships no types
    """What every authorization request must carry: `state`, and PKCE with S256. Authlib asks for neither of a confidential
    client, and takes `plain`."""

    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar[list[str]] = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str | None) -> None:
        parameters = grant.request.payload.data
        # Authlib looks at five of them only (RFC 6749 section 3.1).
        if any(len(values) > 1 for values in grant.request.payload.datalist.values()):
            raise InvalidRequestError
        if parameters.get("response_type") != "code":
            raise OAuth2Error(error="unsupported_response_type")
        if not parameters.get("state"):
            raise InvalidRequestError
        if parameters.get("code_challenge_method") != "S256":
            raise InvalidRequestError
        if not _SHA256_IN_BASE64URL.fullmatch(parameters.get("code_challenge", "")):
            raise InvalidRequestError
        if "dpop_jkt" in parameters and not _SHA256_IN_BASE64URL.fullmatch(parameters["dpop_jkt"]):
            raise InvalidRequestError
        _check_sign_in_asked_for(parameters)
        super().validate_code_challenge(grant, redirect_uri)


def _check_sign_in_asked_for(parameters: Mapping[str, str]) -> None:
    """How the client wants the person signed in (OpenID Connect Core section 3.1.2.1, RFC 9470 section 4). The page asks
    every time and there is one way to answer it, so any `max_age` is met, and nothing that needs another way ever is."""
    if "max_age" in parameters and not _SECONDS.fullmatch(parameters["max_age"]):
        raise InvalidRequestError
    match parameters.get("prompt", "login"):
        case "login":
            pass
        case "none":
            raise OAuth2Error(error="login_required")
        case _:
            raise InvalidRequestError
    if "acr_values" in parameters and PASSWORD_ACR not in parameters["acr_values"].split(" "):
        raise OAuth2Error(error="unmet_authentication_requirements")


class CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]  # Authlib ships no types
    """The authorization code grant (RFC 6749 section 4.1), cut down to the scopes of whoever signed in."""

    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = ["client_secret_basic"]

    @classmethod
    def check_authorization_endpoint(cls, _request: Any) -> bool:
        return True

    @staticmethod
    def validate_authorization_redirect_uri(asked: Any, client: Client) -> str:
        # Authlib's own puts the refused address into its message, and fails on a backslash in it.
        redirect_uri: str | None = asked.payload.redirect_uri
        if not redirect_uri or not client.check_redirect_uri(redirect_uri):
            raise InvalidRequestError
        return redirect_uri

    def create_authorization_response(self, redirect_uri: str, grant_user: Account) -> _AuthlibResponse:
        _, _, headers = super().create_authorization_response(redirect_uri, grant_user)
        # 303, so that no browser ever sends the password on to the client (FAPI 2.0: 303, never 307).
        return 303, "", [("Location", add_params_to_uri(dict(headers)["Location"], [("iss", self.server.issuer)]))]

    def save_authorization_code(self, code: str, asked: Any) -> None:
        scopes = SCOPES_OF_ROLE[asked.user.role].intersection(asked.scope.split())
        if not scopes:
            raise InvalidScopeError(redirect_uri=asked.payload.redirect_uri)
        self.server.codes.add(
            code,
            AuthorizationCode(
                account=asked.user,
                client_id=asked.client.client_id,
                redirect_uri=asked.payload.redirect_uri,
                code_challenge=asked.payload.data["code_challenge"],
                scope=" ".join(sorted(scopes)),
                token_id=secrets.token_urlsafe(16),
                issued_at=self.server.now(),
                dpop_jkt=asked.payload.data.get("dpop_jkt", ""),
            ),
        )

    def query_authorization_code(self, code: str, client: Client) -> AuthorizationCode | None:
        issued: AuthorizationCode | None = self.server.codes.take(code, client.client_id)
        return issued

    def delete_authorization_code(self, _authorization_code: AuthorizationCode) -> None:
        """Nothing: `AuthorizationCodes.take` used it up, and must still know it to notice a second use."""

    def authenticate_user(self, authorization_code: AuthorizationCode) -> AuthorizationCode | None:
        revoked = self.server.store.is_revoked(authorization_code.account.person)
        return None if revoked else authorization_code


class TokenRevocation(RevocationEndpoint):  # type: ignore[misc]  # Authlib ships no types
    """RFC 7009: whoever got a token may take it back."""

    def query_token(self, token_string: str, _token_type_hint: str | None) -> _IssuedToken | None:
        try:
            return _IssuedToken(self.server.verifier.principal(token_string))
        except InvalidToken:
            # RFC 7009 section 2.2: what is no token of ours is already as revoked as can be.
            return None

    def revoke_token(self, token: _IssuedToken, _request: Any) -> None:
        self.server.store.revoke(token.principal.token_id, token.principal.issued_at + TOKEN_LIFETIME)
