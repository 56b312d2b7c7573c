"""Tokens that are bound to a key (DPoP, RFC 9449): one test for each way somebody without the key could get in."""

import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from events.log.engines import sqlite_engine
from services import api_client
from services.api_client import Client, SenderKey
from services.gateway import dpop
from services.gateway.dpop import Demand, ProofVerifier, SentProof, sent_proof, token_hash
from services.gateway.principals import Principal
from services.gateway.token_errors import (
    InvalidProof,
    InvalidToken,
    ProofRequired,
    Reason,
    TokenError,
    TokenStoreUnavailable,
)
from services.gateway.token_store import KEPT_LONGER, TokenStore
from services.gateway.tokens import TokenVerifier
from tests.gateway.test_tokens import AUDIENCE, ISSUER, START, Clock, Issuer, encoded

PUBLIC = "https://haven.example"
PATH = "/api/v1/relocation-requests/r-1"
URL = PUBLIC + PATH
NOW = int(START.timestamp())


class _Registry(JWSRegistry):
    max_header_length = 100_000


ANY_ALGORITHM = _Registry(algorithms=list(JWSRegistry.algorithms), strict_check_header=False)


class Owner:
    """Whoever holds the key: makes good proofs, and any bad one by overriding a claim or a header (`None` leaves it out)."""

    def __init__(self, issuer: Issuer, key: Key | None = None, algorithm: str = "ES256") -> None:
        self.key = key or ECKey.generate_key("P-256")
        self.algorithm = algorithm
        self.token = issuer.token(cnf={"jkt": self.key.thumbprint()})
        self._proofs = 0

    def claims(self, **changes: Any) -> dict[str, Any]:
        self._proofs += 1
        claims = {
            "jti": f"proof-{self._proofs}",
            "htm": "GET",
            "htu": URL,
            "iat": NOW,
            "ath": token_hash(self.token),
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.key.as_dict(private=False)} | changes
        return {name: value for name, value in header.items() if value is not None}

    def proof(self, *, header: dict[str, Any] | None = None, key: Key | None = None, **changes: Any) -> str:
        merged = self.header(**(header or {}))
        return jwt.encode(merged, self.claims(**changes), key or self.key, registry=ANY_ALGORITHM, default_type=None)

    def raw(self, header: bytes, payload: bytes | None = None) -> str:
        """A proof around exactly these bytes, correctly signed."""
        payload = json.dumps(self.claims()).encode() if payload is None else payload
        signed = f"{encoded(header)}.{encoded(payload)}"
        return f"{signed}.{encoded(JWSRegistry.algorithms['ES256'].sign(signed.encode(), self.key))}"


class Gate:
    """A gateway as far as its sign-in goes. Several may share a store."""

    def __init__(self, issuer: Issuer, store: TokenStore, clock: Callable[[], datetime], **options: Any) -> None:
        self.verifier = TokenVerifier(
            issuer=ISSUER,
            audience=AUDIENCE,
            countries={"BE"},
            jwks=issuer.jwks,
            is_revoked=lambda token_id, person: bool({token_id, person} & issuer.revoked),
            proofs=ProofVerifier(public_url=PUBLIC, is_first_use=store.is_first_use, now=clock),
            now=clock,
            **options,
        )

    def enter(
        self, token: str, proof: str | None, *, scheme: str = "DPoP", method: str = "GET", path: str = PATH
    ) -> Principal:
        sent = None if proof is None else SentProof(proof, method, path)
        return self.verifier.verify(f"{scheme} {token}", sent)

    def refusal(self, owner: Owner, proof: str | None, **how: str) -> Reason:
        """Why the owner's token with this proof is refused; fails if it is not."""
        with pytest.raises(InvalidProof) as refused:
            self.enter(owner.token, proof, **how)
        return refused.value.reason


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(clock)


@pytest.fixture
def store(clock: Clock) -> TokenStore:
    store = TokenStore(sqlite_engine(":memory:"), clock)
    store.create_schema()
    return store


@pytest.fixture
def gate(issuer: Issuer, store: TokenStore, clock: Clock) -> Gate:
    return Gate(issuer, store, clock)


@pytest.fixture
def owner(issuer: Issuer) -> Owner:
    return Owner(issuer)


# -- what is let in


def test_a_bound_token_with_its_proof_is_let_in_and_says_which_key(gate, owner):
    principal = gate.enter(owner.token, owner.proof())
    assert principal.person == "synthetic.person-1"
    assert principal.confirmation == owner.key.thumbprint()
    assert principal.scheme == "DPoP"


def test_the_rfcs_own_proofs_are_accepted(store):
    # RFC 9449 figures 2 and 12: the token request, and a request with a token.
    jwk = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQy"
        "VVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
    )
    at_the_token_endpoint = jwk + (
        "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0Ijox"
        "NTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    )
    with_a_token = jwk + (
        "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNv"
        "dXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrt"
        "NP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    )
    thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"

    def then() -> datetime:
        return datetime.fromtimestamp(1562262620, UTC)

    server = ProofVerifier(public_url="https://server.example.com", is_first_use=store.is_first_use, now=then)
    assert server.thumbprint(SentProof(at_the_token_endpoint, "POST", "/token")) == thumbprint
    resource = ProofVerifier(public_url="https://resource.example.org", is_first_use=store.is_first_use, now=then)
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    resource.require_key(SentProof(with_a_token, "GET", "/protectedresource"), thumbprint, token)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("PS256", RSAKey.generate_key(2048)),
        ("PS256", RSAKey.generate_key(4096)),
        ("Ed25519", OKPKey.generate_key("Ed25519")),
        pytest.param(
            "EdDSA",
            OKPKey.generate_key("Ed25519"),
            marks=pytest.mark.filterwarnings("ignore:EdDSA is deprecated"),
        ),
    ],
    ids=["RSA 2048", "RSA 4096", "Ed25519", "EdDSA"],
)
def test_the_other_fapi_algorithms_are_accepted(algorithm, key, gate, issuer):
    owner = Owner(issuer, key, algorithm)
    assert gate.enter(owner.token, owner.proof())


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP", "DPoP  "])
def test_the_scheme_is_read_without_regard_to_case(scheme, gate, owner):
    assert gate.enter(owner.token, owner.proof(), scheme=scheme)


