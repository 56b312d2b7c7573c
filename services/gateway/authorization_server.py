"""The embedded node's own OAuth 2 authorization server: demo sign-ins, for this machine only.

It serves the node that one person tries out on one computer, with synthetic accounts. It refuses to be more than that: its
issuer must be a loopback address, it answers only to loopback peers that no proxy stands in front of and only under its own
host name, and it does not start beside an external issuer. A deployment signs in at an identity provider of its own.

What it speaks: client credentials for programs (`client_secret_basic`), authorization code with PKCE S256 for the pages
(RFC 6749, 7636, 9700), RFC 9068 tokens of five minutes, revocation (RFC 7009), metadata (RFC 8414) and `iss` in every
authorization response (RFC 9207). No refresh tokens, no implicit or password grant, no dynamic registration.

`AUTHLIB_INSECURE_TRANSPORT` is not needed and never set: since 1.8 Authlib itself takes plain http for a loopback host, and
only for that, so a node that somehow answered under another name would still be refused by the library.

What is kept where: codes live in memory (a restart costs whoever is signing in right now a second try); revocations are on
disk until the token they stop has expired, since a crash must not give a revoked token its remaining minutes back.
"""

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import sqlite3
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import msgspec
from authlib.common.urls import add_params_to_uri
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import (
    InvalidRequestError,
    InvalidScopeError,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, ClientCredentialsGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Blueprint, Response, jsonify, make_response, render_template_string, request
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from services.gateway.principals import SCOPES_OF_ROLE, Account, Principal, Scope
from services.gateway.tokens import LONGEST_LIFETIME, InvalidToken, TokenVerifier, is_loopback

CODE_LIFETIME = timedelta(seconds=60)
TOKEN_LIFETIME = LONGEST_LIFETIME

SIGN_INS_PER_NAME = 5
SIGN_INS_PER_PROCESS = 100
SIGN_IN_WINDOW = timedelta(seconds=60)

_AuthlibResponse = tuple[int, str, list[tuple[str, str]]]

_CODES_KEPT = 10_000
_NAME_BUCKETS = 1024
_LARGEST_REQUEST = 16 * 1024
_SIGN_IN_COOKIE = "haven_sign_in"
_LOGINS_FILE = "demo-logins.json"
_SIGNING_KEY_FILE = "demo-signing-key.pem"
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")
_S256_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


class ConfigurationError(Exception):
    """The node must not start like this; the message says what to change."""


def refuse_when_external(issuer_setting: str | None) -> None:
    """Raises `ConfigurationError` if an identity provider is configured: two issuers would be two sets of accounts, and
    the demo's are printed on the screen."""
    if issuer_setting:
        raise ConfigurationError(
            "An external issuer is configured, so the embedded authorization server with its demo accounts must not run. "
            "Start the services without it, or remove the issuer setting to try Haven out on this machine."
        )


# -- what is kept in the data directory


def load_or_create_logins(data_dir: Path, accounts: Iterable[Account]) -> dict[str, str]:
    """The secret of every account by user name; those without one yet get one of 144 random bits.

    They are kept in `demo-logins.json`, readable by the owner only. An account that is no longer there keeps its line, so that
    it comes back with the same secret. Raises `ConfigurationError` if the file cannot be used; it is never overwritten.
    """
    path = data_dir / _LOGINS_FILE
    known: dict[str, str] = {}
    if (content := _read_private(path)) is not None:
        try:
            known = msgspec.json.decode(content, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{path} cannot be read. Move it away; new demo logins are then made.") from error
    usernames = [account.username for account in accounts]
    missing = {username: secrets.token_urlsafe(18) for username in usernames if username not in known}
    if missing:
        known |= missing
        _write_private(path, msgspec.json.format(msgspec.json.encode(known)))
    return {username: known[username] for username in usernames}


def load_or_create_signing_key(data_dir: Path) -> ECKey:
    """The P-256 key that signs access tokens, made once per data directory. Its id is its RFC 7638 thumbprint.

    Raises `ConfigurationError` if the file is there and cannot be used.
    """
    path = data_dir / _SIGNING_KEY_FILE
    content = _read_private(path)
    if content is None:
        content = ECKey.generate_key("P-256").as_pem(private=True)
        _write_private(path, content)
    try:
        key = ECKey.import_key(content, {"use": "sig", "alg": "ES256"})
    except (JoseError, ValueError) as error:
        raise ConfigurationError(f"{path} holds no signing key. Move it away; a new one is then made.") from error
    if key.curve_name != "P-256" or not key.is_private:
        raise ConfigurationError(f"{path} holds no private P-256 key. Move it away; a new one is then made.")
    key.ensure_kid()
    return key


def public_keys(signing_key: ECKey) -> KeySet:
    """The key set that checks what `signing_key` signs; it holds nothing secret."""
    return KeySet([ECKey.import_key(signing_key.as_dict(private=False))])


def _read_private(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigurationError(f"{path} can be read by others. Run: chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        return None


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file 0600 from its first byte; a crash at any point leaves the old file or the new one, whole.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Revocations:
    """Token ids and person ids that are refused until a given time, in one small SQLite file.

    A revoked person has every token refused and gets no new one. The answer comes from memory, because it is asked for on
    every request; the file is written first, so that what was confirmed as revoked stays so after a crash. One process
    writes it: the embedded node.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._now = now
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS revoked (subject TEXT PRIMARY KEY, until REAL NOT NULL)")
        self._until: dict[str, float] = dict(self._database.execute("SELECT subject, until FROM revoked"))

    def revoke(self, subject: str, until: datetime) -> None:
        """Refuse this token id, or everything of this person id, until then. A later time replaces an earlier one."""
        with self._lock:
            now = self._now().timestamp()
            self._database.execute("DELETE FROM revoked WHERE until <= ?", (now,))
            self._database.execute(
                "INSERT INTO revoked VALUES (?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                (subject, until.timestamp()),
            )
            self._until = dict(self._database.execute("SELECT subject, until FROM revoked"))

    def is_revoked(self, *subjects: str) -> bool:
        """Whether any of these token and person ids is revoked now."""
        now = self._now().timestamp()
        return any(self._until.get(subject, now) > now for subject in subjects)

    def close(self) -> None:
        self._database.close()


# -- what Authlib asks its models for


class PagesClient(msgspec.Struct, frozen=True, kw_only=True):
    """The node's own pages as an OAuth client: confidential, with the exact addresses it may be sent back to."""

    client_id: str
    secret: str
    redirect_uris: frozenset[str]


class _Client(msgspec.Struct, frozen=True, kw_only=True):
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
        # `_CodeRules` refuses what is not "code". Authlib would quote the client's text, and fail on forbidden characters.
        return True

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == self.grant_type


class _Code(msgspec.Struct, kw_only=True):
    """An issued authorization code. It knows the id of its token beforehand, so that a second use can revoke that token
    even while the first use is still being answered."""

    account: Account
    client_id: str
    redirect_uri: str
    code_challenge: str
    scope: str
    token_id: str
    issued_at: datetime
    used: bool = False
    code_challenge_method: str = "S256"

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class _IssuedToken(msgspec.Struct, frozen=True):
    principal: Principal

    def check_client(self, client: _Client) -> bool:
        return self.principal.client_id == client.client_id


class _Codes:
    """Codes by their digest, each good for one use within `CODE_LIFETIME`, and remembered for as long as its token lives."""

    def __init__(self, revocations: Revocations, now: Callable[[], datetime]) -> None:
        self._revocations = revocations
        self._now = now
        self._lock = threading.Lock()
        self._codes: dict[str, _Code] = {}

    def add(self, code: str, issued: _Code) -> None:
        with self._lock:
            oldest_kept = self._now() - CODE_LIFETIME - TOKEN_LIFETIME
            while self._codes:
                digest, oldest = next(iter(self._codes.items()))
                if oldest.issued_at > oldest_kept and len(self._codes) < _CODES_KEPT:
                    break
                del self._codes[digest]
            self._codes[_digest(code)] = issued

    def take(self, code: str, client_id: str) -> _Code | None:
        """Uses the code up, whatever becomes of the request: whoever has a stolen one gets a single guess at its verifier."""
        with self._lock:
            issued = self._codes.get(_digest(code))
            if issued is None or issued.client_id != client_id:
                return None
            if issued.used:
                # RFC 6749 section 4.1.2: two holders of one code means that one of them stole it.
                self._revocations.revoke(issued.token_id, self._now() + TOKEN_LIFETIME)
                return None
            issued.used = True
            return issued if self._now() - issued.issued_at < CODE_LIFETIME else None


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


# -- who may sign in


class _SignInRefused(Exception):
    """Wrong name, wrong secret or a revoked person: deliberately not said which."""


class _TooManySignIns(Exception):
    pass


class _Credentials:
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
        """Raises `_SignInRefused` or `_TooManySignIns`."""
        bucket = self._by_name[int.from_bytes(self._hash(name)[:2]) % _NAME_BUCKETS]
        self._count(bucket)
        if not hmac.compare_digest(self._hash(secret), self._digests.get(name, self._nobody)):
            raise _SignInRefused
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
                raise _TooManySignIns
            bucket.append(now)
            self._all.append(now)

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(errors="surrogatepass"), "sha256")


# -- the protocol, by Authlib


class _AccessTokens(JWTBearerTokenGenerator):  # type: ignore[misc]  # Authlib ships no types
    """RFC 9068 tokens. Authlib's own neither name the key nor let the clock be passed in."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        signing_key: ECKey,
        accounts: Mapping[str, Account],
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(issuer, alg="ES256", expires_generator=int(TOKEN_LIFETIME.total_seconds()))
        self._audience = audience
        self._signing_key = signing_key
        self._accounts = accounts
        self._now = now

    def access_token_generator(self, *, client: _Client, user: _Code | None, scope: str, **_: object) -> str:
        account = user.account if user else self._accounts[client.client_id]
        issued_at = int(self._now().timestamp())
        return jwt.encode(
            {"alg": self.alg, "typ": "at+jwt", "kid": self._signing_key.kid},
            {
                "iss": self.issuer,
                "aud": self._audience,
                "sub": account.username,
                "client_id": client.client_id,
                "iat": issued_at,
                "exp": issued_at + int(TOKEN_LIFETIME.total_seconds()),
                "jti": user.token_id if user else secrets.token_urlsafe(16),
                "scope": scope,
                "haven_person": account.person,
                "haven_role": account.role,
                "haven_organisation": account.organisation,
                "haven_country": account.country,
            },
            self._signing_key,
            algorithms=[self.alg],
        )


class _CodeRules(CodeChallenge):  # type: ignore[misc]  # Authlib ships no types
    """What every authorization request must carry: `state`, and PKCE with S256. Authlib asks for neither of a confidential
    client, and takes `plain`."""

    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar[list[str]] = ["S256"]

    def validate_code_challenge(self, grant: Any, redirect_uri: str | None) -> None:
        parameters = grant.request.payload.data
        if parameters.get("response_type") != "code":
            raise OAuth2Error(error="unsupported_response_type")
        if not parameters.get("state"):
            raise InvalidRequestError
        if parameters.get("code_challenge_method") != "S256":
            raise InvalidRequestError
        if not _S256_CHALLENGE.fullmatch(parameters.get("code_challenge", "")):
            raise InvalidRequestError
        super().validate_code_challenge(grant, redirect_uri)


class _CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]  # Authlib ships no types
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = ["client_secret_basic"]

    @classmethod
    def check_authorization_endpoint(cls, _request: Any) -> bool:
        return True

    @staticmethod
    def validate_authorization_redirect_uri(asked: Any, client: _Client) -> str:
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
            _Code(
                account=asked.user,
                client_id=asked.client.client_id,
                redirect_uri=asked.payload.redirect_uri,
                code_challenge=asked.payload.data["code_challenge"],
                scope=" ".join(sorted(scopes)),
                token_id=secrets.token_urlsafe(16),
                issued_at=self.server.now(),
            ),
        )

    def query_authorization_code(self, code: str, client: _Client) -> _Code | None:
        issued: _Code | None = self.server.codes.take(code, client.client_id)
        return issued

    def delete_authorization_code(self, _authorization_code: _Code) -> None:
        """Nothing: `_Codes.take` used it up, and must still know it to notice a second use."""

    def authenticate_user(self, authorization_code: _Code) -> _Code | None:
        revoked = self.server.revocations.is_revoked(authorization_code.account.person)
        return None if revoked else authorization_code


class _Revocation(RevocationEndpoint):  # type: ignore[misc]  # Authlib ships no types
    def query_token(self, token_string: str, _token_type_hint: str | None) -> _IssuedToken | None:
        try:
            return _IssuedToken(self.server.verifier.principal(token_string))
        except InvalidToken:
            # RFC 7009 section 2.2: what is no token of ours is already as revoked as can be.
            return None

    def revoke_token(self, token: _IssuedToken, _request: Any) -> None:
        self.server.revocations.revoke(token.principal.token_id, token.principal.issued_at + TOKEN_LIFETIME)


class _Server(AuthorizationServer):  # type: ignore[misc]  # Authlib ships no types
    """Authlib's server over the demo accounts. Its errors carry a code and our own advice, never what the client sent."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        signing_key: ECKey,
        accounts: Mapping[str, Account],
        logins: Mapping[str, str],
        pages: PagesClient,
        store: Revocations,
        now: Callable[[], datetime],
    ) -> None:
        clients = {
            account.client_id: _Client(
                client_id=account.client_id, grant_type="client_credentials", scopes=SCOPES_OF_ROLE[account.role]
            )
            for account in accounts.values()
        }
        clients[pages.client_id] = _Client(
            client_id=pages.client_id,
            grant_type="authorization_code",
            scopes=frozenset(Scope),
            redirect_uris=pages.redirect_uris,
        )
        # Tokens describe themselves: there is nothing to save.
        super().__init__(query_client=clients.get, save_token=lambda _token, _request: None)
        self.issuer = issuer
        self.now = now
        self.revocations = store
        self.codes = _Codes(store, now)
        keys = public_keys(signing_key)
        self.verifier = TokenVerifier(
            issuer=issuer,
            audience=audience,
            countries={account.country for account in accounts.values()},
            jwks=lambda: keys,
            is_revoked=store.is_revoked,
            now=now,
        )
        self._accounts = accounts
        self._credentials = _Credentials({**logins, pages.client_id: pages.secret}, now)
        self.register_token_generator("default", _AccessTokens(issuer, audience, signing_key, accounts, now))
        self.register_client_auth_method("client_secret_basic", self._authenticate_client)
        self.register_grant(_CodeGrant, [_CodeRules(required=True)])
        self.register_grant(ClientCredentialsGrant)
        self.register_endpoint(_Revocation)

    def sign_in(self, username: str, password: str) -> Account:
        """The account of this person. Raises `_SignInRefused` or `_TooManySignIns`."""
        self._credentials.check(username, password)
        account = self._accounts.get(username)
        if account is None or self.revocations.is_revoked(account.person):
            raise _SignInRefused
        return account

    def _authenticate_client(self, query_client: Callable[[str], _Client | None], _request: Any) -> _Client | None:
        # Authlib's own fails on a header that is not base64 of UTF-8; RFC 6749 section 2.3.1 has both halves form-encoded.
        given = request.authorization
        if given is None or given.type != "basic":
            return None
        client_id, secret = unquote(given.username or ""), unquote(given.password or "")
        try:
            client = query_client(client_id)
            if client is not None and client.grant_type == "authorization_code":
                self._credentials.check(client_id, secret)
            else:
                self.sign_in(client_id, secret)
        except _SignInRefused:
            return None
        except _TooManySignIns:
            raise OAuth2Error(error="temporarily_unavailable", status_code=429) from None
        return client

    def handle_error_response(self, _request: Any, error: OAuth2Error) -> Response:
        if error.redirect_uri:
            answer = [("error", error.error), ("state", error.state), ("iss", self.issuer)]
            location = add_params_to_uri(error.redirect_uri, [(name, value) for name, value in answer if value])
            return Response(status=303, headers={"Location": location})
        response = jsonify(error=error.error, error_description=_ADVICE.get(error.error, _ADVICE["invalid_request"]))
        response.status_code = error.status_code
        if error.status_code == 401:
            response.headers["WWW-Authenticate"] = 'Basic realm="haven"'
        if error.status_code == 429:
            response.headers["Retry-After"] = str(int(SIGN_IN_WINDOW.total_seconds()))
        return response


_ADVICE = {
    "invalid_request": "A parameter is missing, given twice or not allowed. Check the request and send it again.",
    "invalid_client": "The client id or its secret is wrong. Send both with HTTP Basic.",
    "invalid_grant": "The code is wrong, used or older than a minute, or does not match its request. Sign in again.",
    "invalid_scope": "No scope asked for can be given to this account. Ask for fewer, or for none to get all it has.",
    "unauthorized_client": "This client may not use this grant. Programs use client_credentials, pages authorization_code.",
    "unsupported_grant_type": "Use client_credentials or authorization_code.",
    "unsupported_token_type": "Only access tokens exist here.",
    "temporarily_unavailable": "Too many attempts. Wait a minute and try again.",
}


# -- the blueprint


def authorization_server(
    *,
    issuer: str,
    audience: str,
    signing_key: ECKey,
    accounts: Iterable[Account],
    logins: Mapping[str, str],
    pages: PagesClient,
    store: Revocations,
    now: Callable[[], datetime],
) -> Blueprint:
    """The embedded authorization server as a Flask blueprint: `/oauth/...` and its RFC 8414 metadata.

    `issuer` is scheme, host and port of this node, nothing more. `logins` maps user names to secrets. `now` is real time.
    Raises `ConfigurationError` if the issuer or an address of the pages is not on this machine.
    """
    by_name = {account.username: account for account in accounts}
    host = _host_of(issuer)
    for redirect_uri in pages.redirect_uris:
        _refuse_elsewhere(redirect_uri, "The address of the pages")
    if pages.client_id in by_name:
        raise ConfigurationError("The client id of the pages is also a user name. Give the pages another one.")
    # At DEBUG Authlib writes tokens to the log, and its client code verifiers (authlib.oauth2.rfc6749.grants, base_client).
    logging.getLogger("authlib").setLevel(logging.WARNING)
    server = _Server(
        issuer=issuer,
        audience=audience,
        signing_key=signing_key,
        accounts=by_name,
        logins=logins,
        pages=pages,
        store=store,
        now=now,
    )
    sign_in = _SignIn(server)
    key_set = public_keys(signing_key).as_dict(private=False)
    blueprint = Blueprint("authorization_server", __name__)
    blueprint.before_request(lambda: _refuse_strangers(issuer, host))
    blueprint.after_request(_harden)
    blueprint.get("/oauth/authorize")(sign_in.ask)
    blueprint.post("/oauth/authorize")(sign_in.answer)

    @blueprint.get("/.well-known/oauth-authorization-server")
    def metadata() -> Response:
        return jsonify(_metadata(issuer))

    @blueprint.get("/oauth/jwks.json")
    def jwks() -> Response:
        return jsonify(key_set)

    @blueprint.post("/oauth/token")
    def token() -> Response:
        response: Response = _ambiguous_form(server) or server.create_token_response()
        return response

    @blueprint.post("/oauth/revoke")
    def revoke() -> Response:
        response: Response = _ambiguous_form(server) or server.create_endpoint_response("revocation")
        return response

    return blueprint


def _refuse_strangers(issuer: str, host: str) -> Response | None:
    request.max_content_length = _LARGEST_REQUEST
    # Behind a proxy on this machine the whole world has a loopback address.
    proxied = any(header in request.headers for header in _PROXY_HEADERS)
    if proxied or not is_loopback(request.remote_addr or ""):
        return _plain(403, "Demo sign-in works on the machine that runs the node, and only there.")
    # Another name that resolves to this machine is how a web page elsewhere reaches it (DNS rebinding).
    if request.host.lower() != host:
        return _plain(421, f"Open the node as {issuer}.")
    return None


def _harden(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    # "no-referrer" would also turn the form's Origin into "null", and that header is checked.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    return response


def _host_of(issuer: str) -> str:
    _refuse_elsewhere(issuer, "The issuer")
    parts = urlsplit(issuer)
    host = parts.netloc.lower()
    if issuer != f"{parts.scheme}://{host}":
        raise ConfigurationError("The issuer must be scheme, host and port only, for example http://127.0.0.1:8080.")
    return host.removesuffix(":443" if parts.scheme == "https" else ":80")


def _refuse_elsewhere(address: str, what: str) -> None:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        host = ""
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not is_loopback(host) or "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(
            f"{what} is not on this machine, and the embedded authorization server signs in demo accounts only. "
            "Use an http:// address on 127.0.0.1, ::1 or localhost, or configure an external issuer instead."
        )


def _metadata(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "jwks_uri": f"{issuer}/oauth/jwks.json",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": [scope.value for scope in Scope],
        "authorization_response_iss_parameter_supported": True,
    }


def _plain(status: int, text: str) -> Response:
    return Response(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")


def _ambiguous_form(server: _Server) -> Response | None:
    """The refusal of a request whose parameters are not all in the body, each once (RFC 6749 section 3.2)."""
    repeated = any(len(values) > 1 for _, values in request.form.lists())
    if request.args or repeated or request.mimetype != "application/x-www-form-urlencoded":
        return server.handle_error_response(request, InvalidRequestError())
    return None


_STYLE = """
body { margin: 0; font: 1.125rem/1.5 system-ui, sans-serif; color: #0b0c0c; background: #fff; }
main { max-width: 24rem; margin: 0 auto; padding: 1.5rem 1rem; }
label { display: block; margin-top: 1rem; font-weight: 600; }
input, button { box-sizing: border-box; width: 100%; min-height: 2.75rem; padding: .5rem; font: inherit; }
input { border: 2px solid #0b0c0c; }
button { margin-top: 1.5rem; border: 0; color: #fff; background: #1d4f91; font-weight: 600; }
input:focus, button:focus { outline: 3px solid #b45f06; outline-offset: 2px; }
.problem { padding: .5rem .75rem; border-left: .375rem solid #b00020; font-weight: 600; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% if problem %}Error: {% endif %}Sign in - Haven</title>
<style>{{ style|safe }}</style>
</head>
<body>
<main>
<h1>Sign in to Haven</h1>
<p>Demo on this machine. Every person and every shelter in it is synthetic.</p>
{% if problem %}<p class="problem" role="alert">{{ problem }}</p>{% endif %}
<form method="post">
<label for="username">User name</label>
<input id="username" name="username" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="80" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="128" required>
<input name="csrf" type="hidden" value="{{ csrf }}">
<button>Sign in</button>
</form>
</main>
</body>
</html>
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


class _SignIn:
    """The authorization endpoint: one small page. Its CSRF token binds this process, the browser's cookie and the very
    request that is signed in to."""

    def __init__(self, server: _Server) -> None:
        self._server = server
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
            return self._page(grant.redirect_uri, "This form is too old. Please sign in again.", 403)
        try:
            account = self._server.sign_in(request.form.get("username", ""), request.form.get("password", ""))
        except _SignInRefused:
            return self._page(grant.redirect_uri, "User name or password is wrong. Please try again.", 403)
        except _TooManySignIns:
            return self._page(grant.redirect_uri, "Too many attempts. Wait a minute, then try again.", 429)
        response: Response = self._server.create_authorization_response(grant_user=account, grant=grant)
        response.delete_cookie(_SIGN_IN_COOKIE, path=request.path, httponly=True, samesite="Strict")
        return response

    def _refusal(self, error: OAuth2Error) -> Response:
        # Back to the client if its address is known to be right; else nowhere: an open redirect is an attacker's tool.
        if error.redirect_uri:
            return self._server.handle_error_response(request, error)
        return _plain(400, "This sign-in link is not valid. Go back to Haven and start again.")

    def _page(self, redirect_uri: str, problem: str = "", status: int = 200) -> Response:
        browser = request.cookies.get(_SIGN_IN_COOKIE) or secrets.token_urlsafe(32)
        page = render_template_string(_PAGE, style=_STYLE, problem=problem, csrf=self._csrf(browser))
        response = make_response(page, status)
        client = urlsplit(redirect_uri)
        # The client's origin too: browsers apply form-action to where the answer redirects.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self' {client.scheme}://{client.netloc}; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        secure = self._server.issuer.startswith("https:")
        response.set_cookie(
            _SIGN_IN_COOKIE, browser, path=request.path, httponly=True, samesite="Strict", secure=secure
        )
        if status == 429:
            response.headers["Retry-After"] = str(int(SIGN_IN_WINDOW.total_seconds()))
        return response

    def _is_our_form(self) -> bool:
        # The origin besides the token, because all ports of a host share their cookies: another local server could plant
        # one whose token it has fetched itself, and so sign the reader in as somebody else.
        if request.headers.get("Origin", self._server.issuer) != self._server.issuer:
            return False
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return False
        browser = request.cookies.get(_SIGN_IN_COOKIE)
        given = request.form.get("csrf", "").encode()
        return browser is not None and hmac.compare_digest(given, self._csrf(browser).encode())

    def _csrf(self, browser: str) -> str:
        return hmac.new(self._key, browser.encode() + b"\n" + request.query_string, "sha256").hexdigest()
