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

import json
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NoReturn, get_args

import msgspec
from authlib.oauth2.rfc9068.claims import JWTAccessTokenClaimsValidator
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    JoseError,
)
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from events.vocabulary import CountryCode, Role, SafeIdentifier
from services.gateway.key_set import KeyCache
from services.gateway.principals import SCOPES_OF_ROLE, Principal, Scope
from services.gateway.token_errors import InsufficientScope, InvalidToken, MissingToken, Reason

Algorithm = Literal["ES256", "PS256", "Ed25519", "EdDSA"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
LONGEST_LIFETIME = timedelta(minutes=5)
LEEWAY = timedelta(seconds=30)
LARGEST_TOKEN = 8 * 1024
"""Bytes. Checked before anything is decoded (CVE-2025-61920)."""


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