def test_what_a_browser_exports_with_a_public_key_does_not_matter(gate, owner):
    exported = owner.key.as_dict(private=False) | {"key_ops": ["verify"], "ext": True, "use": "sig", "kid": "mine"}
    assert gate.enter(owner.token, owner.proof(header={"jwk": exported}))


def test_a_proof_may_say_more_than_it_must(gate, owner):
    assert gate.enter(owner.token, owner.proof(nonce="not asked for", exp=NOW + 5, nbf=NOW, more={"a": 1}))


# -- without the key


@pytest.mark.attack(26)
def test_a_stolen_token_is_worth_nothing_as_a_bearer_token(gate, owner):
    for proof in (None, owner.proof()):
        with pytest.raises(InvalidToken) as refused:
            gate.enter(owner.token, proof, scheme="Bearer")
        assert refused.value.reason is Reason.BOUND


@pytest.mark.attack(19)
def test_a_stolen_token_is_worth_nothing_without_a_proof(gate, owner):
    assert gate.refusal(owner, None) is Reason.MISSING


@pytest.mark.attack(20)
def test_a_stolen_token_is_worth_nothing_with_the_thiefs_own_key(gate, owner, issuer):
    thief = Owner(issuer)
    thief.token = owner.token
    assert gate.refusal(owner, thief.proof()) is Reason.OTHER_KEY


@pytest.mark.attack(20)
def test_a_proof_that_shows_the_owners_key_and_is_signed_by_the_thief_is_refused(gate, owner):
    assert gate.refusal(owner, owner.proof(key=ECKey.generate_key("P-256"))) is Reason.SIGNATURE


def test_no_signature_is_ever_checked_under_a_strangers_key(gate, owner, issuer, monkeypatch):
    monkeypatch.setattr(dpop, "verified_claims", lambda *_: pytest.fail("checked"))
    assert gate.refusal(owner, Owner(issuer).proof()) is Reason.OTHER_KEY


def test_a_token_that_is_bound_to_nothing_is_refused_with_a_proof(gate, owner, issuer):
    owner.token = issuer.token()
    for scheme, proof in (("DPoP", owner.proof()), ("DPoP", None), ("Bearer", owner.proof()), ("Bearer", "")):
        with pytest.raises(InvalidToken) as refused:
            gate.enter(owner.token, proof, scheme=scheme)
        assert refused.value.reason is Reason.NOT_BOUND


@pytest.mark.attack(22)
def test_a_proof_for_another_token_of_the_same_key_is_refused(gate, owner, issuer):
    other = issuer.token(cnf={"jkt": owner.key.thumbprint()}, jti="token-2")
    assert gate.refusal(owner, owner.proof(ath=token_hash(other))) is Reason.OTHER_TOKEN


@pytest.mark.parametrize(
    "respelt",
    [
        lambda token: None,
        lambda token: "",
        lambda token: token,
        lambda token: token_hash(token)[:-1],
        lambda token: token_hash(token) + "=",
        lambda token: token_hash(token).swapcase(),
        lambda token: hashlib.sha256(token.encode()).hexdigest(),
        lambda token: token_hash(token + " "),
    ],
)
@pytest.mark.attack(22)
def test_a_proof_that_is_tied_to_no_token_or_not_to_the_letter_is_refused(respelt, gate, owner):
    assert gate.refusal(owner, owner.proof(ath=respelt(owner.token))) is Reason.OTHER_TOKEN


@pytest.mark.parametrize(
    "binding",
    [
        {"x5t#S256": "A" * 43},
        {"jkt": "A" * 43, "x5t#S256": "A" * 43},
        {"jwk": {"kty": "EC"}},
        {"jkt": "A" * 42},
        {"jkt": "A" * 44},
        {"jkt": "A" * 42 + "="},
        {"jkt": "A" * 42 + "\n"},
        {"jkt": None},
        {"jkt": 1},
        {},
        [],
        "jkt",
        1,
        False,
    ],
    ids=str,
)
def test_a_binding_we_cannot_check_is_refused_instead_of_overlooked(binding, gate, owner, issuer):
    for scheme in ("Bearer", "DPoP"):
        with pytest.raises(InvalidToken) as refused:
            gate.enter(issuer.token(cnf=binding), None, scheme=scheme)
        assert refused.value.reason is Reason.CLAIM


def test_a_binding_that_is_null_is_refused_instead_of_overlooked(gate, issuer):
    claims = json.dumps(issuer.claims() | {"cnf": None}).encode()
    with pytest.raises(InvalidToken) as refused:
        gate.enter(issuer.raw(issuer.good_header(), claims), None, scheme="Bearer")
    assert refused.value.reason is Reason.CLAIM


def test_half_a_character_where_the_hash_of_the_token_belongs_is_refused(gate, owner):
    claims = json.dumps(owner.claims(ath="\ud800" + token_hash(owner.token)[1:])).encode()
    assert gate.refusal(owner, owner.raw(json.dumps(owner.header()).encode(), claims)) is Reason.OTHER_TOKEN


# -- the proof's header


