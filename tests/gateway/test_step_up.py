"""Who may sign: a person who has just signed in, strongly enough, and never a machine (RFC 9470). And bound tokens as the
whole gateway treats them, over HTTP.
"""

import base64
import hashlib
import json
import logging
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry
from werkzeug.test import TestResponse

from events.vocabulary import Role, Stage
from services.api_client import SenderKey
from services.config import ConfigurationError
from services.gateway.api import RULES
from services.gateway.dpop import Demand, ProofVerifier
from services.gateway.oauth_grants import PASSWORD_ACR
from services.gateway.routing import PREFIX
from services.gateway.token_errors import InvalidToken, Reason, SignInTooOldOrWeak
from services.gateway.tokens import TokenVerifier
from tests.gateway.test_tokens import AUDIENCE, ISSUER, START, Clock, Issuer
from tests.gateway.world import (
    AN_OPENING,
    HOST,
    MISSING,
    ORIGIN,
    POLICE,
    RECEIVING,
    Json,
    Who,
    World,
    is_problem,
)

FRESH = timedelta(minutes=5)
SIGNATURES = {"/relocation-requests/{request_id}/proposal", "/relocation-requests/{request_id}/countersignature"}


# -- the rule


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(clock)


def a_verifier(issuer: Issuer, clock: Clock, *signing_acr: str) -> TokenVerifier:
    return TokenVerifier(
        issuer=ISSUER,
        audience=AUDIENCE,
        countries={"BE"},
        jwks=issuer.jwks,
        is_revoked=lambda *_: False,
        proofs=ProofVerifier(public_url=ISSUER, is_first_use=lambda *_: True, now=clock),
        now=clock,
        demand=Demand.OFFERED,
        signing_acr=signing_acr,
    )


def may_sign(verifier: TokenVerifier, token: str) -> bool:
    try:
        verifier.require_fresh_sign_in(verifier.principal(token), FRESH)
    except SignInTooOldOrWeak:
        return False
    return True


@pytest.mark.parametrize(
    ("age", "signs"), [(-30, True), (0, True), (299, True), (300, True), (300.001, False), (301, False)]
)
def test_a_sign_in_is_fresh_for_five_minutes_and_not_a_moment_longer(age, signs, issuer, clock):
    token = issuer.token(auth_time=START.timestamp() - age)
    assert may_sign(a_verifier(issuer, clock), token) is signs


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(-30, 400), st.integers(0, 299))
def test_freshness_counts_from_the_sign_in_whatever_the_age_of_the_token(issuer, clock, signed_in_before, used_after):
    """A token that is renewed without anybody signing in again stays as old as the sign-in."""
    clock.time = START
    token = issuer.token(auth_time=START.timestamp() - signed_in_before)
    clock.advance(seconds=used_after)
    assert may_sign(a_verifier(issuer, clock), token) is (signed_in_before + used_after <= 300)


@pytest.mark.parametrize("ahead", [31, 60, 3600, 1e9, 1e300])
def test_a_sign_in_that_is_still_to_come_is_refused_everywhere(ahead, issuer, clock):
    """It would stay fresh for as long as it lies ahead."""
    with pytest.raises(InvalidToken) as refused:
        a_verifier(issuer, clock).principal(issuer.token(auth_time=START.timestamp() + ahead))
    assert (refused.value.reason, refused.value.claim) == (Reason.CLAIM, "auth_time")


@pytest.mark.parametrize("auth_time", ["now", True, -1, -0.5, [], {}, "1e3"])
def test_a_sign_in_time_that_is_none_is_refused_instead_of_overlooked(auth_time, issuer, clock):
    with pytest.raises(InvalidToken) as refused:
        a_verifier(issuer, clock).principal(issuer.token(auth_time=auth_time))
    assert refused.value.reason is Reason.CLAIM


def test_a_sign_in_time_that_is_null_is_refused_instead_of_overlooked(issuer, clock):
    claims = json.dumps(issuer.claims() | {"auth_time": None}).encode()
    with pytest.raises(InvalidToken):
        a_verifier(issuer, clock).principal(issuer.raw(issuer.good_header(), claims))


def test_a_machine_never_signs_not_even_where_any_way_of_signing_in_will_do(issuer, clock):
    token = issuer.token(auth_time=None, acr="urn:strong")
    assert not may_sign(a_verifier(issuer, clock), token)
    assert not may_sign(a_verifier(issuer, clock, "urn:strong"), token)
    assert a_verifier(issuer, clock).principal(token).is_machine


