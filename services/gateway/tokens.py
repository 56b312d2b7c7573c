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
* **Sender.** A token with `cnf` is bound to a key and comes under the scheme `DPoP` with a proof, in no other way (`dpop`); any
  other kind of binding is one we could not check, so it is refused. Who must have such a token is the policy `Demand`.
* **Sign-in.** `auth_time` says when a person signed in, `acr` how. Without `auth_time` the token is a program's own.
* **Clock.** Real time, also while the node plays an accelerated exercise: `now` is not the domain's clock.
"""

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from authlib.oauth2.rfc9068.claims import JWTAccessTokenClaimsValidator
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, JoseError
from joserfc.jwk import KeySet

from events.vocabulary import CountryCode, Role, SafeIdentifier
from services.config import ConfigurationError
from services.gateway.dpop import Demand, ProofVerifier, SentProof, Thumbprint
from services.gateway.jws import COMPACT, Algorithm, read_header, verified_claims
from services.gateway.key_set import KeyCache
from services.gateway.principals import SCOPES_OF_ROLE, Principal, Scheme, Scope
from services.gateway.token_errors import (
    InsufficientScope,
    InvalidToken,
    MissingToken,
    ProofRequired,
    Reason,
    SignInTooOldOrWeak,
    TokenError,
)

LONGEST_LIFETIME = timedelta(minutes=5)
LEEWAY = timedelta(seconds=30)
LARGEST_TOKEN = 8 * 1024
"""Bytes. Checked before anything is decoded (CVE-2025-61920)."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: Algorithm
    typ: Literal["at+jwt", "application/at+jwt"]
    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    jkt: Thumbprint


_Moment = Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0)]


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
    auth_time: _Moment | msgspec.UnsetType = msgspec.UNSET
    acr: Annotated[str, msgspec.Meta(max_length=255)] = ""
    cnf: _Confirmation | msgspec.UnsetType = msgspec.UNSET


_REQUIRED_CLAIMS = ("sub", *(field.name for field in msgspec.structs.fields(_Claims) if field.required))
_CREDENTIALS = re.compile(rf"(?i:(bearer|dpop)) +({COMPACT.pattern})")
_CONTEXT = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # it is quoted in a header (RFC 9470 section 3)
_SCHEMES: dict[str, Scheme] = {"bearer": "Bearer", "dpop": "DPoP"}


class TokenVerifier:
    """Turns an `Authorization` header into the principal behind it, or says why not.

    `jwks` returns the issuer's keys (`HttpKeySet`, or the embedded server's own) and is called rarely (`KeyCache`).
    `countries` are the ISO 3166 codes that take part. `is_revoked(token id, person)` is asked for every token. `proofs`
    checks the proofs of bound tokens, `demand` says whose must be bound. `signing_acr` are the authentication contexts in
    which a placement may be signed, in the words of the issuer; empty: any.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        countries: Collection[str],
        jwks: Callable[[], KeySet],
        is_revoked: Callable[[str, str], bool],
        proofs: ProofVerifier,
        now: Callable[[], datetime],
        demand: Demand = Demand.MACHINES,
        signing_acr: Collection[str] = (),
    ) -> None:
        self._rules: dict[str, dict[str, object]] = {name: {"essential": True} for name in _REQUIRED_CLAIMS}
        self._rules["iss"] = {"essential": True, "value": issuer}
        self._rules["aud"] = {"essential": True, "value": audience}
        self._countries = frozenset(countries)
        self._keys = KeyCache(jwks, now)
        self._is_revoked = is_revoked
        self._proofs = proofs
        self._now = now
        self._demand = Demand(demand)  # a plain word from a setting must not count as none
        self._signing_acr = frozenset(signing_acr)
        if not all(_CONTEXT.fullmatch(context) for context in self._signing_acr):
            raise ConfigurationError(
                "HAVEN_SIGNING_ACR: a name of an authentication context has no quotation mark, backslash or control character."
            )

    def verify(self, authorization: str | None, proof: SentProof | None = None) -> Principal:
        """The principal of a request with this `Authorization` header, the only place a token is ever taken from, and this
        proof that its sender holds the token's key.

        Raises `MissingToken`, `InvalidToken`, `InvalidProof`, `ProofRequired` or `TokensUncheckable`. Two `Authorization`
        headers reach a WSGI application as one, joined by a comma, and a comma is in no token: both are refused together.
        """
        scheme, token = _credentials(authorization)
        try:
            principal = self.principal(token)
            self._require_sender(principal, scheme, token, proof)
        except TokenError as refusal:
            if not isinstance(refusal, ProofRequired):
                refusal.scheme = scheme
            raise
        return principal

    def _require_sender(self, principal: Principal, scheme: Scheme, token: str, proof: SentProof | None) -> None:
        if principal.confirmation is None:
            if scheme == "DPoP" or proof is not None:
                raise InvalidToken(Reason.NOT_BOUND)
            if self._demand is Demand.ALL or (self._demand is Demand.MACHINES and principal.is_machine):
                raise ProofRequired
        elif scheme == "Bearer":
            raise InvalidToken(Reason.BOUND)  # whoever stole it has no key, and tries without (RFC 9449 section 7.1)
        else:
            self._proofs.require_key(proof, principal.confirmation, token)

    def require_fresh_sign_in(self, principal: Principal, within: timedelta) -> None:
        """Raises `SignInTooOldOrWeak` unless a person signed in within this time, strongly enough to sign a placement
        (RFC 9470). A machine never did."""
        signed_in_at = principal.authenticated_at
        if (
            signed_in_at is None
            or self._now() - signed_in_at > within
            or (self._signing_acr and principal.acr not in self._signing_acr)
        ):
            raise SignInTooOldOrWeak(within, self._signing_acr, principal.scheme)

    def principal(self, token: str) -> Principal:
        """The principal of a bare token in JWS compact form; raises `InvalidToken` or `TokensUncheckable`."""
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
            authenticated_at=None
            if claims.auth_time is msgspec.UNSET
            else datetime.fromtimestamp(claims.auth_time, UTC),
            acr=claims.acr,
            confirmation=None if claims.cnf is msgspec.UNSET else claims.cnf.jkt,
        )

    def _claims(self, token: str) -> _Claims:
        try:
            header = read_header(token, _Header)
        except (ValueError, RecursionError):
            raise InvalidToken(Reason.HEADER) from None
        key = self._keys.key(header.kid)
        now = self._now().timestamp()
        try:
            claims = verified_claims(token, key)
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
        if typed.auth_time is not msgspec.UNSET and typed.auth_time > now + LEEWAY.total_seconds():
            raise InvalidToken(Reason.CLAIM, "auth_time")  # it would stay fresh for as long as it lies ahead
        return typed


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raises `InsufficientScope` unless the principal has the scope."""
    if scope not in principal.scopes:
        raise InsufficientScope(scope, principal.scheme)


def _credentials(authorization: str | None) -> tuple[Scheme, str]:
    scheme = (authorization or "").partition(" ")[0].lower()
    if authorization is None or scheme not in _SCHEMES:
        raise MissingToken
    if len(authorization) > LARGEST_TOKEN + len("Bearer "):
        raise InvalidToken(Reason.TOO_LARGE)
    credentials = _CREDENTIALS.fullmatch(authorization)
    if credentials is None:
        raise InvalidToken(Reason.MALFORMED)
    return _SCHEMES[scheme], credentials[2]
