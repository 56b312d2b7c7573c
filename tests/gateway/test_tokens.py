"""What the gateway lets in: one test for each way an access token has been forged, replayed or misread somewhere."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, Key, KeySet, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from events.vocabulary import Role
from services.gateway import key_set, tokens
from services.gateway.dpop import ProofVerifier
from services.gateway.key_set import HttpKeySet, KeysUnavailable
from services.gateway.principals import SCOPES_OF_ROLE, Principal, Scope, demo_principals
from services.gateway.token_errors import InsufficientScope, InvalidToken, MissingToken, Reason
from services.gateway.tokens import TokenVerifier, require_scope
from services.loopback import is_loopback

ISSUER = "https://sign-in.example"
AUDIENCE = "https://haven.example"
START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


class Issuer:
    """Mints tokens: good ones by default, and any bad one by overriding a claim or a header (`None` leaves it out)."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
        self.published: list[Key] = [self.key]
        self.fetches = 0
        self.revoked: set[str] = set()

    def jwks(self) -> KeySet:
        self.fetches += 1
        return KeySet(list(self.published))

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.time.timestamp())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "be-police-antwerp-1",
            "client_id": "pages",
            "iat": now,
            "exp": now + 300,
            "jti": "token-1",
            "scope": "requests:open requests:read",
            "haven_person": "synthetic.person-1",
            "haven_role": "referrer",
            "haven_organisation": "be-police-antwerp",
            "haven_country": "BE",
            "auth_time": now,
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, header: dict[str, Any] | None = None, key: Key | None = None, **changes: Any) -> str:
        key = key or self.key
        merged = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid} | (header or {})
        merged = {name: value for name, value in merged.items() if value is not None}
        registry = JWSRegistry(algorithms=list(JWSRegistry.algorithms), strict_check_header=False)
        return jwt.encode(merged, self.claims(**changes), key, registry=registry, default_type=None)

    def raw(self, header: bytes, payload: bytes | None = None) -> str:
        """A token around exactly these bytes, correctly signed."""
        payload = json.dumps(self.claims()).encode() if payload is None else payload
        signed = f"{encoded(header)}.{encoded(payload)}"
        signature = JWSRegistry.algorithms["ES256"].sign(signed.encode(), self.key)
        return f"{signed}.{encoded(signature)}"

    def good_header(self) -> bytes:
        return json.dumps({"alg": "ES256", "typ": "at+jwt", "kid": self.key.kid}).encode()


def no_proofs(clock: Clock) -> ProofVerifier:
    """For tokens that anybody may bear; those that are bound are in test_dpop.py."""
    return ProofVerifier(public_url=ISSUER, is_first_use=lambda *_: False, now=clock)


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(clock)


@pytest.fixture
def verifier(issuer: Issuer, clock: Clock) -> TokenVerifier:
    return TokenVerifier(
        issuer=ISSUER,
        audience=AUDIENCE,
        countries={"BE", "NL", "LU"},
        jwks=issuer.jwks,
        is_revoked=lambda token_id, person: bool({token_id, person} & issuer.revoked),
        proofs=no_proofs(clock),
        now=clock,
    )


@pytest.fixture
def refusal(verifier: TokenVerifier) -> Callable[[str], InvalidToken]:
    """How a token is refused; fails if it is not."""

    def refuse(token: str) -> InvalidToken:
        with pytest.raises(InvalidToken) as refused:
            verifier.verify(f"Bearer {token}")
        return refused.value

    return refuse


