"""The resource-server half of OAuth 2: an access token in, a `Principal` out.

A token is an RFC 9068 JWT, checked in an order that spends nothing on a forgery: size, header, key, signature, claims,
revocation. `JWTBearerTokenValidator` of Authlib 1.9 is not used as it stands, because it takes a token without `typ` or
`kid`, cannot be given a list of algorithms, and allows no clock skew; its RFC 9068 claim rules are used, over joserfc.

What is decided here:

* **Header.** Exactly `alg`, `typ` and `kid`. Everything else (`jwk`, `jku`, `x5u`, `crit`, `b64`, `zip`, ...) is refused by
  not being in the list, so a key or a rule that travels in the token is never looked at (CVE-2026-27962, CVE-2025-59420).
* **Algorithms.** ES256, PS256 and Ed25519 (also under its older name EdDSA), as in FAPI 2.0. A key that cannot carry one of
  them is dropped when the key set is read, and a shared-secret key is never in it: no `none`, no HS256 with a public key.
* **Time.** `iat` and `nbf` may lie up to 30 s ahead, between the 10 s FAPI 2.0 wants accepted and the 60 s it wants refused:
  a gateway whose clock is slow must not turn a fresh token away. `exp` has no leeway: leeway there only lengthens a
  stolen token's life, while a fast clock costs its owner a few of the token's 300 seconds.
* **Lifetime.** At most five minutes from `iat` to `exp`, because a revocation is remembered for that long.
* **Scopes.** What the token says, cut down to `SCOPES_OF_ROLE`. It is an intersection and not a refusal, since an external
  issuer adds scopes of its own (`openid`, `profile`), and what is cut away is then refused where it is needed, as a 403.
* **Clock.** Real time, also while the node plays an accelerated exercise: `now` is not the domain's clock.
"""

import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NoReturn, get_args
from urllib.parse import urlsplit

import msgspec
from authlib.oauth2.rfc9068.claims import JWTAccessTokenClaimsValidator
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    JoseError,
)
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from events.vocabulary import CountryCode, Role, SafeIdentifier
from services.gateway.principals import SCOPES_OF_ROLE, Principal, Scope

