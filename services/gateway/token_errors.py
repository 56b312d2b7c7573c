"""What stops a request before anybody looks at what it asks for, in the words of RFC 6750, 9449 and 9470."""

from collections.abc import Collection
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar

from services.gateway.jws import ALGORITHMS
from services.gateway.principals import Scheme, Scope


class TokenError(Exception):
    """Root of what stops a request before anybody looks at what it asks for.

    TokenError
     +-- MissingToken          401: send an access token
     +-- InvalidToken          401: get a new token
     +-- InvalidProof          401: send a new proof with the same token
     +-- ProofRequired         401: get a token that is bound to a key
     +-- SignInTooOldOrWeak    401: sign in again, then repeat
     +-- InsufficientScope     403: the account may not do this
     +-- TokensUncheckable     503: nothing is let through meanwhile
          +-- KeysUnavailable        the issuer's keys cannot be had (`key_set`)
          +-- TokenStoreUnavailable  what was revoked or used before cannot be looked up (`token_store`)
    """

    status: ClassVar[int]
    scheme: Scheme = "Bearer"
    """How the token was sent; the challenge speaks of the same scheme."""

    @property
    def www_authenticate(self) -> str | None:
        """Value of the `WWW-Authenticate` header (RFC 6750 section 3, RFC 9449 section 7.1), or `None` where none belongs."""
        return None


def _challenge(scheme: Scheme, **parameters: str) -> str:
    told = {"realm": "haven"} | parameters | ({"algs": " ".join(ALGORITHMS)} if scheme == "DPoP" else {})
    return f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in told.items())


class MissingToken(TokenError):
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "This needs an access token: send it as 'Authorization: Bearer <token>', or DPoP if it is bound."
        )

    @property
    def www_authenticate(self) -> str:
        # RFC 6750 section 3.1: no error code for somebody who has not tried yet.
        return f"{_challenge('Bearer')}, {_challenge('DPoP')}"


class Reason(StrEnum):
    """Which check a token or a proof failed, for the operator; the client is told nothing finer than the error code."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    HEADER = "header"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    CLAIM = "claim"
    EXPIRED = "expired"
    REVOKED = "revoked"
    BOUND = "bound"
    """A token that is bound to a key, sent as if anybody might use it."""
    NOT_BOUND = "not_bound"
    """A token that is bound to no key, sent as if it were: its owner believes it protected."""
    MISSING = "missing"
    OTHER_KEY = "other_key"
    OTHER_REQUEST = "other_request"
    OTHER_TOKEN = "other_token"  # noqa: S105
    TOO_EARLY = "too_early"
    REPLAYED = "replayed"


class InvalidToken(TokenError):
    """`claim` names the claim at fault when the reason is `CLAIM`; never its value."""

    status = 401

    def __init__(self, reason: Reason, claim: str = "") -> None:
        super().__init__("The access token is not valid, or not valid any more. Sign in again to get a new one.")
        self.reason = reason
        self.claim = claim

    @property
    def www_authenticate(self) -> str:
        return _challenge(self.scheme, error="invalid_token", error_description=str(self))


class InvalidProof(TokenError):
    """The token is good; that its sender holds its key is not shown."""

    status = 401
    scheme = "DPoP"

    def __init__(self, reason: Reason) -> None:
        super().__init__("The DPoP proof does not fit. Make a new one for this very request, with the clock set right.")
        self.reason = reason

    @property
    def www_authenticate(self) -> str:
        return _challenge("DPoP", error="invalid_dpop_proof", error_description=str(self))


class ProofRequired(TokenError):
    """Whoever sends this token must have it bound to a key (policy `dpop`)."""

    status = 401

    def __init__(self) -> None:
        super().__init__("This token must be bound to a key: ask for it with a DPoP proof, and send it with one.")

    @property
    def www_authenticate(self) -> str:
        return _challenge("DPoP", error="invalid_token", error_description=str(self))


class SignInTooOldOrWeak(TokenError):
    """RFC 9470: this needs a person who signed in within `within` and, if `acr` names any, in one of those ways."""

    status = 401

    def __init__(self, within: timedelta, acr: Collection[str], scheme: Scheme) -> None:
        super().__init__("This needs a person who has just signed in.")
        self.within = within
        self.acr = acr
        self.scheme = scheme

    @property
    def www_authenticate(self) -> str:
        wanted = {"max_age": str(int(self.within.total_seconds()))}
        wanted |= {"acr_values": " ".join(sorted(self.acr))} if self.acr else {}
        return _challenge(self.scheme, error="insufficient_user_authentication", error_description=str(self), **wanted)


class InsufficientScope(TokenError):
    status = 403

    def __init__(self, scope: Scope, scheme: Scheme = "Bearer") -> None:
        super().__init__(f"This needs the scope {scope}. Sign in with an account whose role has it.")
        self.scope = scope
        self.scheme = scheme

    @property
    def www_authenticate(self) -> str:
        return _challenge(self.scheme, error="insufficient_scope", scope=str(self.scope))


class TokensUncheckable(TokenError):
    """Without it a good token cannot be told from a bad one."""

    status = 503


class TokenStoreUnavailable(TokensUncheckable):
    def __init__(self) -> None:
        super().__init__("Access tokens cannot be checked now: what was revoked or used before cannot be looked up.")