def test_a_good_token_becomes_its_principal(issuer, verifier):
    assert verifier.verify(f"Bearer {issuer.token()}") == Principal(
        person="synthetic.person-1",
        role=Role.REFERRER,
        organisation="be-police-antwerp",
        country="BE",
        scopes=frozenset({"requests:open", "requests:read"}),
        client_id="pages",
        token_id="token-1",
        issued_at=START,
        authenticated_at=START,
        acr="",
        confirmation=None,
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_scheme_is_read_without_regard_to_case(scheme, issuer, verifier):
    assert verifier.verify(f"{scheme} {issuer.token()}").token_id == "token-1"


def test_a_token_may_name_several_audiences(issuer, verifier):
    assert verifier.verify(f"Bearer {issuer.token(aud=['https://other.example', AUDIENCE])}")


def test_the_long_form_of_the_type_is_accepted(issuer, verifier):
    assert verifier.verify(f"Bearer {issuer.token(header={'typ': 'application/at+jwt'})}")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("PS256", RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)),
        ("Ed25519", OKPKey.generate_key("Ed25519", {"use": "sig"}, auto_kid=True)),
        pytest.param(
            "EdDSA",
            OKPKey.generate_key("Ed25519", {"use": "sig"}, auto_kid=True),
            marks=pytest.mark.filterwarnings("ignore:EdDSA is deprecated"),
        ),
    ],
)
def test_the_other_fapi_algorithms_are_accepted(algorithm, key, issuer, verifier):
    issuer.published.append(key)
    assert verifier.verify(f"Bearer {issuer.token(header={'alg': algorithm}, key=key)}")


# -- where the token comes from


@pytest.mark.parametrize("header", [None, "", " ", "Basic dXNlcjpzZWNyZXQ=", "Bearerx a.b.c", "DPoPBearer a.b.c"])
@pytest.mark.attack(1)
def test_a_request_without_a_token_is_asked_for_one(header, verifier):
    with pytest.raises(MissingToken) as refused:
        verifier.verify(header)
    assert refused.value.status == 401
    challenge = 'Bearer realm="haven", DPoP realm="haven", algs="ES256 PS256 Ed25519 EdDSA"'
    assert refused.value.www_authenticate == challenge


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer a.b", "Bearer a.b.c.d", "Bearer a.b.c\n", "Bearer é.b.c"]
)
def test_what_is_not_three_segments_is_refused_as_it_stands(header, verifier):
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(header)
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.attack(16)
def test_two_authorization_headers_are_refused_even_if_one_is_good(issuer, verifier):
    from flask import Flask, request

    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: verifier.verify(request.headers.get("Authorization")).person)
    good = ("Authorization", f"Bearer {issuer.token()}")

    assert app.test_client().get("/", headers=[good]).text == "synthetic.person-1"
    app.testing = True
    with pytest.raises(InvalidToken) as refused:
        app.test_client().get("/", headers=[good, good])
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("where", ["query_string", "data"])
@pytest.mark.attack(17)
def test_a_token_in_the_query_or_the_form_is_not_looked_at(where, issuer, verifier):
    from flask import Flask, request

    app = Flask(__name__)
    app.testing = True
    app.add_url_rule(
        "/", view_func=lambda: verifier.verify(request.headers.get("Authorization")).person, methods=["POST"]
    )
    with pytest.raises(MissingToken):
        app.test_client().post("/", **{where: {"access_token": issuer.token()}})


def test_a_refusal_says_what_to_do_and_nothing_that_was_sent(issuer, refusal):
    refused = refusal(issuer.token(iss="https://attacker.example"))
    assert refused.status == 401
    assert refused.www_authenticate.startswith('Bearer realm="haven", error="invalid_token"')
    assert "attacker" not in f"{refused} {refused.www_authenticate}"
    assert refused.__suppress_context__


# -- header


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
@pytest.mark.attack(2)
def test_an_unsigned_token_is_refused(algorithm, issuer, refusal):
    header = json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": issuer.key.kid}).encode()
    unsigned = f"{encoded(header)}.{encoded(json.dumps(issuer.claims()).encode())}."
    assert refusal(unsigned).reason is Reason.MALFORMED
    assert refusal(f"{unsigned}AA").reason is Reason.HEADER


@pytest.mark.parametrize("secret", ["as_pem", "as_der"])
@pytest.mark.attack(3)
def test_the_public_key_is_no_shared_secret(secret, issuer, refusal):
    header = json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": issuer.key.kid}).encode()
    signed = f"{encoded(header)}.{encoded(json.dumps(issuer.claims()).encode())}"
    mac = hmac.new(getattr(issuer.key, secret)(private=False), signed.encode(), hashlib.sha256).digest()
    assert refusal(f"{signed}.{encoded(mac)}").reason is Reason.HEADER


