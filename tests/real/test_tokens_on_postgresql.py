"""Several gateways on one PostgreSQL, as they are deployed: one proof opens one of them once, and a revocation holds on all."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import ProgrammingError

from events.log.engines import postgresql_engine
from services.gateway.dpop import SentProof
from services.gateway.token_errors import InvalidProof, InvalidToken, Reason, TokenStoreUnavailable
from services.gateway.token_store import KEPT_LONGER, TokenStore
from tests.gateway.test_dpop import PATH, Gate, Owner
from tests.gateway.test_tokens import START, Clock, Issuer
from tests.real.postgresql_database import Database, Wire, a_database, a_server

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with a_server() as server, a_database(server) as database:
        yield database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stores(database: Database, clock: Clock) -> Iterator[list[TokenStore]]:
    """Two gateway processes, as far as the server can tell."""
    stores = [TokenStore(postgresql_engine(database.url("haven_gateway")), clock) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()
    database.admin("TRUNCATE gateway.used_proofs, gateway.revocations")


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(clock)


@pytest.fixture
def gates(issuer: Issuer, stores: list[TokenStore], clock: Clock) -> list[Gate]:
    gates = [Gate(issuer, store, clock) for store in stores]
    for gate, store in zip(gates, stores, strict=True):
        gate.verifier._is_revoked = store.is_revoked
    return gates


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gives, or the failure it ends in; all begin together."""
    together, outcomes = threading.Barrier(len(calls)), []

    def run(call: Callable[[], Any]) -> None:
        together.wait()
        try:
            outcomes.append(call())
        except Exception as failure:  # noqa: BLE001
            outcomes.append(failure)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


@pytest.mark.attack(23)
def test_one_proof_at_two_gateways_at_once_opens_one_of_them(gates, issuer):
    owner = Owner(issuer)
    for _ in range(50):
        sent = SentProof(owner.proof(), "GET", PATH)
        outcomes = at_once([lambda g=g, s=sent: g.verifier.verify(f"DPoP {owner.token}", s) for g in gates * 2])
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidProof)]
        assert [one.reason for one in refused] == [Reason.REPLAYED] * 3
        assert len(outcomes) == 4


def test_whoever_comes_second_waits_for_the_commit_of_the_first_and_inherits_if_there_is_none(database, stores, clock):
    until = START + timedelta(minutes=1)
    for commits in (True, False):
        proof = f"proof-{commits}"
        with database.engine("haven_gateway").connect() as first:
            transaction = first.begin()
            first.exec_driver_sql("INSERT INTO used_proofs VALUES (%s, 1)", (proof,))
            answers: list[bool] = []
            second = threading.Thread(target=lambda p=proof, a=answers: a.append(stores[1].is_first_use(p, until)))
            second.start()
            second.join(0.3)
            assert answers == []
            transaction.commit() if commits else transaction.rollback()
            second.join(30)
        assert answers == [not commits]


def test_a_proof_whose_commit_got_no_answer_is_used_up_or_still_good_and_never_both(database, clock):
    wire = Wire(database.url().port or 0)
    until = START + timedelta(minutes=1)
    for server_has_it in (True, False):
        proof = f"cut-{server_has_it}"
        store = TokenStore(postgresql_engine(database.url("haven_gateway", wire.port)), clock)
        assert store.is_first_use(f"warm-{server_has_it}", until)
        wire.cut_at(b"COMMIT\0", server_has_it=server_has_it)
        with pytest.raises(TokenStoreUnavailable):
            store.is_first_use(proof, until)
        assert store.is_first_use(proof, until) is not server_has_it
        assert not store.is_first_use(proof, until)
        store.close()
    assert wire.cuts == 2
    wire.close()


@pytest.mark.attack(13)
def test_a_person_revoked_at_one_gateway_is_out_at_all_of_them_at_once(gates, stores, issuer):
    owner = Owner(issuer)
    for gate in gates:
        assert gate.enter(owner.token, owner.proof())
    stores[0].revoke("synthetic.person-1", START + timedelta(hours=1))
    for gate in gates:
        with pytest.raises(InvalidToken) as refused:
            gate.enter(owner.token, owner.proof())
        assert refused.value.reason is Reason.REVOKED


def test_while_the_database_is_away_nobody_is_let_in_and_then_everybody_is_again(gates, stores, issuer, database):
    owner = Owner(issuer)
    proof = owner.proof()
    database.admin("ALTER ROLE haven_gateway NOLOGIN")
    try:
        for store in stores:
            store.close()
        for scheme, token, sent in (("DPoP", owner.token, proof), ("Bearer", issuer.token(), None)):
            with pytest.raises(TokenStoreUnavailable) as refused:
                gates[0].enter(token, sent, scheme=scheme)
            assert refused.value.status == 503
    finally:
        database.admin("ALTER ROLE haven_gateway LOGIN")
    assert gates[0].enter(owner.token, proof)
    assert gates[0].enter(issuer.token(), None, scheme="Bearer")


def test_two_that_tidy_up_at_once_do_not_get_in_each_others_way(stores, clock):
    for number in range(300):
        stores[number % 2].is_first_use(f"proof-{number}", clock.time)
        stores[number % 2].revoke(f"token-{number}", clock.time)
    clock.advance(seconds=1 + KEPT_LONGER.total_seconds())
    stores[0].is_first_use("young", clock.time)
    outcomes = at_once([store.forget_expired for store in stores * 3])
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    with stores[0].engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT proof FROM used_proofs").scalars().all() == ["young"]
        assert connection.exec_driver_sql("SELECT count(*) FROM revocations").scalar() == 0


@pytest.mark.parametrize("table", ["used_proofs", "revocations"])
def test_no_gateway_moves_an_end_or_empties_a_table_at_a_stroke(table, stores):
    for statement in (f"UPDATE {table} SET until = 0", f"TRUNCATE {table}"):
        with pytest.raises(ProgrammingError) as refused, stores[0].engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert refused.value.orig.sqlstate == "42501"


def test_real_time_is_in_the_range_of_the_tables(database):
    store = TokenStore(database.engine("haven_gateway"), lambda: datetime.now(UTC))
    store.revoke("for-ever", datetime(9999, 12, 31, tzinfo=UTC))
    assert store.is_revoked("for-ever")