@pytest.mark.parametrize("acr", [None, "", "0", "URN:STRONG", "urn:strong ", "urn:strong urn:stronger", "urn:stron"])
def test_a_sign_in_that_is_not_named_to_the_letter_is_too_weak(acr, issuer, clock):
    assert not may_sign(a_verifier(issuer, clock, "urn:strong", "urn:stronger"), issuer.token(acr=acr))


@pytest.mark.parametrize("acr", ["urn:strong", "urn:stronger"])
def test_any_of_the_ways_that_are_named_will_do(acr, issuer, clock):
    assert may_sign(a_verifier(issuer, clock, "urn:strong", "urn:stronger"), issuer.token(acr=acr))


@pytest.mark.parametrize("acr", [None, "", "0", "urn:weak"])
def test_where_none_is_named_every_way_will_do(acr, issuer, clock):
    assert may_sign(a_verifier(issuer, clock), issuer.token(acr=acr))


@pytest.mark.parametrize("acr", [1, [], ["urn:strong"], {}, "x" * 256, True])
def test_a_way_of_signing_in_that_is_no_name_is_refused(acr, issuer, clock):
    with pytest.raises(InvalidToken):
        a_verifier(issuer, clock).principal(issuer.token(acr=acr))


def test_a_strong_sign_in_does_not_make_up_for_an_old_one_nor_a_fresh_one_for_a_weak_one(issuer, clock):
    verifier = a_verifier(issuer, clock, "urn:strong")
    assert not may_sign(verifier, issuer.token(acr="urn:strong", auth_time=START.timestamp() - 301))
    assert not may_sign(verifier, issuer.token(acr="urn:weak"))
    assert may_sign(verifier, issuer.token(acr="urn:strong"))


def test_the_challenge_says_how_fresh_and_how_strong(issuer, clock):
    verifier = a_verifier(issuer, clock, "urn:stronger", "urn:strong")
    with pytest.raises(SignInTooOldOrWeak) as refused:
        verifier.require_fresh_sign_in(verifier.principal(issuer.token(acr="urn:weak")), FRESH)
    said = refused.value.www_authenticate
    assert said.startswith('Bearer realm="haven", error="insufficient_user_authentication", error_description="')
    assert said.endswith(', max_age="300", acr_values="urn:strong urn:stronger"')
    assert "weak" not in said


@pytest.mark.parametrize("name", ["", "two words", 'a"b', "a\\b", "a\r\nSet-Cookie: x", "é"])
def test_a_way_of_signing_in_that_no_header_can_carry_is_refused_at_the_start(name, issuer, clock):
    with pytest.raises(ConfigurationError, match="HAVEN_SIGNING_ACR"):
        a_verifier(issuer, clock, "urn:strong", name)


# -- over HTTP


def signs(world: World, token: str, request_id: str, key: str, what: str = "proposal", **headers: str) -> TestResponse:
    body: Json = {"ask_id": MISSING}
    if what == "proposal" and request_id != MISSING:
        body = {"ask_id": world.ask_to(request_id, RECEIVING), "override": "travel"}
    if what == "countersignature":
        body = {"proposal_hash": world.view(request_id)["proposal"]["hash"] if request_id != MISSING else "0" * 64}
    answer = world.send(
        None,
        "POST",
        f"{PREFIX}/relocation-requests/{request_id}/{what}",
        json=body,
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key, "Prefer": "wait=5"} | headers,
    )
    world.core.settle()
    return answer


def stale(world: World, who: Who, **claims: Any) -> str:
    return world.sign(who, **{"auth_time": int(time.time()) - 301} | claims)


@pytest.mark.parametrize(
    ("what", "who", "stage"),
    [("proposal", ORIGIN, Stage.OFFERED), ("countersignature", HOST, Stage.PROPOSED)],
)
def test_who_signed_in_too_long_ago_signs_in_again_and_repeats_and_it_happens_once(world, what, who, stage):
    request_id, key = world.bring_to(stage), world.new_key()
    before = world.heads()
    refused = signs(world, stale(world, who), request_id, key, what)
    said = is_problem(refused, 401)
    assert said["type"].endswith("/sign-in-again")
    assert "same Idempotency-Key" in said["detail"]
    assert 'error="insufficient_user_authentication"' in refused.headers["WWW-Authenticate"]
    assert 'max_age="300"' in refused.headers["WWW-Authenticate"]
    assert "acr_values" not in refused.headers["WWW-Authenticate"]
    assert world.heads() == before
    fresh = world.sign(who)
    first = world.done(signs(world, fresh, request_id, key, what))
    after = world.heads()
    again = world.done(signs(world, fresh, request_id, key, what))
    assert first["revision"] == again["revision"]
    assert world.heads()["placement"] == after["placement"] > before["placement"]