def test_an_algorithm_that_does_not_fit_the_key_is_refused(issuer, refusal):
    header = json.dumps({"alg": "PS256", "typ": "at+jwt", "kid": issuer.key.kid}).encode()
    assert refusal(issuer.raw(header)).reason is Reason.MALFORMED


@pytest.mark.parametrize("algorithm", ["RS256", "ES384", "Ed448", "HS256", ""])
def test_an_algorithm_outside_the_list_is_refused(algorithm, issuer, refusal):
    header = json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": issuer.key.kid}).encode()
    assert refusal(issuer.raw(header)).reason is Reason.HEADER


@pytest.mark.attack(4)
def test_a_key_that_travels_in_the_token_is_never_used(issuer, refusal):
    attacker = ECKey.generate_key("P-256", auto_kid=True)
    embedded = {"jwk": attacker.as_dict(private=False)}
    assert refusal(issuer.token(header=embedded, key=attacker)).reason is Reason.HEADER
    assert refusal(issuer.token(header=embedded | {"kid": issuer.key.kid}, key=attacker)).reason is Reason.HEADER
    assert refusal(issuer.token(header={"kid": issuer.key.kid}, key=attacker)).reason is Reason.SIGNATURE


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/chain"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"]},
        {"crit": ["bork"], "bork": True},
        {"crit": 1},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"cty": "JWT"},
    ],
)
@pytest.mark.attack(5, 7)
def test_any_other_header_is_refused_although_the_signature_is_good(extra, issuer, refusal):
    header = json.dumps(json.loads(issuer.good_header()) | extra).encode()
    assert refusal(issuer.raw(header)).reason is Reason.HEADER


@pytest.mark.parametrize("kind", ["JWT", "jwt", "AT+JWT", "id_token+jwt", "dpop+jwt", "logout+jwt", "", None, 1])
@pytest.mark.attack(11)
def test_only_an_access_token_by_type_is_one(kind, issuer, refusal):
    header = {"alg": "ES256", "kid": issuer.key.kid} | ({} if kind is None else {"typ": kind})
    assert refusal(issuer.raw(json.dumps(header).encode())).reason is Reason.HEADER


@pytest.mark.parametrize(
    "header",
    [b"[]", b'["alg"]', b'"alg"', b"5", b"null", b"", b"{", b"\xff", b'{"alg":"ES256","typ":"at+jwt","kid":["k"]}'],
)
def test_a_header_that_is_not_the_expected_object_is_refused(header, issuer, refusal):
    assert refusal(issuer.raw(header) if header else f".{issuer.raw(b'{}')[4:]}").reason in {
        Reason.HEADER,
        Reason.MALFORMED,
    }


@pytest.mark.attack(16)
def test_a_header_name_given_twice_is_refused(issuer, refusal):
    header = b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"%s"}' % issuer.key.kid.encode()
    assert refusal(issuer.raw(header)).reason is Reason.HEADER


def test_a_token_without_a_key_id_is_refused_although_one_key_would_fit(issuer, refusal):
    assert refusal(issuer.raw(b'{"alg":"ES256","typ":"at+jwt"}')).reason is Reason.HEADER


@pytest.mark.parametrize("key_id", ["unknown", "../../etc/passwd", "' OR 1=1 --", "/dev/null"])
@pytest.mark.attack(6)
def test_an_unknown_key_id_is_only_a_name(key_id, issuer, refusal):
    assert refusal(issuer.token(header={"kid": key_id})).reason is Reason.UNKNOWN_KEY


# -- size and nesting


@pytest.mark.attack(14)
def test_a_token_over_eight_kibibytes_is_refused_before_it_is_decoded(issuer, refusal, monkeypatch):
    monkeypatch.setattr(tokens, "read_header", lambda *_: pytest.fail("decoded"))
    assert refusal(issuer.token(padding="x" * 9000)).reason is Reason.TOO_LARGE


def test_a_token_just_under_the_limit_is_read(issuer, verifier):
    token = issuer.token(padding="x" * 5500)
    assert 7500 < len(token) <= tokens.LARGEST_TOKEN
    assert verifier.verify(f"Bearer {token}")


