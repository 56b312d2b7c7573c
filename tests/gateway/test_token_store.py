"""What is revoked stays revoked, for every process and after a crash, for as long as it matters and no longer."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from events.log.engines import sqlite_engine
from services.gateway.token_store import KEPT_LONGER, TokenStore
from tests.gateway.test_tokens import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_store(path: Path, clock: Clock) -> TokenStore:
    store = TokenStore(sqlite_engine(str(path / "tokens.sqlite")), clock)
    store.create_schema()
    return store


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TokenStore:
    return a_store(tmp_path, clock)


def rows(store: TokenStore, table: str) -> list[str]:
    with store.engine.connect() as connection:
        return sorted(connection.execute(sa.text(f"SELECT * FROM {table}")).scalars())


def test_a_revocation_holds_until_its_end_and_to_the_second(store, clock):
    store.revoke("token-1", clock.time + timedelta(minutes=5))
    clock.advance(seconds=299)
    assert store.is_revoked("token-2", "token-1")
    assert not store.is_revoked("token-2", "person")
    clock.advance(seconds=1)
    assert not store.is_revoked("token-1")


def test_an_end_within_a_second_is_rounded_to_the_safe_side(store, clock):
    store.revoke("token-1", clock.time + timedelta(seconds=10, milliseconds=1))
    clock.advance(seconds=10.5)
    assert store.is_revoked("token-1")


def test_an_earlier_end_never_shortens_a_revocation(store, clock):
    store.revoke("person", clock.time + timedelta(hours=1))
    store.revoke("person", clock.time + timedelta(minutes=1))
    clock.advance(minutes=30)
    assert store.is_revoked("person")


def test_revoking_twice_is_as_good_as_once(store, clock):
    for _ in range(2):
        store.revoke("person", clock.time + timedelta(hours=1))
    assert rows(store, "revocations") == ["person"]


def test_what_one_process_revokes_another_refuses_at_once_and_after_a_crash(tmp_path, clock):
    one, other = a_store(tmp_path, clock), a_store(tmp_path, clock)
    assert not other.is_revoked("person")
    one.revoke("person", clock.time + timedelta(hours=1))
    assert other.is_revoked("person")
    # No close: both were killed.
    assert a_store(tmp_path, clock).is_revoked("person")


def test_a_revocation_is_forgotten_once_no_gateway_needs_it_any_more(store, clock):
    """Nor before: a process whose clock is fast must not forget for one whose clock is slow."""
    store.revoke("old", clock.time + timedelta(minutes=5))
    store.revoke("longer", clock.time + timedelta(minutes=60))
    clock.advance(seconds=300 + KEPT_LONGER.total_seconds())
    store.forget_expired()
    assert rows(store, "revocations") == ["longer", "old"]
    clock.advance(seconds=1)
    store.forget_expired()
    assert rows(store, "revocations") == ["longer"]


def test_a_clock_set_back_brings_no_revoked_token_back(store, clock):
    store.revoke("token-1", clock.time + timedelta(minutes=5))
    clock.advance(minutes=4)
    store.forget_expired()
    clock.advance(minutes=-4)
    assert store.is_revoked("token-1")


def test_many_revoke_read_and_forget_at_once(tmp_path, clock):
    stores = [a_store(tmp_path, clock) for _ in range(3)]
    failures: list[BaseException] = []

    def work(store: TokenStore, number: int) -> None:
        try:
            for turn in range(20):
                store.revoke(f"token-{number}-{turn}", clock.time + timedelta(minutes=5))
                assert store.is_revoked(f"token-{number}-{turn}")
                store.forget_expired()
        except Exception as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(stores[n % 3], n)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(rows(stores[0], "revocations")) == 120