@pytest.mark.attack(41)
def test_a_machine_signs_nothing_although_its_token_is_bound(world):
    request_id = world.bring_to(Stage.OFFERED)
    before = world.heads()
    holder, path = Holder(world, ORIGIN, machine=True), f"{PREFIX}/relocation-requests/{request_id}/proposal"
    headers = holder.headers("POST", path) | {"Idempotency-Key": world.new_key()}
    answer = world.send(None, "POST", path, json={"ask_id": world.ask_to(request_id, RECEIVING)}, headers=headers)
    assert is_problem(answer, 401)["type"].endswith("/sign-in-again")
    assert answer.headers["WWW-Authenticate"].startswith('DPoP realm="haven", error="insufficient_user_authentication"')
    assert 'algs="ES256' in answer.headers["WWW-Authenticate"]
    assert world.heads() == before


def test_a_sign_in_that_is_too_weak_for_a_signature_is_told_what_would_do(world, monkeypatch):
    monkeypatch.setattr(world.node.gateway.verifier, "_signing_acr", frozenset({"urn:be:eid", "urn:nl:high"}))
    request_id, key = world.bring_to(Stage.OFFERED), world.new_key()
    refused = signs(world, world.sign(ORIGIN), request_id, key)
    assert is_problem(refused, 401)["type"].endswith("/sign-in-again")
    assert 'acr_values="urn:be:eid urn:nl:high"' in refused.headers["WWW-Authenticate"]
    assert PASSWORD_ACR not in refused.headers["WWW-Authenticate"]
    world.done(signs(world, world.sign(ORIGIN, acr="urn:be:eid"), request_id, key))


def test_only_a_signature_asks_for_a_fresh_sign_in(world):
    assert {rule.path for rule in RULES if rule.fresh} == SIGNATURES
    assert {rule.fresh for rule in RULES if rule.path in SIGNATURES} == {FRESH}
    headers = {"Authorization": f"Bearer {stale(world, ORIGIN)}"}
    assert world.send(None, "GET", f"{PREFIX}/relocation-requests", headers=headers).status_code == 200


def test_a_role_that_may_not_sign_is_told_so_and_not_to_sign_in_again(world):
    answer = signs(world, stale(world, POLICE), MISSING, world.new_key())
    assert is_problem(answer, 403)["type"].endswith("/wrong-role")
    answer = signs(world, stale(world, ORIGIN, scope="requests:read"), MISSING, world.new_key())
    assert is_problem(answer, 403)["type"].endswith("/insufficient-scope")


def test_a_refusal_for_an_old_sign_in_does_not_tell_what_exists(world):
    there, token = world.bring_to(Stage.OFFERED), stale(world, HOST)
    answers = [signs(world, token, request_id, world.new_key()) for request_id in (there, MISSING)]
    assert is_problem(answers[0], 401) == is_problem(answers[1], 401)
    assert sorted(answers[0].headers) == sorted(answers[1].headers)


def test_freshness_is_a_matter_of_real_time_also_in_an_exercise(world):
    request_id = world.bring_to(Stage.OFFERED)
    world.now += timedelta(minutes=30)  # half an hour of exercise within a real second
    world.done(signs(world, world.sign(ORIGIN), request_id, world.new_key()))


def test_a_revoked_person_is_not_asked_to_sign_in_again_but_refused(world):
    gone = Who(Role.COORDINATOR, "BE", "be-coordinator", "synthetic.gone")
    token = stale(world, gone)
    world.node._token_store.revoke(gone.person, datetime.now(UTC) + timedelta(hours=1))
    assert is_problem(signs(world, token, MISSING, world.new_key()), 401)["type"].endswith("/not-signed-in")