@pytest.mark.attack(14)
def test_an_enormous_header_is_refused_at_once(verifier):
    started = time.monotonic()
    with pytest.raises(InvalidToken) as refused:
        verifier.verify("Bearer " + "a" * 50_000_000)
    assert refused.value.reason is Reason.TOO_LARGE
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.attack(14)
def test_a_deeply_nested_header_is_refused(opening, issuer, refusal):
    assert refusal(f"{encoded(opening * 1100)}.e30.AA").reason is Reason.HEADER


@pytest.mark.attack(14)
def test_deeply_nested_claims_are_refused_although_they_are_signed(issuer, refusal):
    assert refusal(issuer.raw(issuer.good_header(), b"[" * 5500)).reason is Reason.MALFORMED


@pytest.mark.attack(15)
def test_an_encrypted_zip_bomb_is_not_opened(refusal):
    header = encoded(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}')
    bomb = encoded(zlib.compress(b"0" * 1_000_000, 9))
    assert refusal(f"{header}..{'A' * 16}.{bomb}.{'A' * 22}").reason is Reason.MALFORMED


# -- claims


@pytest.mark.parametrize(
    "wrong",
    [f"{ISSUER}/", ISSUER.upper(), "http://sign-in.example", "https://sign-in.example.attacker.example", "", [ISSUER]],
)
@pytest.mark.attack(8)
def test_the_issuer_must_match_to_the_letter(wrong, issuer, refusal):
    refused = refusal(issuer.token(iss=wrong))
    assert (refused.reason, refused.claim) == (Reason.CLAIM, "iss")


@pytest.mark.parametrize("wrong", ["pages", f"{AUDIENCE}/", "", [], ["pages"], [AUDIENCE, 1], {AUDIENCE: 1}, 7])
@pytest.mark.attack(9)
def test_a_token_for_somebody_else_is_refused(wrong, issuer, refusal):
    refused = refusal(issuer.token(aud=wrong))
    assert (refused.reason, refused.claim) == (Reason.CLAIM, "aud")


@pytest.mark.parametrize(
    "missing",
    [
        *("iss", "aud", "sub", "client_id", "iat", "exp", "jti"),
        *("haven_person", "haven_role", "haven_organisation", "haven_country"),
    ],
)
@pytest.mark.attack(9)
def test_every_required_claim_is_required(missing, issuer, refusal):
    refused = refusal(issuer.token(**{missing: None}))
    assert (refused.reason, refused.claim) == (Reason.CLAIM, missing)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("haven_role", "admin"),
        ("haven_role", "system"),
        ("haven_role", ["coordinator"]),
        ("haven_country", "DE"),
        ("haven_country", "be"),
        ("haven_person", "Jan Janssen"),
        ("haven_person", "a" * 81),
        ("haven_person", 7),
        ("haven_organisation", "../be"),
        ("scope", ["requests:open"]),
        ("client_id", 1),
        ("client_id", ""),
        ("jti", 1),
        ("jti", ""),
        ("sub", {}),
        ("exp", "2999-01-01"),
        ("exp", True),
        ("iat", "now"),
        ("nbf", "now"),
        ("auth_time", "now"),
    ],
)
def test_a_claim_of_the_wrong_shape_or_outside_its_list_is_refused(claim, value, issuer, refusal):
    assert refusal(issuer.token(**{claim: value})).reason is Reason.CLAIM


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 4400])
def test_an_expiry_that_is_no_number_is_refused(number, issuer, refusal):
    claims = json.dumps(issuer.claims(exp="EXPIRY")).replace('"EXPIRY"', number).encode()
    assert refusal(issuer.raw(issuer.good_header(), claims)).reason in {Reason.MALFORMED, Reason.CLAIM}


@pytest.mark.attack(16)
def test_a_claim_given_twice_is_refused(issuer, refusal):
    claims = json.dumps(issuer.claims()).encode().replace(b"{", b'{"haven_role":"auditor",', 1)
    assert refusal(issuer.raw(issuer.good_header(), claims)).reason is Reason.MALFORMED


@pytest.mark.parametrize("claims", [b"[]", b'"claims"', b"", b"\x00", b"{"])
def test_claims_that_are_no_object_are_refused(claims, issuer, refusal):
    assert refusal(issuer.raw(issuer.good_header(), claims)).reason is Reason.MALFORMED