@pytest.mark.parametrize("kind", [None, "", "JWT", "at+jwt", "DPOP+JWT", "application/dpop+jwt", "dpop", 1])
def test_only_a_proof_by_type_is_one(kind, gate, owner):
    assert gate.refusal(owner, owner.raw(json.dumps(owner.header(typ=kind)).encode())) is Reason.HEADER


def test_an_access_token_is_no_proof(gate, owner):
    assert gate.refusal(owner, owner.token) is Reason.HEADER


def test_a_proof_is_no_access_token(gate, owner):
    with pytest.raises(InvalidToken) as refused:
        gate.enter(owner.proof(), owner.proof())
    assert refused.value.reason is Reason.HEADER


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS256", "ES384", "ES256K", "Ed448", "", None, 1])
@pytest.mark.attack(25)
def test_an_algorithm_outside_the_list_is_refused(algorithm, gate, owner):
    header = json.dumps(owner.header(alg=algorithm)).encode()
    assert gate.refusal(owner, owner.raw(header)) is Reason.HEADER


@pytest.mark.parametrize("algorithm", ["PS256", "Ed25519", "EdDSA"])
def test_an_algorithm_that_does_not_fit_the_key_is_refused(algorithm, gate, owner):
    header = json.dumps(owner.header(alg=algorithm)).encode()
    assert gate.refusal(owner, owner.raw(header)) is Reason.HEADER


@pytest.mark.attack(3, 25)
def test_the_public_key_is_no_shared_secret(gate, owner):
    for alg, jwk in (("HS256", owner.key.as_dict(private=False)), ("HS256", {"kty": "oct", "k": "c2VjcmV0"})):
        signed = f"{encoded(json.dumps(owner.header(alg=alg, jwk=jwk)).encode())}.{encoded(json.dumps(owner.claims()).encode())}"
        mac = hmac.new(owner.key.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
        assert gate.refusal(owner, f"{signed}.{encoded(mac)}") is Reason.HEADER


@pytest.mark.attack(2)
def test_an_unsigned_proof_is_refused(gate, owner):
    head, body, _ = owner.proof().split(".")
    assert gate.refusal(owner, f"{head}.{body}.") is Reason.MALFORMED
    assert gate.refusal(owner, f"{head}.{body}.AAAA") is Reason.SIGNATURE


@pytest.mark.attack(25)
def test_a_private_key_in_the_header_is_refused(gate, owner, issuer):
    for key, algorithm in (
        (owner.key, "ES256"),
        (OKPKey.generate_key("Ed25519"), "Ed25519"),
        (RSAKey.generate_key(2048), "PS256"),
    ):
        careless = Owner(issuer, key, algorithm)
        proof = careless.proof(header={"jwk": key.as_dict(private=True)})
        assert gate.refusal(careless, proof) in {Reason.HEADER, Reason.TOO_LARGE}


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        "key",
        [],
        {},
        1,
        {"kty": "EC"},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": ["A" * 43]},
        {"kty": "ec", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "oct", "k": "A" * 43},
        {"kty": "RSA", "n": "A" * 342, "e": "AQAB"},
        {"kty": "RSA", "n": "w" + "A" * 341, "e": "AQ"},
        {"kty": "RSA", "n": "w" + "A" * 341, "e": "Aw"},
        {"kty": "RSA", "n": "w" + "A" * 341, "e": "w" + "A" * 341},
        {"kty": "RSA", "n": "w" + "A" * 170, "e": "AQAB"},
        {"kty": "RSA", "n": "w" + "A" * 1300, "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
        {"kty": "OKP", "crv": "Ed448", "x": "A" * 76},
    ],
    ids=str,
)
def test_what_is_no_public_key_of_the_right_kind_is_refused(jwk, gate, owner):
    header = json.dumps(owner.header(jwk=jwk)).encode()
    assert gate.refusal(owner, owner.raw(header)) in {Reason.HEADER, Reason.OTHER_KEY}


@pytest.mark.parametrize("curve", ["P-384", "P-521", "secp256k1"])
def test_a_key_on_another_curve_is_refused(curve, gate, issuer):
    owner = Owner(issuer, ECKey.generate_key(curve), "ES256")
    assert gate.refusal(owner, f"{encoded(json.dumps(owner.header()).encode())}.e30.AAAA") is Reason.HEADER


def test_a_point_off_the_curve_breaks_nothing_even_where_a_token_is_bound_to_it(gate, owner, issuer):
    nowhere = {"kty": "EC", "crv": "P-256", "x": "B" * 43, "y": "C" * 43}
    canonical = json.dumps(nowhere, sort_keys=True, separators=(",", ":"))
    owner.token = issuer.token(cnf={"jkt": encoded(hashlib.sha256(canonical.encode()).digest())})
    assert gate.refusal(owner, owner.proof(header={"jwk": nowhere})) in {Reason.HEADER, Reason.MALFORMED}