def test_the_published_document_says_which_routes_ask_for_it_and_how(world):
    document = json.loads(world.send(None, "GET", f"{PREFIX}/openapi.json").data)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            asks = path.removeprefix(PREFIX) in SIGNATURES
            assert ("401" in operation["responses"]) is asks
            assert ("just signed in" in operation["description"]) is asks
    refusal = document["paths"][f"{PREFIX}/relocation-requests/{{request_id}}/proposal"]["post"]["responses"]["401"]
    assert "max_age" in refusal["description"]
    assert "300" in refusal["description"]
    schemes = document["components"]["securitySchemes"]
    assert (schemes["dpop"]["in"], schemes["dpop"]["name"]) == ("header", "DPoP")


# -- bound tokens, over HTTP


class Holder:
    """Somebody with a key and a token bound to it."""

    def __init__(self, world: World, who: Who, *, machine: bool = False) -> None:
        self.world = world
        self.key = ECKey.generate_key("P-256")
        self.token = world.sign(who, cnf={"jkt": self.key.thumbprint()})
        if machine:
            self.token = a_machines(world, self.token)

    def headers(self, method: str, path: str, **claims: Any) -> dict[str, str]:
        ath = base64.urlsafe_b64encode(hashlib.sha256(self.token.encode()).digest()).rstrip(b"=").decode()
        said = {
            "jti": secrets.token_urlsafe(12),
            "htm": method,
            "htu": self.world.node.settings.url + path,
            "iat": int(time.time()),
            "ath": ath,
        } | claims
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.as_dict(private=False)}
        proof = jwt.encode(header, said, self.key, registry=JWSRegistry(algorithms=["ES256"]))
        return {"Authorization": f"DPoP {self.token}", "DPoP": proof}


def a_machines(world: World, token: str) -> str:
    """The same token as if nobody had signed in for it."""
    claims = jwt.decode(token, world._key, algorithms=["ES256"]).claims
    del claims["auth_time"]
    header = {"alg": "ES256", "typ": "at+jwt", "kid": world._key.kid}
    return jwt.encode(header, claims, world._key, algorithms=["ES256"])


def test_a_bound_token_opens_a_request_and_repeats_it_with_a_fresh_proof(world):
    holder, path, key = Holder(world, POLICE), f"{PREFIX}/relocation-requests", world.new_key()
    answers = []
    for _ in range(2):
        headers = holder.headers("POST", path) | {"Idempotency-Key": key, "Prefer": "wait=5"}
        answers.append(world.done(world.send(None, "POST", path, json=AN_OPENING, headers=headers)))
    assert answers[0]["request_id"] == answers[1]["request_id"]


@pytest.mark.attack(23)
def test_a_proof_sent_twice_is_refused_the_second_time_and_nothing_happens(world):
    holder, path = Holder(world, POLICE), f"{PREFIX}/relocation-requests"
    headers = holder.headers("POST", path) | {"Idempotency-Key": world.new_key(), "Prefer": "wait=5"}
    world.done(world.send(None, "POST", path, json=AN_OPENING, headers=headers))
    before = world.heads()
    again = world.send(None, "POST", path, json=AN_OPENING, headers=headers | {"Idempotency-Key": world.new_key()})
    assert is_problem(again, 401)["type"].endswith("/proof-invalid")
    assert 'error="invalid_dpop_proof"' in again.headers["WWW-Authenticate"]
    assert world.heads() == before


def test_the_query_is_not_part_of_what_a_proof_is_for(world):
    holder, path = Holder(world, POLICE), f"{PREFIX}/relocation-requests"
    assert world.send(None, "GET", f"{path}?limit=1", headers=holder.headers("GET", path)).status_code == 200


def test_the_live_stream_takes_a_bound_token(world):
    holder, path = Holder(world, POLICE), f"{PREFIX}/stream"
    answer = world.send(None, "GET", path, headers=holder.headers("GET", path), buffered=False)
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    answer.close()
    is_problem(world.send(None, "GET", path, headers={"Authorization": f"Bearer {holder.token}"}), 401)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.method} {rule.path}")