@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_changed_character_breaks_the_token(part, issuer, refusal):
    segments = issuer.token().split(".")
    segments[part] = segments[part][:10] + ("A" if segments[part][10] != "A" else "B") + segments[part][11:]
    assert refusal(".".join(segments)).reason in {Reason.HEADER, Reason.SIGNATURE, Reason.UNKNOWN_KEY}


# -- time


def test_a_token_works_until_the_second_it_expires(issuer, verifier, clock):
    token = issuer.token()
    clock.advance(seconds=299)
    assert verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize("seconds", [300, 301, 329, 86_400])
@pytest.mark.attack(10)
def test_an_expired_token_is_refused_without_leeway(seconds, issuer, refusal, clock):
    token = issuer.token()
    clock.advance(seconds=seconds)
    assert refusal(token).reason is Reason.EXPIRED


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize("ahead", [1, 9, 10, 30])
@pytest.mark.attack(10)
def test_a_gateway_whose_clock_is_slow_accepts_a_fresh_token(claim, ahead, issuer, verifier):
    assert verifier.verify(f"Bearer {issuer.token(**{claim: int(START.timestamp()) + ahead})}")


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize("ahead", [31, 61, 3600])
@pytest.mark.attack(10)
def test_a_token_from_the_future_is_refused(claim, ahead, issuer, refusal):
    refused = refusal(
        issuer.token(**{claim: int(START.timestamp()) + ahead, "exp": int(START.timestamp()) + ahead + 300})
    )
    assert (refused.reason, refused.claim) == (Reason.CLAIM, claim)


def test_a_token_that_would_outlive_its_revocation_is_refused(issuer, refusal):
    refused = refusal(issuer.token(exp=int(START.timestamp()) + 301))
    assert (refused.reason, refused.claim) == (Reason.CLAIM, "exp")


# -- revocation


@pytest.mark.parametrize("subject", ["token-1", "synthetic.person-1"])
@pytest.mark.attack(13)
def test_a_revoked_token_or_person_is_refused_at_once(subject, issuer, verifier, refusal):
    token = issuer.token()
    assert verifier.verify(f"Bearer {token}")
    issuer.revoked.add(subject)
    assert refusal(token).reason is Reason.REVOKED


# -- scopes


@pytest.mark.attack(41)
def test_a_token_never_carries_more_than_its_role(issuer, verifier):
    everything = " ".join(Scope)
    for role in Role:
        if role is not Role.SYSTEM:
            principal = verifier.verify(f"Bearer {issuer.token(haven_role=role, scope=everything)}")
            assert principal.scopes == SCOPES_OF_ROLE[role]


def test_scopes_of_another_service_are_left_out(issuer, verifier):
    token = issuer.token(scope="openid profile requests:read requests:READ")
    assert verifier.verify(f"Bearer {token}").scopes == {"requests:read"}


def test_a_token_without_scopes_allows_nothing(issuer, verifier):
    assert verifier.verify(f"Bearer {issuer.token(scope=None)}").scopes == frozenset()


def test_a_missing_scope_is_forbidden_and_named(issuer, verifier):
    principal = verifier.verify(f"Bearer {issuer.token(scope='requests:read placements:sign')}")
    require_scope(principal, Scope.READ_REQUESTS)
    with pytest.raises(InsufficientScope) as refused:
        require_scope(principal, Scope.SIGN_PLACEMENTS)
    assert refused.value.status == 403
    assert refused.value.www_authenticate == 'Bearer realm="haven", error="insufficient_scope", scope="placements:sign"'


def test_the_scope_table_knows_every_role_and_gives_every_scope_to_somebody():
    assert set(SCOPES_OF_ROLE) == set(Role)
    assert frozenset().union(*SCOPES_OF_ROLE.values()) == set(Scope)


def test_nobody_who_reads_the_trail_opens_a_sealed_field_and_nobody_who_refers_signs():
    assert Scope.REQUEST_DISCLOSURES not in SCOPES_OF_ROLE[Role.AUDITOR]
    assert [role for role in Role if Scope.SIGN_PLACEMENTS in SCOPES_OF_ROLE[role]] == [Role.COORDINATOR]
    assert [role for role in Role if Scope.ORDER_ERASURES in SCOPES_OF_ROLE[role]] == [Role.AUDITOR]