Algorithm = Literal["ES256", "PS256", "Ed25519", "EdDSA"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
LONGEST_LIFETIME = timedelta(minutes=5)
LEEWAY = timedelta(seconds=30)
LARGEST_TOKEN = 8 * 1024
"""Bytes. Checked before anything is decoded (CVE-2025-61920)."""

KEYS_KEPT = timedelta(minutes=10)
"""After this long without a successful fetch no key is trusted: a key taken out of service must stop working."""
REFETCH_EVERY = timedelta(seconds=10)
"""Key ids are attacker-chosen: without a limit each forged one would be a request to the issuer."""

_FETCH_SECONDS = 5.0
_LARGEST_KEY_SET = 64 * 1024
_SMALLEST_RSA_BITS = 2048


class TokenError(Exception):
    """Root of what stops a request before anybody looks at what it asks for.

    TokenError
     +-- MissingToken       401: send an access token
     +-- InvalidToken       401: get a new token
     +-- InsufficientScope  403: the account may not do this
     +-- KeysUnavailable    503: the issuer's keys cannot be had; nothing is let through meanwhile
    """

    status: ClassVar[int]

    @property
    def www_authenticate(self) -> str | None:
        """Value of the `WWW-Authenticate` header (RFC 6750 section 3), or `None` where none belongs."""
        return None


class MissingToken(TokenError):
    status = 401

    def __init__(self) -> None:
        super().__init__("This needs an access token: send it as 'Authorization: Bearer <token>'.")

    @property
    def www_authenticate(self) -> str:
        # RFC 6750 section 3.1: no error code for somebody who has not tried yet.
        return 'Bearer realm="haven"'


class Reason(StrEnum):
    """Which check a token failed, for the operator; the client is told nothing finer than `invalid_token`."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    HEADER = "header"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    CLAIM = "claim"
    EXPIRED = "expired"
    REVOKED = "revoked"


class InvalidToken(TokenError):
    """`claim` names the claim at fault when the reason is `CLAIM`; never its value."""

    status = 401

    def __init__(self, reason: Reason, claim: str = "") -> None:
        super().__init__("The access token is not valid, or not valid any more. Sign in again to get a new one.")
        self.reason = reason
        self.claim = claim

    @property
    def www_authenticate(self) -> str:
        return f'Bearer realm="haven", error="invalid_token", error_description="{self}"'


class InsufficientScope(TokenError):
    status = 403

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"This needs the scope {scope}. Sign in with an account whose role has it.")
        self.scope = scope

    @property
    def www_authenticate(self) -> str:
        return f'Bearer realm="haven", error="insufficient_scope", scope="{self.scope}"'


class KeysUnavailable(TokenError):
    status = 503

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Access tokens cannot be checked now: {problem}. Try again in {REFETCH_EVERY.seconds} seconds."
        )


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: Algorithm
    typ: Literal["at+jwt", "application/at+jwt"]
    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Claims(msgspec.Struct, frozen=True):
    iat: int | float
    exp: int | float
    client_id: _Text
    jti: _Text
    haven_person: SafeIdentifier
    haven_role: Role
    haven_organisation: SafeIdentifier
    haven_country: CountryCode
    scope: str = ""


_REQUIRED_CLAIMS = ("sub", *(field.name for field in msgspec.structs.fields(_Claims) if field.required))
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
_REGISTRY = JWSRegistry(algorithms=ALGORITHMS)


class KeyCache:
    """The issuer's signing keys by key id, kept for `KEYS_KEPT` and fetched again when an unknown id turns up."""

    def __init__(self, fetch: Callable[[], KeySet], now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._now = now
        self._fetching = threading.Lock()
        self._keys: dict[str, Key] = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None

    def key(self, key_id: str) -> Key:
        """The key with this id. Raises `InvalidToken` if the issuer has none, `KeysUnavailable` if it cannot be asked."""
        fresh = self._within(self._fetched_at, KEYS_KEPT)
        if not fresh or key_id not in self._keys:
            # A stranger's key id must not make everybody else's request wait for the issuer; stale keys must.
            self._refetch(wait=not fresh)
        if not self._within(self._fetched_at, KEYS_KEPT):
            raise KeysUnavailable("the issuer's keys could not be fetched")
        try:
            return self._keys[key_id]
        except KeyError:
            raise InvalidToken(Reason.UNKNOWN_KEY) from None

    def _refetch(self, *, wait: bool) -> None:
        if not self._fetching.acquire(blocking=wait):
            return
        try:
            if self._within(self._tried_at, REFETCH_EVERY):
                return
            self._tried_at = self._now()
            self._keys = _usable_keys(self._fetch())
            self._fetched_at = self._tried_at
        except KeysUnavailable:
            # What was fetched before stays good until it is too old: an issuer's restart is not an outage here.
            return
        finally:
            self._fetching.release()

    def _within(self, since: datetime | None, limit: timedelta) -> bool:
        # A clock set back makes a negative age, which counts as too old rather than as fresh for ever.
        return since is not None and timedelta() <= self._now() - since < limit


def _usable_keys(key_set: KeySet) -> dict[str, Key]:
    usable: dict[str, Key] = {}
    for key in key_set:
        match key:
            case ECKey():
                fits = key.curve_name == "P-256"
            case OKPKey():
                fits = key.curve_name == "Ed25519"
            case RSAKey():
                fits = key.public_key.key_size >= _SMALLEST_RSA_BITS
            case _:
                fits = False
        if not fits or key.get("use", "sig") != "sig" or key.kid is None:
            continue
        if key.kid in usable:
            raise KeysUnavailable("the issuer publishes two keys under one id")
        usable[key.kid] = key
    return usable


class HttpKeySet:
    """Fetches a JWK set from an issuer elsewhere. Calling it raises `KeysUnavailable` for whatever goes wrong.

    `http.client` on purpose: it follows no redirect, obeys no proxy variable and speaks no `file:`, so the set can only
    come from the host that the operator named. Raises `ValueError` for an address that is neither https nor loopback.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if (
            parts.username is not None
            or not parts.hostname
            or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)))
        ):
            raise ValueError("The address of the key set must start with https:// and name no user.")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def __call__(self) -> KeySet:
        connection = (
            http.client.HTTPSConnection(
                self._host, self._port, timeout=_FETCH_SECONDS, context=ssl.create_default_context()
            )
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=_FETCH_SECONDS)
        )
        try:
            connection.connect()
            with _deadline(connection.sock):
                connection.request("GET", self._target, headers={"Accept": "application/json"})
                response = connection.getresponse()
                if response.status != http.HTTPStatus.OK:
                    raise KeysUnavailable(f"the issuer answered {response.status} instead of its keys")
                body = response.read(_LARGEST_KEY_SET + 1)
        except (OSError, http.client.HTTPException) as error:
            raise KeysUnavailable("the issuer cannot be reached") from error
        finally:
            connection.close()
        if len(body) > _LARGEST_KEY_SET:
            raise KeysUnavailable("the issuer's key set is too large")
        try:
            return KeySet.import_key_set({"keys": msgspec.json.decode(body, type=_KeySetDocument).keys})
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise KeysUnavailable("the issuer's key set cannot be read") from error


class _KeySetDocument(msgspec.Struct):
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=32)]


@contextmanager
def _deadline(connected: socket.socket) -> Iterator[None]:
    """Hangs up after `_FETCH_SECONDS`. A socket's own timeout starts again with every byte, so that a peer sending one
    byte at a time would keep the caller for hours."""

    def hang_up() -> None:
        with suppress(OSError):
            # The plain socket's shutdown: that of a TLS socket first forgets its encryption, under the reader's feet.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(_FETCH_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class TokenVerifier:
    """Turns an `Authorization` header into the principal behind it, or says why not.

    `jwks` returns the issuer's keys (`HttpKeySet`, or the embedded server's own) and is called rarely (`KeyCache`).
    `countries` are the ISO 3166 codes that take part. `is_revoked(token id, person)` is asked for every token.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        countries: Collection[str],
        jwks: Callable[[], KeySet],
        is_revoked: Callable[[str, str], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._rules: dict[str, dict[str, object]] = {name: {"essential": True} for name in _REQUIRED_CLAIMS}
        self._rules["iss"] = {"essential": True, "value": issuer}
        self._rules["aud"] = {"essential": True, "value": audience}
        self._countries = frozenset(countries)
        self._keys = KeyCache(jwks, now)
        self._is_revoked = is_revoked
        self._now = now

    def verify(self, authorization: str | None) -> Principal:
        """The principal of a request with this `Authorization` header: the only place a token is ever taken from.

        Raises `MissingToken`, `InvalidToken` or `KeysUnavailable`. Two `Authorization` headers reach a WSGI application
        as one, joined by a comma, and a comma is in no token: both are refused together.
        """
        if authorization is None or authorization[:6].lower() != "bearer":
            raise MissingToken
        if len(authorization) > LARGEST_TOKEN + len("Bearer "):
            raise InvalidToken(Reason.TOO_LARGE)
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise InvalidToken(Reason.MALFORMED)
        return self.principal(bearer[1])

    def principal(self, token: str) -> Principal:
        """The principal of a bare token in JWS compact form; raises `InvalidToken` or `KeysUnavailable`."""
        if len(token) > LARGEST_TOKEN:
            raise InvalidToken(Reason.TOO_LARGE)
        claims = self._claims(token)
        if claims.haven_role is Role.SYSTEM:
            raise InvalidToken(Reason.CLAIM, "haven_role")
        if claims.haven_country not in self._countries:
            raise InvalidToken(Reason.CLAIM, "haven_country")
        if self._is_revoked(claims.jti, claims.haven_person):
            raise InvalidToken(Reason.REVOKED)
        return Principal(
            person=claims.haven_person,
            role=claims.haven_role,
            organisation=claims.haven_organisation,
            country=claims.haven_country,
            scopes=frozenset(SCOPES_OF_ROLE[claims.haven_role] & set(claims.scope.split())),
            client_id=claims.client_id,
            token_id=claims.jti,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
        )

    def _claims(self, token: str) -> _Claims:
        header = _header(token.partition(".")[0])
        key = self._keys.key(header.kid)
        now = self._now().timestamp()
        try:
            claims = jwt.decode(token, key, registry=_REGISTRY, decoder_cls=_StrictJSON).claims
            JWTAccessTokenClaimsValidator(now, LEEWAY.total_seconds(), **self._rules).validate(claims)
            typed = msgspec.convert(claims, _Claims)
        except ExpiredTokenError:
            raise InvalidToken(Reason.EXPIRED) from None
        except ClaimError as error:
            raise InvalidToken(Reason.CLAIM, error.claim) from None
        except BadSignatureError:
            raise InvalidToken(Reason.SIGNATURE) from None
        except msgspec.ValidationError:
            raise InvalidToken(Reason.CLAIM) from None
        except (JoseError, ValueError, RecursionError):
            raise InvalidToken(Reason.MALFORMED) from None
        # joserfc has one leeway for all three times; what it gives `exp` is taken back here.
        if typed.exp <= now:
            raise InvalidToken(Reason.EXPIRED)
        if typed.exp - typed.iat > LONGEST_LIFETIME.total_seconds():
            raise InvalidToken(Reason.CLAIM, "exp")
        return typed


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raises `InsufficientScope` unless the principal has the scope."""
    if scope not in principal.scopes:
        raise InsufficientScope(scope)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine: `localhost`, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class _StrictJSON(json.JSONDecoder):
    """Refuses what two parsers could read differently: a name given twice, NaN and Infinity."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unambiguous, parse_constant=_no_constant)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


def _header(segment: str) -> _Header:
    # Read here, before joserfc does: it trips over a header that is valid JSON but no object, or whose `crit` is no list.
    try:
        return msgspec.convert(json.loads(urlsafe_b64decode(segment.encode()), cls=_StrictJSON), _Header)
    except (ValueError, RecursionError):
        raise InvalidToken(Reason.HEADER) from None
