"""Signed tokens from strangers (JWS, RFC 7515), read so strictly that two parsers cannot disagree about one: what access
tokens and DPoP proofs have in common.
"""

import json
import re
from typing import Any, Literal, NoReturn, TypeVar, get_args

import msgspec
from joserfc import jwt
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

Algorithm = Literal["ES256", "PS256", "Ed25519", "EdDSA"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
"""Those of FAPI 2.0; EdDSA is the older name of Ed25519."""

COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""The compact form: three segments, no padding, nothing around them. Two headers that a server joined are not one."""

Header = TypeVar("Header")


class _Registry(JWSRegistry):
    max_header_length = 2048  # a proof's header holds an RSA key; whoever calls has bounded the whole already


_REGISTRY = _Registry(algorithms=ALGORITHMS)


def read_header(token: str, shape: type[Header]) -> Header:
    """The header, not verified. Raises ValueError or RecursionError unless it is exactly of this shape."""
    # Before joserfc reads it: that trips over a header that is valid JSON but no object, or whose `crit` is no list.
    segment = token.partition(".")[0]
    return msgspec.convert(json.loads(urlsafe_b64decode(segment.encode()), cls=_StrictJSON), shape)


def verified_claims(token: str, key: Key) -> dict[str, Any]:
    """The claims of a token that this key signed. Raises BadSignatureError, or JoseError, ValueError or RecursionError for
    what cannot be read."""
    return jwt.decode(token, key, registry=_REGISTRY, decoder_cls=_StrictJSON).claims


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