# -- keys


def test_keys_are_fetched_once_and_kept(issuer, verifier, clock):
    for _ in range(5):
        verifier.verify(f"Bearer {issuer.token()}")
        clock.advance(seconds=60)
    assert issuer.fetches == 1


def test_a_new_key_is_found_by_fetching_again_once(issuer, verifier, clock):
    verifier.verify(f"Bearer {issuer.token()}")
    clock.advance(seconds=11)
    issuer.key = ECKey.generate_key("P-256", auto_kid=True)
    issuer.published.append(issuer.key)
    assert verifier.verify(f"Bearer {issuer.token()}")
    assert issuer.fetches == 2


@pytest.mark.attack(6, 18)
def test_made_up_key_ids_cannot_hammer_the_issuer(issuer, verifier, refusal, clock):
    verifier.verify(f"Bearer {issuer.token()}")
    for number in range(100):
        clock.advance(seconds=0.2)
        refusal(issuer.token(header={"kid": f"made-up-{number}"}))
    assert issuer.fetches <= 3
    assert verifier.verify(f"Bearer {issuer.token()}")


@pytest.mark.attack(18)
def test_a_key_taken_out_of_service_stops_working(issuer, verifier, refusal, clock):
    old = issuer.key
    verifier.verify(f"Bearer {issuer.token()}")
    issuer.published = [ECKey.generate_key("P-256", auto_kid=True)]
    clock.advance(minutes=10)
    assert refusal(issuer.token(key=old)).reason is Reason.UNKNOWN_KEY


@pytest.mark.attack(18)
def test_an_unreachable_issuer_is_bridged_for_ten_minutes_and_then_nobody_comes_in(clock):
    issuer = Issuer(clock)
    up = True

    def jwks() -> KeySet:
        if not up:
            raise KeysUnavailable("it is down")
        return issuer.jwks()

    verifier = TokenVerifier(
        issuer=ISSUER,
        audience=AUDIENCE,
        countries={"BE"},
        jwks=jwks,
        is_revoked=lambda *_: False,
        proofs=no_proofs(clock),
        now=clock,
    )
    verifier.verify(f"Bearer {issuer.token()}")
    up = False
    clock.advance(minutes=9)
    assert verifier.verify(f"Bearer {issuer.token()}")
    clock.advance(minutes=1)
    with pytest.raises(KeysUnavailable) as refused:
        verifier.verify(f"Bearer {issuer.token()}")
    assert refused.value.status == 503
    up = True
    clock.advance(seconds=11)
    assert verifier.verify(f"Bearer {issuer.token()}")


def test_a_clock_set_back_does_not_keep_old_keys_for_ever(issuer, verifier, refusal, clock):
    old = issuer.key
    verifier.verify(f"Bearer {issuer.token()}")
    clock.advance(days=-1)
    issuer.published = [ECKey.generate_key("P-256", auto_kid=True)]
    assert refusal(issuer.token(key=old)).reason is Reason.UNKNOWN_KEY


@pytest.mark.parametrize(
    "key",
    [
        OctKey.generate_key(256, auto_kid=True),
        ECKey.generate_key("P-384", auto_kid=True),
        OKPKey.generate_key("Ed448", auto_kid=True),
        ECKey.generate_key("P-256", {"use": "enc"}, auto_kid=True),
    ],
    ids=["shared secret", "P-384", "Ed448", "for encryption"],
)
def test_a_published_key_of_the_wrong_kind_is_not_used(key, issuer, refusal):
    issuer.published.append(key)
    assert refusal(issuer.token(header={"kid": key.kid})).reason is Reason.UNKNOWN_KEY


def test_two_keys_under_one_id_are_refused_altogether(issuer, verifier):
    issuer.published.append(ECKey.generate_key("P-256", {"kid": issuer.key.kid}))
    with pytest.raises(KeysUnavailable):
        verifier.verify(f"Bearer {issuer.token()}")