@pytest.mark.parametrize(
    "extra",
    [
        {"kid": "key-1"},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/chain"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
        {"crit": 1},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
    ids=str,
)
def test_any_other_header_is_refused_although_the_signature_is_good(extra, gate, owner):
    assert gate.refusal(owner, owner.raw(json.dumps(owner.header() | extra).encode())) is Reason.HEADER


@pytest.mark.parametrize("member", ["x5c", "x5u", "x5t#S256", "d", "k", "oth", "anything"])
def test_a_key_that_says_more_than_a_public_key_may_is_refused(member, gate, owner):
    jwk = owner.key.as_dict(private=False) | {member: "AAAA"}
    assert gate.refusal(owner, owner.proof(header={"jwk": jwk})) is Reason.HEADER


def test_a_header_name_given_twice_is_refused(gate, owner):
    good = json.dumps(owner.header()).encode()
    assert gate.refusal(owner, owner.raw(good.replace(b"{", b'{"alg":"none",', 1))) is Reason.HEADER
    assert gate.refusal(owner, owner.raw(good.replace(b'"jwk": {', b'"jwk": {"crv":"P-384",'))) is Reason.HEADER


@pytest.mark.parametrize("header", [b"[]", b'"alg"', b"5", b"null", b"{", b"\xff", b"[" * 1500, b'{"jwk":' * 200])
def test_a_header_that_is_not_the_expected_object_is_refused(header, gate, owner):
    assert gate.refusal(owner, owner.raw(header)) is Reason.HEADER


# -- size and form


def test_a_proof_over_four_kibibytes_is_refused_before_it_is_decoded(gate, owner, monkeypatch):
    monkeypatch.setattr(dpop, "read_header", lambda *_: pytest.fail("decoded"))
    assert gate.refusal(owner, owner.proof(padding="x" * 4000)) is Reason.TOO_LARGE


def test_an_enormous_proof_is_refused_at_once(gate, owner):
    started = time.monotonic()
    assert gate.refusal(owner, "a" * 50_000_000) is Reason.TOO_LARGE
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("text", ["", " ", "x", "a.b", "a.b.c.d", "a.b.c ", "a.b.c\n", "é.b.c", "a.b.c=", "..", "a..c"])
def test_what_is_not_three_segments_is_refused_as_it_stands(text, gate, owner):
    assert gate.refusal(owner, text) is Reason.MALFORMED


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.text(max_size=300), st.text("abcAZ09-_.", max_size=300)))
def test_no_text_at_all_is_a_proof(gate, owner, text):
    assert gate.refusal(owner, text) in {Reason.MALFORMED, Reason.HEADER}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_proof_with_one_character_changed_lets_nobody_in_twice(issuer, clock, data):
    """The last bits of a segment mean nothing, so one spelling may be as good as the other; the second is a replay."""
    store = TokenStore(sqlite_engine(":memory:"), clock)
    store.create_schema()
    gate, owner = Gate(issuer, store, clock), Owner(issuer)
    proof = owner.proof()
    assert gate.enter(owner.token, proof)
    place = data.draw(st.integers(0, len(proof) - 1))
    letter = data.draw(st.sampled_from("ABCXYZabcxyz0189-_."))
    with pytest.raises(InvalidProof):
        gate.enter(owner.token, proof[:place] + letter + proof[place + 1 :])


def through_wsgi(gate: Gate, headers: list[tuple[str, str]], **how: Any) -> Any:
    app = Flask(__name__)
    app.add_url_rule(
        PATH, view_func=lambda: gate.verifier.verify(request.headers.get("Authorization"), sent_proof(request)).person
    )
    app.testing = True
    return app.test_client().get(PATH, headers=headers, **how)


def test_two_proofs_in_one_request_are_refused_even_if_both_are_good(gate, owner):
    authorization = ("Authorization", f"DPoP {owner.token}")
    one = ("DPoP", owner.proof())
    assert through_wsgi(gate, [authorization, one]).text == "synthetic.person-1"
    for second in (owner.proof(), "", "x"):
        with pytest.raises(InvalidProof) as refused:
            through_wsgi(gate, [authorization, ("DPoP", owner.proof()), ("DPoP", second)])
        assert refused.value.reason is Reason.MALFORMED


def test_an_empty_proof_is_a_wrong_one_and_one_in_the_query_is_none(gate, owner):
    authorization = ("Authorization", f"DPoP {owner.token}")
    with pytest.raises(InvalidProof) as refused:
        through_wsgi(gate, [authorization, ("DPoP", "")])
    assert refused.value.reason is Reason.MALFORMED
    with pytest.raises(InvalidProof) as refused:
        through_wsgi(gate, [authorization], query_string={"DPoP": owner.proof()})
    assert refused.value.reason is Reason.MISSING


@pytest.mark.parametrize("host", ["haven.example", "attacker.example", "127.0.0.1:8080"])
@pytest.mark.attack(27)
def test_the_host_header_says_nothing_about_where_a_proof_was_sent(host, gate, owner):
    authorization = ("Authorization", f"DPoP {owner.token}")
    base = {"base_url": f"http://{host}"}
    for header in ("X-Forwarded-Host", "Forwarded", "X-Original-Host", "X-Forwarded-Proto"):
        with pytest.raises(InvalidProof) as refused:
            through_wsgi(
                gate,
                [
                    authorization,
                    (header, "attacker.example"),
                    ("DPoP", owner.proof(htu=f"http://attacker.example{PATH}")),
                ],
                **base,
            )
        assert refused.value.reason is Reason.OTHER_REQUEST
    assert through_wsgi(gate, [authorization, ("DPoP", owner.proof())], **base).status_code == 200


# -- claims


@pytest.mark.parametrize("missing", ["jti", "htm", "htu", "iat"])
def test_every_required_claim_is_required(missing, gate, owner):
    assert gate.refusal(owner, owner.proof(**{missing: None})) is Reason.CLAIM


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("jti", 1),
        ("jti", ""),
        ("jti", "x" * 256),
        ("jti", ["x"]),
        ("htm", 1),
        ("htm", ["GET"]),
        ("htu", 1),
        ("htu", [URL]),
        ("htu", URL + "?" + "x" * 2048),
        ("iat", "now"),
        ("iat", True),
        ("iat", [NOW]),
        ("ath", 1),
        ("exp", "never"),
        ("nbf", False),
    ],
)
def test_a_claim_of_the_wrong_shape_is_refused(claim, value, gate, owner):
    assert gate.refusal(owner, owner.proof(**{claim: value})) is Reason.CLAIM