@pytest.mark.attack(19, 20)
def test_no_route_takes_a_bound_token_without_its_proof_or_with_anothers(world, rule):
    path = PREFIX + rule.path.format(request_id=MISSING, ask_id=MISSING, shelter_id="nl-shelter-01", unit_id="u-1")
    who = Who(rule.roles[0], "BE", f"be-{rule.roles[0]}", f"synthetic.be-{rule.roles[0]}-1")
    holder, thief = Holder(world, who), Holder(world, who)
    elsewhere = holder.headers(rule.method, "/elsewhere")
    stolen = thief.headers(rule.method, path) | {"Authorization": f"DPoP {holder.token}"}
    machine = a_machines(world, world.sign(who))
    before = world.heads()
    for headers, problem in (
        ({"Authorization": f"Bearer {holder.token}"}, "not-signed-in"),
        ({"Authorization": f"DPoP {holder.token}"}, "proof-invalid"),
        (elsewhere, "proof-invalid"),
        (stolen, "proof-invalid"),
        ({"Authorization": f"DPoP {world.sign(who)}"}, "not-signed-in"),
        ({"Authorization": f"Bearer {machine}"}, "proof-required"),
    ):
        answer = world.send(None, rule.method, path, headers=headers)
        assert is_problem(answer, 401)["type"].endswith(f"/{problem}"), headers.keys()
        assert answer.headers["WWW-Authenticate"].startswith(("Bearer ", "DPoP "))
    assert world.heads() == before


def test_where_the_used_proofs_cannot_be_looked_up_the_answer_is_503_and_nothing_happens(world, monkeypatch):
    holder, path = Holder(world, POLICE), f"{PREFIX}/relocation-requests"
    with world.node._token_store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE used_proofs RENAME TO gone")
    before = world.heads()
    try:
        headers = holder.headers("POST", path) | {"Idempotency-Key": world.new_key()}
        answer = world.send(None, "POST", path, json=AN_OPENING, headers=headers)
        assert is_problem(answer, 503)["type"].endswith("/sign-in-unavailable")
        assert answer.headers["Retry-After"] == "5"
        assert world.heads() == before
    finally:
        with world.node._token_store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO used_proofs")
    assert world.send(None, "GET", path, headers=holder.headers("GET", path)).status_code == 200


def test_the_demo_sign_in_binds_a_token_to_the_key_of_a_program_that_shows_one(world):
    name, key, url = "be-police-antwerp-1", SenderKey(), world.node.settings.url
    signed_in = world.client.post(
        "/oauth/token",
        base_url=url,
        data={"grant_type": "client_credentials"},
        auth=(name, world.node.logins[name]),
        headers={"DPoP": key.proof("POST", f"{url}/oauth/token")},
    )
    token, path = signed_in.json["access_token"], f"{PREFIX}/relocation-requests"
    assert signed_in.json["token_type"] == "DPoP"
    headers = {"Authorization": f"DPoP {token}", "DPoP": key.proof("GET", url + path, token)}
    assert world.send(None, "GET", path, headers=headers).status_code == 200
    is_problem(world.send(None, "GET", path, headers={"Authorization": f"Bearer {token}"}), 401)


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def test_no_token_no_proof_and_no_id_of_one_is_ever_logged(world, everything_logged):
    holder, path = Holder(world, POLICE), f"{PREFIX}/relocation-requests"
    good = holder.headers("GET", path, jti="an-id-KESTREL-9")
    bad = holder.headers("GET", "/elsewhere", jti="an-id-HERON-9")
    hidden = [holder.token, good["DPoP"], bad["DPoP"], "KESTREL-9", "HERON-9", holder.key.thumbprint()]
    hidden += [part for secret in hidden[:3] for part in secret.split(".")[1:]]
    for headers in (
        good,
        good,
        bad,
        {"Authorization": f"Bearer {holder.token}"},
        {"Authorization": f"DPoP {holder.token}"},
    ):
        world.send(None, "GET", path, headers=headers)
    unbound = stale(world, ORIGIN)
    signs(world, unbound, MISSING, world.new_key())
    with world.node._token_store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE used_proofs RENAME TO gone")
    try:
        world.send(None, "GET", path, headers=holder.headers("GET", path, jti="an-id-KESTREL-9-again"))
    finally:
        with world.node._token_store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO used_proofs")
    assert "refused error=InvalidProof reason=replayed" in everything_logged.text
    assert "refused error=InvalidProof reason=other_request" in everything_logged.text
    assert "refused error=InvalidToken reason=bound" in everything_logged.text
    assert not [secret for secret in [*hidden, unbound] if secret in everything_logged.text]
    answers = b"".join(answer.content for answer in world.answers)
    assert not [secret for secret in [*hidden, unbound] if secret.encode() in answers]