# -- fetching keys over HTTP


class _KeyServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.answer(self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def key_server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _KeyServer)
    server.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _answer(body: bytes, status: int = 200, **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_keys_are_read_over_http(key_server, issuer):
    key_server.answer = _answer(json.dumps(issuer.jwks().as_dict()).encode())
    assert [key.kid for key in HttpKeySet(key_server.url)()] == [issuer.key.kid]


@pytest.mark.parametrize(
    "answer",
    [
        _answer(b"", 500),
        _answer(b"", 302, Location="http://127.0.0.1:1/keys"),
        _answer(b"not json"),
        _answer(b"[]"),
        _answer(b'{"keys": []}'),
        _answer(b'{"keys": [{"kty": "EC"}]}'),
        _answer(b'{"keys": "' + b"x" * 70_000 + b'"}'),
        _answer(b'{"keys": ' + b"[" * 30_000),
        _answer(b'{"keys": [' + b'{"kty":"oct","k":"AAAA"},' * 40 + b"{}]}"),
    ],
)
def test_anything_but_a_key_set_fails_closed(answer, key_server):
    key_server.answer = answer
    with pytest.raises(KeysUnavailable):
        HttpKeySet(key_server.url)()


@pytest.mark.parametrize(("status", "padding"), [(500, 0), (302, 0), (203, 0), (200, 70_000)])
def test_good_keys_in_a_bad_answer_fail_closed(status, padding, key_server, issuer):
    keys = json.dumps(issuer.jwks().as_dict()).encode()
    key_server.answer = _answer(keys + b" " * padding, status, Location=key_server.url)
    with pytest.raises(KeysUnavailable):
        HttpKeySet(key_server.url)()


@pytest.mark.attack(18)
def test_an_issuer_that_sends_a_byte_at_a_time_is_hung_up_on(key_server, monkeypatch):
    monkeypatch.setattr(key_set, "_FETCH_SECONDS", 0.4)

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(50):
                handler.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            return

    key_server.answer = drip
    started = time.monotonic()
    with pytest.raises(KeysUnavailable):
        HttpKeySet(key_server.url)()
    assert time.monotonic() - started < 2


@pytest.mark.attack(18)
def test_an_issuer_that_is_down_fails_closed():
    with pytest.raises(KeysUnavailable):
        HttpKeySet("http://127.0.0.1:1/keys")()


@pytest.mark.parametrize(
    "url",
    [
        "http://sign-in.example/keys",
        "file:///etc/passwd",
        "https://",
        "https://user@sign-in.example/keys",
        "//sign-in.example/keys",
        "http://127.0.0.1.attacker.example/keys",
    ],
)
@pytest.mark.attack(55)
def test_keys_are_only_fetched_by_https_or_from_this_machine(url):
    with pytest.raises(ValueError, match="https"):
        HttpKeySet(url)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "10.0.0.1", "::", "::ffff:10.0.0.1", "localhost.example", "2130706433", "127.1"]
)
def test_anything_else_is_not_loopback(host):
    assert not is_loopback(host)


# -- demo principals


def test_demo_accounts_cover_every_country_and_say_they_are_synthetic():
    accounts = demo_principals([("be-shelter-1", "BE"), ("nl:shelter:2", "NL")])
    assert len({account.username for account in accounts}) == len(accounts)
    assert all(account.description.startswith("Synthetic") for account in accounts)
    for role in (Role.REFERRER, Role.COORDINATOR, Role.GUARDIAN, Role.AUDITOR, Role.ESCORT):
        assert {account.country for account in accounts if account.role is role} == {"BE", "NL", "LU"}
    shelters = {account.organisation: account for account in accounts if account.role is Role.SHELTER}
    assert {name: account.country for name, account in shelters.items()} == {"be-shelter-1": "BE", "nl:shelter:2": "NL"}
    assert not any(":" in account.username for account in accounts)


def test_one_demo_person_coordinates_for_two_countries():
    countries: dict[str, set[str]] = {}
    for account in demo_principals([]):
        countries.setdefault(account.person, set()).add(account.country)
    assert [sorted(both) for both in countries.values() if len(both) > 1] == [["BE", "NL"]]