def test_a_claim_given_twice_is_refused(gate, owner):
    claims = json.dumps(owner.claims()).encode().replace(b"{", b'{"htm":"POST",', 1)
    assert gate.refusal(owner, owner.raw(json.dumps(owner.header()).encode(), claims)) is Reason.MALFORMED


@pytest.mark.parametrize("claims", [b"[]", b'"claims"', b"", b"\x00", b"{", b"[" * 1500, b'{"a":' * 300])
def test_claims_that_are_no_object_are_refused(claims, gate, owner):
    header = json.dumps(owner.header()).encode()
    assert gate.refusal(owner, owner.raw(header, claims)) is Reason.MALFORMED


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 2000])
@pytest.mark.parametrize("claim", ["iat", "exp", "nbf"])
def test_a_time_that_is_no_number_lets_nobody_in(claim, number, gate, owner):
    claims = json.dumps(owner.claims(**{claim: "TIME"})).replace('"TIME"', number).encode()
    proof = owner.raw(json.dumps(owner.header()).encode(), claims)
    if (claim, number[0]) in {("exp", "1"), ("exp", "9"), ("nbf", "-")} and number != "-Infinity":
        assert gate.enter(owner.token, proof)  # a limit that limits nothing: the minute since `iat` does
    else:
        expected = {Reason.MALFORMED, Reason.CLAIM, Reason.EXPIRED, Reason.TOO_EARLY}
        assert gate.refusal(owner, proof) in expected


# -- method and address


@pytest.mark.parametrize("method", ["POST", "get", "HEAD", "GET ", "", "G\u0415T"])
@pytest.mark.attack(21)
def test_a_proof_for_another_method_is_refused(method, gate, owner):
    assert gate.refusal(owner, owner.proof(htm=method)) is Reason.OTHER_REQUEST


def test_a_proof_for_reading_changes_nothing(gate, owner):
    assert gate.refusal(owner, owner.proof(), method="POST") is Reason.OTHER_REQUEST
    assert gate.refusal(owner, owner.proof(htm="GET"), method="PUT") is Reason.OTHER_REQUEST


@pytest.mark.parametrize(
    "url",
    [
        URL,
        URL.replace("https", "HTTPS"),
        URL.replace("haven.example", "Haven.EXAMPLE"),
        URL.replace("haven.example", "haven.example:443"),
        URL.replace("haven.example", "haven.example:"),
        f"{URL}?page=2",
        f"{URL}?",
        f"{URL}#part",
        f"{URL}?a=b#c?d",
        URL.replace("r-1", "%72-1"),
        URL.replace("r-1", "r%2D1"),
        URL.replace("r-1", "r%2d1"),
        URL.replace("/api/", "/api/./"),
        URL.replace("/api/", "/x/../api/"),
        URL.replace("/api/", "/x/%2e%2E/api/"),
        URL.replace("/api/", "/../../api/"),
    ],
)
def test_one_address_may_be_spelt_in_many_ways(url, gate, owner):
    assert gate.enter(owner.token, owner.proof(htu=url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        PATH,
        f"//haven.example{PATH}",
        URL.replace("https", "http"),
        URL.replace("https:", "http:").replace(".example", ".example:443"),
        URL.replace("https", "wss"),
        URL.replace("haven.example", "haven.example:8443"),
        URL.replace("haven.example", "haven.example:0"),
        URL.replace("haven.example", "haven.example:99999"),
        URL.replace("haven.example", "haven.example:x"),
        URL.replace("haven.example", "haven.example."),
        URL.replace("haven.example", "haven.example.attacker.example"),
        URL.replace("haven.example", "attacker.example"),
        URL.replace("haven.example", "haven.example@attacker.example"),
        URL.replace("haven.example", "attacker.example@haven.example"),
        URL.replace("haven.example", "attacker.example\\@haven.example"),
        URL.replace("haven.example", "h\u0430ven.example"),
        URL.replace("haven.example", "[::1]"),
        URL.replace("haven.example", "[haven.example"),
        URL.replace("haven.example", ""),
        URL + "/",
        URL + "/consent",
        URL + "%2Fconsent",
        URL.replace("r-1", "r-2"),
        URL.replace("r-1", "R-1"),
        URL.replace("/r-1", "%2Fr-1"),
        URL.replace("/r-1", "//r-1"),
        URL.replace("/r-1", "\\r-1"),
        URL.replace("/r-1", "/r-1/.."),
        URL.replace("/r-1", "/r-1/."),
        URL.replace("r-1", "r-1;x=y"),
        URL.replace("r-1", "r-%31%ff"),
        URL.replace("r-1", "r-%2531"),
        f" {URL}",
        f"{URL} ",
        f"{URL}\n",
        URL.replace("r-1", "r\t-1"),
        PUBLIC,
        f"{PUBLIC}/",
    ],
)
@pytest.mark.attack(21)
def test_a_proof_for_another_address_is_refused(url, gate, owner):
    assert gate.refusal(owner, owner.proof(htu=url)) is Reason.OTHER_REQUEST


@pytest.mark.parametrize("spelt", ["nl:shelter:2", "nl%3Ashelter%3A2", "nl%3ashelter:2"])
def test_an_id_may_be_spelt_with_or_without_escapes(spelt, gate, owner):
    proof = owner.proof(htu=f"{PUBLIC}/api/v1/shelters/{spelt}/units")
    assert gate.enter(owner.token, proof, path="/api/v1/shelters/nl:shelter:2/units")


_SEGMENT = st.text("abzAZ09-._~:@!$&'()*+,;= é%", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))


