"""What stops a request before anybody looks at what it asks for, in the words of RFC 6750."""

from enum import StrEnum
from typing import ClassVar

from services.gateway.principals import Scope


class TokenError(Exception):
    """Root of what stops a request before anybody looks at what it asks for.

    TokenError
     +-- MissingToken       401: send an access token
     +-- InvalidToken       401: get a new token
     +-- InsufficientScope  403: the account may not do this
     +-- KeysUnavailable    503: the issuer's keys cannot be had; nothing is let through meanwhile (`key_set`)
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