@st.composite
def spelt(draw: st.DrawFn) -> tuple[str, str]:
    """A path as it is routed, and its address in any spelling that RFC 3986 calls equivalent."""
    segments = draw(st.lists(_SEGMENT, min_size=1, max_size=5))
    said = []
    for segment in segments:
        octets = [
            f"%{octet:02{draw(st.sampled_from('xX'))}}"
            if octet >= 128 or chr(octet) in "% " or draw(st.booleans())
            else chr(octet)
            for octet in segment.encode()
        ]
        said += draw(st.sampled_from([[], ["."], ["x", ".."], ["%2e"], ["y", "%2E."]]))
        said.append("".join(octets))
    host = "".join(letter.upper() if draw(st.booleans()) else letter for letter in "haven.example")
    port = draw(st.sampled_from(["", ":", ":443"]))
    tail = draw(st.sampled_from(["", "?q=1", "#f"]))
    return "/" + "/".join(segments), f"https://{host}{port}/{'/'.join(said)}{tail}"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(spelt())
def test_every_spelling_of_an_address_is_that_address(gate, owner, spelt):
    path, url = spelt
    assert gate.enter(owner.token, owner.proof(htu=url, jti=url + str(time.monotonic_ns())), path=path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_SEGMENT, min_size=1, max_size=4), st.lists(_SEGMENT, min_size=1, max_size=4))
def test_two_paths_are_never_taken_for_one(gate, owner, one, other):
    if one != other:
        url = f"{PUBLIC}/{'/'.join(quote(segment, safe='') for segment in one)}"
        assert gate.refusal(owner, owner.proof(htu=url), path="/" + "/".join(other)) is Reason.OTHER_REQUEST


@pytest.mark.parametrize(
    "url", ["haven.example", "https://haven.example/haven", "ftp://haven.example", "https://u@haven.example"]
)
def test_a_public_address_that_proofs_cannot_be_compared_with_is_refused_at_the_start(url, store, clock):
    with pytest.raises(ValueError, match=r"public address|web server"):
        ProofVerifier(public_url=url, is_first_use=store.is_first_use, now=clock)


# -- time


@pytest.mark.parametrize("age", [-30, -10, 0, 1, 59, 60])
def test_a_proof_is_good_for_a_minute_and_from_a_clock_somewhat_ahead(age, gate, owner):
    assert gate.enter(owner.token, owner.proof(iat=NOW - age))


@pytest.mark.parametrize("age", [60.001, 61, 300, 86_400, NOW, NOW + 1, 1e300])
@pytest.mark.attack(24)
def test_an_old_proof_is_refused(age, gate, owner):
    assert gate.refusal(owner, owner.proof(iat=NOW - age)) is Reason.EXPIRED


@pytest.mark.parametrize("ahead", [30.001, 31, 3600, 1e300])
@pytest.mark.attack(24)
def test_a_proof_made_for_later_is_refused(ahead, gate, owner):
    assert gate.refusal(owner, owner.proof(iat=NOW + ahead)) is Reason.TOO_EARLY
    assert gate.refusal(owner, owner.proof(nbf=NOW + ahead)) is Reason.TOO_EARLY


def test_a_proof_that_limits_itself_further_is_taken_at_its_word(gate, owner):
    assert gate.refusal(owner, owner.proof(exp=NOW)) is Reason.EXPIRED
    assert gate.enter(owner.token, owner.proof(exp=NOW + 1))


def test_an_expired_token_is_refused_with_a_fresh_proof(gate, owner, clock):
    clock.advance(seconds=300)
    with pytest.raises(InvalidToken) as refused:
        gate.enter(owner.token, owner.proof(iat=NOW + 300))
    assert refused.value.reason is Reason.EXPIRED


# -- once


@pytest.mark.attack(23)
def test_a_proof_works_once(gate, owner):
    proof = owner.proof()
    assert gate.enter(owner.token, proof)
    assert gate.refusal(owner, proof) is Reason.REPLAYED


@pytest.mark.attack(23)
def test_a_proof_used_at_one_gateway_is_used_at_all(gate, issuer, store, clock, owner):
    proof = owner.proof()
    gate.enter(owner.token, proof)
    assert Gate(issuer, store, clock).refusal(owner, proof) is Reason.REPLAYED


def test_a_new_proof_with_an_old_id_is_a_replay(gate, owner):
    gate.enter(owner.token, owner.proof(jti="same"))
    assert gate.refusal(owner, owner.proof(jti="same", iat=NOW + 1)) is Reason.REPLAYED


@pytest.mark.attack(23)
def test_the_same_signature_in_another_spelling_is_a_replay(gate, owner):
    """ECDSA: where (r, s) is a signature, (r, n - s) is one as well. What counts is the id, not the bytes."""
    proof = owner.proof()
    gate.enter(owner.token, proof)
    head, body, signature = proof.split(".")
    both = urlsafe_b64decode(signature.encode())
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = both[:32] + (order - int.from_bytes(both[32:])).to_bytes(32)
    assert gate.refusal(owner, f"{head}.{body}.{encoded(other)}") is Reason.REPLAYED


def test_one_owner_cannot_use_up_the_ids_of_another(gate, issuer, owner):
    other = Owner(issuer)
    assert gate.enter(owner.token, owner.proof(jti="same"))
    assert gate.enter(other.token, other.proof(jti="same"))


def test_a_proof_that_was_refused_is_not_used_up(gate, owner, issuer):
    """Or whoever sees it could spoil it by sending it somewhere else first."""
    proof = owner.proof()
    assert gate.refusal(owner, proof, path="/elsewhere") is Reason.OTHER_REQUEST
    assert gate.refusal(owner, proof, method="POST") is Reason.OTHER_REQUEST
    with pytest.raises(InvalidToken):
        gate.enter(issuer.token(iss="https://attacker.example", cnf={"jkt": owner.key.thumbprint()}), proof)
    with pytest.raises(InvalidToken):
        gate.enter(owner.token, proof, scheme="Bearer")
    assert gate.enter(owner.token, proof)


def test_a_stranger_cannot_fill_the_store(issuer, clock, owner):
    used: list[str] = []
    store = TokenStore(sqlite_engine(":memory:"), clock)
    store.is_first_use = lambda proof, until: used.append(proof) is None  # type: ignore[method-assign]
    gate = Gate(issuer, store, clock)
    stranger = Owner(issuer, ECKey.generate_key("P-256"))
    forger = Issuer(clock)
    for token in (
        forger.token(cnf={"jkt": stranger.key.thumbprint()}),
        issuer.token(exp=NOW - 1, cnf={"jkt": stranger.key.thumbprint()}),
        issuer.token(aud="pages", cnf={"jkt": stranger.key.thumbprint()}),
        owner.token,
    ):
        stranger.token = token
        with pytest.raises(TokenError):
            gate.enter(token, stranger.proof())
    assert used == []
    assert gate.enter(owner.token, owner.proof())
    assert len(used) == 1


@pytest.mark.parametrize("jti", ["é", "\u202e", "\ud800", "a\nb", "'); DROP TABLE used_proofs; --", "x" * 255, "\0"])
def test_an_id_is_only_an_id(jti, gate, owner):
    proof = owner.raw(json.dumps(owner.header()).encode(), json.dumps(owner.claims(jti=jti)).encode())
    assert gate.enter(owner.token, proof)
    assert gate.refusal(owner, proof) is Reason.REPLAYED


def test_what_is_kept_of_a_proof_is_a_digest(gate, store, owner):
    gate.enter(owner.token, owner.proof(jti="an-id-that-says-something"))
    with store.engine.connect() as connection:
        ((proof, until),) = connection.exec_driver_sql("SELECT proof, until FROM used_proofs").all()
    assert len(proof) == 64
    assert set(proof) <= set("0123456789abcdef")
    assert until == NOW + 60


@pytest.mark.attack(23)
def test_of_many_at_once_one_gets_in(issuer, clock, tmp_path):
    gates = []
    for _ in range(4):  # processes, as far as the file can tell
        store = TokenStore(sqlite_engine(str(tmp_path / "tokens.sqlite")), clock)
        store.create_schema()
        gates.append(Gate(issuer, store, clock))
    owner = Owner(issuer)
    for _ in range(10):
        proof, together, outcomes = owner.proof(), threading.Barrier(8), []

        def enter(gate: Gate, proof: str = proof, together: Any = together, outcomes: list[Any] = outcomes) -> None:
            together.wait()
            try:
                outcomes.append(gate.enter(owner.token, proof).person)
            except InvalidProof as refused:
                outcomes.append(refused.reason)

        threads = [threading.Thread(target=enter, args=(gates[n % 4],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(outcomes) == [Reason.REPLAYED] * 7 + ["synthetic.person-1"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.integers(-120, 120),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), st.booleans()), min_size=2, max_size=8),
    st.lists(st.integers(-100, 100), min_size=4, max_size=4),
)
def test_no_proof_is_taken_twice_whatever_clocks_say_and_whoever_forgets(issuer, clock, made_at, visits, clocks):
    """Four gateways whose clocks differ by minutes, one store; between visits time passes and anybody tidies up."""
    passed = 0

    def clock_of(gateway: int) -> Callable[[], datetime]:
        return lambda: START + timedelta(seconds=passed + clocks[gateway])

    engine = sqlite_engine(":memory:")
    stores = [TokenStore(engine, clock_of(gateway)) for gateway in range(4)]
    stores[0].create_schema()
    owner = Owner(issuer)
    gates = [ProofVerifier(public_url=PUBLIC, is_first_use=stores[n].is_first_use, now=clock_of(n)) for n in range(4)]
    proof = SentProof(owner.proof(iat=NOW + made_at), "GET", PATH)
    let_in = 0
    for wait, gateway, tidies in visits:
        passed += wait
        if tidies:
            stores[gateway].forget_expired()
        try:
            gates[gateway].require_key(proof, owner.key.thumbprint(), owner.token)
            let_in += 1
        except InvalidProof:
            pass
    assert let_in <= 1


def test_a_used_proof_is_forgotten_when_no_gateway_could_take_it_any_more(gate, owner, store, clock):
    gate.enter(owner.token, owner.proof())

    def kept() -> int:
        with store.engine.connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM used_proofs").scalar()

    clock.advance(seconds=60 + KEPT_LONGER.total_seconds())
    store.forget_expired()
    assert kept() == 1
    clock.advance(seconds=1)
    store.forget_expired()
    assert kept() == 0


# -- the store fails


def test_nobody_is_let_in_when_it_cannot_be_told_whether_a_proof_was_used(gate, owner, store):
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE used_proofs")
    with pytest.raises(TokenStoreUnavailable) as refused:
        gate.enter(owner.token, owner.proof())
    assert refused.value.status == 503
    assert refused.value.www_authenticate is None


def test_nobody_is_let_in_when_it_cannot_be_told_who_is_revoked(issuer, clock, tmp_path, owner):
    store = TokenStore(sqlite_engine(str(tmp_path / "no" / "such" / "folder")), clock)
    gate = Gate(issuer, store, clock)
    gate.verifier._is_revoked = store.is_revoked
    for scheme, token, proof in (("Bearer", issuer.token(), None), ("DPoP", owner.token, owner.proof())):
        with pytest.raises(TokenStoreUnavailable):
            gate.enter(token, proof, scheme=scheme)


def test_a_fault_of_ours_in_the_store_is_not_passed_off_as_an_outage(store):
    with pytest.raises(sa.exc.StatementError), store._writing() as connection:
        connection.execute(sa.text("SELECT :missing"))


# -- who must have a bound token


@pytest.mark.parametrize("demand", Demand)
@pytest.mark.parametrize("machine", [True, False], ids=["machine", "person"])
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "bearer"])
def test_who_must_have_a_token_that_is_bound(demand, machine, bound, issuer, store, clock, owner):
    gate = Gate(issuer, store, clock, demand=demand)
    about = {"auth_time": None} if machine else {}
    if bound:
        owner.token = issuer.token(cnf={"jkt": owner.key.thumbprint()}, **about)
        assert gate.enter(owner.token, owner.proof()).is_machine == machine
    elif demand is Demand.ALL or (demand is Demand.MACHINES and machine):
        with pytest.raises(ProofRequired) as refused:
            gate.enter(issuer.token(**about), None, scheme="Bearer")
        assert refused.value.status == 401
        assert refused.value.www_authenticate.startswith('DPoP realm="haven", error="invalid_token"')
    else:
        assert gate.enter(issuer.token(**about), None, scheme="Bearer").is_machine == machine


def test_a_policy_that_comes_as_a_plain_word_is_the_policy_and_an_unknown_one_is_none(issuer, store, clock):
    with pytest.raises(ProofRequired):
        Gate(issuer, store, clock, demand="all").enter(issuer.token(), None, scheme="Bearer")
    with pytest.raises(ValueError, match="nobody"):
        Gate(issuer, store, clock, demand="nobody")


def test_machines_must_unless_somebody_says_otherwise(gate, issuer):
    with pytest.raises(ProofRequired):
        gate.enter(issuer.token(auth_time=None), None, scheme="Bearer")


def test_a_revoked_or_wrong_token_is_never_told_to_be_bound_instead(gate, issuer):
    for wrong in ({"jti": "revoked"}, {"aud": "pages"}):
        issuer.revoked.add("revoked")
        with pytest.raises(InvalidToken):
            gate.enter(issuer.token(auth_time=None, **wrong), None, scheme="Bearer")


# -- what is said


def test_a_refusal_speaks_of_the_scheme_that_was_used_and_repeats_nothing(gate, owner, issuer):
    algorithms = 'algs="ES256 PS256 Ed25519 EdDSA"'
    refusals = []
    for token, proof, scheme in (
        (owner.token, owner.proof(htu="https://attacker.example"), "DPoP"),
        (owner.token, None, "DPoP"),
        (owner.token, None, "Bearer"),
        (issuer.token(iss="https://attacker.example"), None, "DPoP"),
    ):
        with pytest.raises(TokenError) as refused:
            gate.enter(token, proof, scheme=scheme)
        assert refused.value.status == 401
        assert "attacker" not in f"{refused.value} {refused.value.www_authenticate}"
        refusals.append(refused.value.www_authenticate)
    assert [said.partition(", error_description")[0] for said in refusals] == [
        'DPoP realm="haven", error="invalid_dpop_proof"',
        'DPoP realm="haven", error="invalid_dpop_proof"',
        'Bearer realm="haven", error="invalid_token"',
        'DPoP realm="haven", error="invalid_token"',
    ]
    assert [said.endswith(algorithms) for said in refusals] == [True, True, False, True]


# -- a client of ours


@pytest.fixture
def stammering_server() -> Iterator[http.server.ThreadingHTTPServer]:
    """Gives tokens, answers every request with 503 once, and remembers what came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.server.seen.append((self.command, self.path, dict(self.headers)))
            again = (
                self.path.startswith("/api")
                and len([path for _, path, _ in self.server.seen if path == self.path]) == 1
            )
            body = json.dumps({"access_token": "a.b.c"} if self.path == "/oauth/token" else {}).encode()
            self.send_response(503 if again else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_our_client_repeats_a_request_under_its_key_with_a_fresh_proof(stammering_server, store):
    address = f"http://127.0.0.1:{stammering_server.server_port}"
    client = Client(address, {"police": "secret"}, keys={"police": SenderKey()})
    client.send("police", "POST", "/api/v1/relocation-requests?limit=1", {})
    sent = [headers for _, path, headers in stammering_server.seen if path.startswith("/api")]
    assert len(sent) == 2
    assert len({headers["Idempotency-Key"] for headers in sent}) == 1
    verifier = ProofVerifier(public_url=address, is_first_use=store.is_first_use, now=lambda: datetime.now(UTC))
    token_request = next(headers for _, path, headers in stammering_server.seen if path == "/oauth/token")
    thumbprint = verifier.thumbprint(SentProof(token_request["DPoP"], "POST", "/oauth/token"))
    for headers in sent:
        assert headers["Authorization"] == "DPoP a.b.c"
        verifier.require_key(SentProof(headers["DPoP"], "POST", "/api/v1/relocation-requests"), thumbprint, "a.b.c")


def test_our_client_sends_no_private_key(store):
    key = SenderKey()
    head = key.proof("GET", URL).partition(".")[0]
    assert json.loads(urlsafe_b64decode(head.encode()))["jwk"].keys() == {"kty", "crv", "x", "y"}


def test_our_client_says_what_it_was_told_when_it_gives_up(monkeypatch):
    monkeypatch.setattr(api_client, "PATIENCE", timedelta(seconds=0.3))
    told = api_client.Answer(401, {"title": "This step wants a stronger sign-in."}, {})
    client = Client("http://127.0.0.1:1", {}, sign_in=lambda _who, _key: "a.b.c")
    monkeypatch.setattr(client, "_once", lambda *_: told)
    with pytest.raises(api_client.NodeUnreachable, match=r"it last said 401: This step wants a stronger sign-in\."):
        client.send("police", "GET", PATH)
