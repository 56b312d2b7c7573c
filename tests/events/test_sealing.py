"""What is sealed opens only where it was sealed, and never again once its household's key is destroyed."""

import logging
import os
import random
import sqlite3
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from events.key_file import KeyEncryptionKeys, KeyFileRefused, SealingError, load_or_create_key_file, rotate_key_file
from events.sealing import (
    ALGORITHM,
    BLOCK,
    MAX_CHARACTERS,
    KeyDestroyed,
    KeyFileMismatch,
    KeyStore,
    SealBroken,
    SealContext,
    TextRefused,
    Unreadable,
    UnreadableReason,
    _from_base64url,
    _to_base64url,
    _unambiguous,
    key_store_engine,
)
from events.vocabulary import Sealed, SealedField

SUBJECT = "req-1"
TEXT = "synthetic callback: knock at 19:00, ask for Marigold"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CONTEXT = SealContext(
    stream="request-req-1",
    type="gateway.relocation_request.open.v1",
    event_id="event-1",
    field=SealedField.CALLBACK,
)


@pytest.fixture(params=["sqlite"])
def key_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'keys.db'}"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


@pytest.fixture
def engine(key_store_url: str) -> Iterator[sa.Engine]:
    engine = key_store_engine(key_store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def keys(engine: sa.Engine, key_file: Path) -> KeyStore:
    store = KeyStore(engine, load_or_create_key_file(key_file), clock=lambda: NOW)
    store.create_schema()
    return store


def in_memory() -> KeyStore:
    store = KeyStore(key_store_engine("sqlite://"), KeyEncryptionKeys({"0badcafe": bytes(32)}))
    store.create_schema()
    return store


def wrapped_key_of(engine: sa.Engine, subject: str) -> bytes:
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT wrapped FROM data_keys WHERE subject = :s"), {"s": subject})
        return bytes(found.scalar_one())


def bytes_on_disk(folder: Path) -> bytes:
    """The database with whatever SQLite left beside it: journal, write-ahead log, shared memory."""
    return b"".join(path.read_bytes() for path in folder.glob("keys.db*"))


def traces_of(secret: bytes, raw: bytes) -> bool:
    """Any 16 bytes of it: half a wrapped key left behind is a leak too."""
    return any(secret[start : start + 16] in raw for start in range(len(secret) - 15))


# Sealing and unsealing


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_whatever_is_sealed_opens_unchanged(text: str) -> None:
    keys = in_memory()
    assert keys.unseal(keys.seal(SUBJECT, text, CONTEXT), CONTEXT) == text


@pytest.mark.parametrize("text", ["", "\0", "\x80\0\0", "a" * 63, "a" * 64, "\N{PILE OF POO}" * MAX_CHARACTERS])
def test_texts_that_look_like_padding_or_fill_a_block_open_unchanged(keys: KeyStore, text: str) -> None:
    assert keys.unseal(keys.seal(SUBJECT, text, CONTEXT), CONTEXT) == text


def test_sealed_text_survives_a_restart(keys: KeyStore, key_store_url: str, key_file: Path) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    restarted = KeyStore(key_store_engine(key_store_url), load_or_create_key_file(key_file))
    restarted.verify_key_file()
    assert restarted.unseal(sealed, CONTEXT) == TEXT


def test_the_same_text_never_looks_the_same_twice(keys: KeyStore) -> None:
    assert len({keys.seal(SUBJECT, TEXT, CONTEXT).box for _ in range(20)}) == 20


def test_seeded_randomness_seals_the_same_bytes_again() -> None:
    def sealed_with(seed: int) -> Sealed:
        kek = KeyEncryptionKeys({"0badcafe": bytes(32)})
        keys = KeyStore(key_store_engine("sqlite://"), kek, random_bytes=random.Random(seed).randbytes)
        keys.create_schema()
        return keys.seal(SUBJECT, TEXT, CONTEXT)

    assert sealed_with(1) == sealed_with(1)
    assert sealed_with(1) != sealed_with(2)


@pytest.mark.parametrize(
    "change",
    [
        {"stream": "request-req-2"},
        {"type": "gateway.relocation_request.open.v2"},
        {"event_id": "event-2"},
        {"field": SealedField.RENDEZVOUS},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ciphertext_does_not_open_anywhere_but_where_it_was_sealed(keys: KeyStore, change: dict[str, str]) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    with pytest.raises(SealBroken):
        keys.unseal(sealed, msgspec.structs.replace(CONTEXT, **change))


def test_one_households_ciphertext_does_not_open_under_anothers_key(keys: KeyStore) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    with pytest.raises(SealBroken):
        keys.unseal(msgspec.structs.replace(sealed, key_id=keys.create("req-2")), CONTEXT)


def test_bytes_cannot_be_shifted_between_two_names_of_the_context(keys: KeyStore) -> None:
    assert _unambiguous("ab", "c") != _unambiguous("a", "bc")
    sealed = keys.seal(SUBJECT, TEXT, msgspec.structs.replace(CONTEXT, stream="ab", type="c"))
    with pytest.raises(SealBroken):
        keys.unseal(sealed, msgspec.structs.replace(CONTEXT, stream="a", type="bc"))


def test_every_flipped_bit_is_noticed(keys: KeyStore) -> None:
    sealed = keys.seal(SUBJECT, "short", CONTEXT)
    box = _from_base64url(sealed.box)
    assert box is not None
    for bit in range(len(box) * 8):
        flipped = bytearray(box)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            keys.unseal(msgspec.structs.replace(sealed, box=_to_base64url(bytes(flipped))), CONTEXT)


@pytest.mark.parametrize(
    "alter",
    [
        lambda box: "",
        lambda box: box[:-4],
        lambda box: box[: 28 * 4 // 3],
        lambda box: box + "AAAA",
        lambda box: box[:10] + "\n" + box[10:],
        lambda box: box[:10] + "é" + box[11:],
        lambda box: box + "=",
        lambda box: box[:-1],
        lambda box: box[:-1] + chr(ord(box[-1]) + 1),
    ],
    ids=["empty", "cut", "no text", "longer", "line break", "not ascii", "padded", "one less", "spare bits"],
)
def test_a_box_that_is_not_spelled_as_it_was_sealed_is_broken(keys: KeyStore, alter) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    with pytest.raises(SealBroken):
        keys.unseal(msgspec.structs.replace(sealed, box=alter(sealed.box)), CONTEXT)


@pytest.mark.parametrize("algorithm", ["", "none", ALGORITHM.replace("v1", "v2")])
def test_an_algorithm_this_release_does_not_know_is_unreadable(keys: KeyStore, algorithm: str) -> None:
    sealed = msgspec.structs.replace(keys.seal(SUBJECT, TEXT, CONTEXT), algorithm=algorithm)
    unreadable = Unreadable(reason=UnreadableReason.UNKNOWN_ALGORITHM, key_id=sealed.key_id)
    assert keys.unseal(sealed, CONTEXT) == unreadable


def test_a_key_of_another_node_is_unknown(keys: KeyStore) -> None:
    sealed = in_memory().seal(SUBJECT, TEXT, CONTEXT)
    unreadable = Unreadable(reason=UnreadableReason.KEY_UNKNOWN, key_id=sealed.key_id)
    assert keys.unseal(sealed, CONTEXT) == unreadable


def test_a_phone_number_and_an_address_have_the_same_length(keys: KeyStore) -> None:
    lengths = {len(keys.seal(SUBJECT, "x" * n, CONTEXT).box) for n in range(BLOCK)}
    assert len(lengths) == 1
    assert len(keys.seal(SUBJECT, "x" * BLOCK, CONTEXT).box) > lengths.pop()


def test_text_of_the_maximum_length_is_sealed_and_one_more_character_is_refused(keys: KeyStore) -> None:
    assert keys.unseal(keys.seal(SUBJECT, "é" * MAX_CHARACTERS, CONTEXT), CONTEXT) == "é" * MAX_CHARACTERS
    with pytest.raises(TextRefused):
        keys.seal(SUBJECT, "é" * (MAX_CHARACTERS + 1), CONTEXT)


# One key per household


def test_a_household_keeps_its_one_key(keys: KeyStore) -> None:
    key_id = keys.create(SUBJECT)
    assert keys.create(SUBJECT) == key_id == keys.seal(SUBJECT, TEXT, CONTEXT).key_id
    assert keys.create("req-2") != key_id
    assert SUBJECT not in key_id


def test_threads_that_create_at_once_share_one_key(keys: KeyStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        for household in range(10):
            key_ids = set(threads.map(keys.create, [f"req-{household}"] * 8))
            assert len(key_ids) == 1


def test_a_key_created_by_another_process_in_between_is_used(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: list[str] = []
    wrap = keys._wrap

    def wrap_after_somebody_else(*args: object) -> bytes:
        monkeypatch.undo()
        theirs.append(keys.create(SUBJECT))
        return wrap(*args)

    monkeypatch.setattr(keys, "_wrap", wrap_after_somebody_else)
    assert [keys.create(SUBJECT)] == theirs


def test_a_key_row_given_to_another_household_does_not_open(keys: KeyStore, engine: sa.Engine) -> None:
    keys.create(SUBJECT)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE data_keys SET subject = 'req-2'"))
    with pytest.raises(KeyFileMismatch):
        keys.seal("req-2", TEXT, CONTEXT)


# Forgetting


def test_what_was_sealed_is_unreadable_once_the_key_is_destroyed(keys: KeyStore) -> None:
    sealed, other = keys.seal(SUBJECT, TEXT, CONTEXT), keys.seal("req-2", TEXT, CONTEXT)
    assert keys.destroy(SUBJECT) is True
    destroyed = Unreadable(reason=UnreadableReason.KEY_DESTROYED, key_id=sealed.key_id)
    assert keys.unseal(sealed, CONTEXT) == destroyed
    assert keys.unseal(other, CONTEXT) == TEXT


def test_destroying_twice_destroys_once(keys: KeyStore) -> None:
    keys.create(SUBJECT)
    assert [keys.destroy(SUBJECT) for _ in range(3)] == [True, False, False]


def test_a_destroyed_key_is_never_made_again(keys: KeyStore) -> None:
    keys.create(SUBJECT)
    keys.destroy(SUBJECT)
    with pytest.raises(KeyDestroyed):
        keys.create(SUBJECT)
    with pytest.raises(KeyDestroyed):
        keys.seal(SUBJECT, TEXT, CONTEXT)


def test_a_household_erased_before_its_first_sealing_gets_no_key(keys: KeyStore) -> None:
    assert keys.destroy(SUBJECT) is False
    with pytest.raises(KeyDestroyed):
        keys.seal(SUBJECT, TEXT, CONTEXT)


def test_of_creating_and_destroying_at_once_destroying_wins(keys: KeyStore) -> None:
    def create(subject: str) -> None:
        with suppress(KeyDestroyed):
            keys.create(subject)

    with ThreadPoolExecutor(8) as threads:
        for household in range(10):
            subject = f"req-{household}"
            for done in [threads.submit(act, subject) for act in (create, keys.destroy, create, keys.destroy)]:
                done.result()
            with pytest.raises(KeyDestroyed):
                keys.create(subject)


def test_the_tombstone_holds_no_key_material(keys: KeyStore, engine: sa.Engine) -> None:
    keys.create(SUBJECT)
    keys.destroy(SUBJECT)
    with engine.connect() as connection:
        row = connection.execute(sa.text("SELECT subject, wrapped, wrapped_by, destroyed_at FROM data_keys")).one()
    assert tuple(row) == (SUBJECT, None, None, "2026-11-23T12:00:00+00:00")


def test_the_database_itself_refuses_to_give_a_tombstone_a_key(keys: KeyStore, engine: sa.Engine) -> None:
    keys.destroy(SUBJECT)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE data_keys SET wrapped = :w, wrapped_by = 'x'"), {"w": bytes(60)})


def test_a_destroyed_key_is_not_on_disk(tmp_path: Path, keys: KeyStore, engine: sa.Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL keeps dead rows: there, rotating the key file forgets")
    keys.create(SUBJECT)
    wrapped = wrapped_key_of(engine, SUBJECT)
    assert traces_of(wrapped, bytes_on_disk(tmp_path))
    keys.destroy(SUBJECT)
    assert not traces_of(wrapped, bytes_on_disk(tmp_path))
    assert [path.name for path in tmp_path.glob("keys.db*")] == ["keys.db"]


def test_no_destroyed_key_of_many_is_left_in_any_page(tmp_path: Path, keys: KeyStore, engine: sa.Engine) -> None:
    """Enough households for pages to split, and destroyed in no order: copies of moved rows would show here."""
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL keeps dead rows: there, rotating the key file forgets")
    chance = random.Random(7)
    living: dict[str, bytes] = {}
    destroyed: dict[str, bytes] = {}
    for household in range(200):
        subject = f"req-{household}"
        keys.create(subject)
        living[subject] = wrapped_key_of(engine, subject)
        if chance.random() < 0.7:
            victim = chance.choice(sorted(living))
            destroyed[victim] = living.pop(victim)
            keys.destroy(victim)
    raw = bytes_on_disk(tmp_path)
    assert all(wrapped in raw for wrapped in living.values())
    assert [subject for subject, wrapped in destroyed.items() if traces_of(wrapped, raw)] == []


def test_a_power_cut_cannot_bring_a_destroyed_key_back(engine: sa.Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("settings of SQLite")
    with engine.connect() as one, engine.connect() as another:
        for connection in (one, another):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3
            assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


def test_others_cannot_read_the_key_database(tmp_path: Path, keys: KeyStore, engine: sa.Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("a file only on SQLite")
    assert (tmp_path / "keys.db").stat().st_mode & 0o777 == 0o600


# The key file


def test_a_new_key_file_is_readable_by_its_owner_only_and_kept(key_file: Path) -> None:
    created = load_or_create_key_file(key_file)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert load_or_create_key_file(key_file) == created
    assert [len(key) for key in created.generations.values()] == [32]
    assert [path.name for path in key_file.parent.iterdir()] == [key_file.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o660])
def test_a_key_file_others_can_touch_is_refused(key_file: Path, mode: int) -> None:
    load_or_create_key_file(key_file)
    key_file.chmod(mode)
    with pytest.raises(KeyFileRefused, match="0600"):
        load_or_create_key_file(key_file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-10],
        lambda text: text.replace("file 1", "file 2"),
        lambda text: text.splitlines()[0],
        lambda text: text.splitlines()[1],
        lambda text: text + text.splitlines()[1],
        lambda text: text + "0badcafe AAAA\n",
        lambda text: "\xff" * 100,
        lambda text: text + "x" * 100_000,
    ],
    ids=["empty", "cut", "newer", "no key", "no header", "same id twice", "short key", "binary", "too large"],
)
def test_a_damaged_key_file_is_refused_and_left_as_it_is(key_file: Path, damage) -> None:
    load_or_create_key_file(key_file)
    good = key_file.read_text()
    key_file.write_text(damage(good), encoding="latin-1")
    damaged = key_file.read_bytes()
    with pytest.raises(KeyFileRefused, match="restore it") as refused:
        load_or_create_key_file(key_file)
    assert key_file.read_bytes() == damaged
    assert good.split()[-1] not in str(refused.value)


def test_a_pipe_or_device_is_no_key_file() -> None:
    with pytest.raises(KeyFileRefused, match="regular file"):
        load_or_create_key_file(Path("/dev/null"))


def test_processes_that_start_at_once_get_the_same_key(key_file: Path) -> None:
    second: list[KeyEncryptionKeys] = []

    def start_second(count: int) -> bytes:
        # The other process creates the file after this one found none.
        if not second:
            second.append(load_or_create_key_file(key_file))
        return os.urandom(count)

    first = load_or_create_key_file(key_file, random_bytes=start_second)
    assert [first] == second
    assert [path.name for path in key_file.parent.iterdir()] == [key_file.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_rotating_leaves_the_old_key_file_whole(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = load_or_create_key_file(key_file)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os if step == "fsync" else Path, step, crash)
    with pytest.raises(OSError, match="power cut"):
        rotate_key_file(key_file)
    monkeypatch.undo()
    assert load_or_create_key_file(key_file) == before


def test_a_key_file_is_on_disk_before_it_gets_its_name(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        kind = "directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file"
        synced.append((kind, key_file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    load_or_create_key_file(key_file)
    assert synced == [("file", False), ("directory", True)]


def test_an_unfinished_key_file_is_never_readable_by_others(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: modes.append(os.fstat(fd).st_mode & 0o777))
    previous = os.umask(0)
    try:
        load_or_create_key_file(key_file)
    finally:
        os.umask(previous)
    assert modes[0] == 0o600


@pytest.mark.parametrize("same_id", [False, True], ids=["other id", "same id, other key"])
def test_a_node_with_the_wrong_key_file_does_not_start(keys: KeyStore, engine: sa.Engine, same_id: bool) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    generation = keys._keks.current if same_id else "0badcafe"
    wrong = KeyStore(engine, KeyEncryptionKeys({generation: bytes(32)}))
    with pytest.raises(KeyFileMismatch, match="put back the key file"):
        wrong.verify_key_file()
    with pytest.raises(KeyFileMismatch):
        wrong.unseal(sealed, CONTEXT)
    with pytest.raises(KeyFileMismatch):
        wrong.seal(SUBJECT, TEXT, CONTEXT)


def test_rewrapping_without_the_old_generation_is_refused_and_changes_nothing(
    keys: KeyStore, engine: sa.Engine
) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    with pytest.raises(KeyFileMismatch):
        KeyStore(engine, KeyEncryptionKeys({"0badcafe": bytes(32)})).rewrap()
    assert keys.unseal(sealed, CONTEXT) == TEXT


def test_a_key_file_missing_one_generation_of_two_does_not_start(
    keys: KeyStore, engine: sa.Engine, key_file: Path
) -> None:
    keys.create(SUBJECT)
    rotated = rotate_key_file(key_file)
    KeyStore(engine, rotated).create("req-2")
    KeyStore(engine, rotated).verify_key_file()
    with pytest.raises(KeyFileMismatch):
        KeyStore(engine, KeyEncryptionKeys({rotated.current: rotated.generations[rotated.current]})).verify_key_file()


def test_destroyed_keys_need_no_key_file(keys: KeyStore, engine: sa.Engine) -> None:
    keys.create(SUBJECT)
    keys.destroy(SUBJECT)
    KeyStore(engine, KeyEncryptionKeys({"0badcafe": bytes(32)})).verify_key_file()


# Rotation


def test_after_rewrapping_the_old_generation_can_be_deleted(
    tmp_path: Path, keys: KeyStore, engine: sa.Engine, key_file: Path
) -> None:
    sealed = {subject: keys.seal(subject, TEXT, CONTEXT) for subject in ("req-1", "req-2", "req-3")}
    keys.destroy("req-3")
    old_wrapping = wrapped_key_of(engine, "req-1")
    before = load_or_create_key_file(key_file)

    rotated = rotate_key_file(key_file)
    assert rotated.current not in before.generations
    assert list(rotated.generations)[1:] == list(before.generations)
    store = KeyStore(engine, rotated)
    assert store.unseal(sealed["req-1"], CONTEXT) == TEXT
    assert store.rewrap() == 2
    assert store.rewrap() == 0

    current_only = KeyStore(engine, KeyEncryptionKeys({rotated.current: rotated.generations[rotated.current]}))
    current_only.verify_key_file()
    assert current_only.unseal(sealed["req-1"], CONTEXT) == TEXT
    assert current_only.unseal(sealed["req-2"], CONTEXT) == TEXT
    assert isinstance(current_only.unseal(sealed["req-3"], CONTEXT), Unreadable)
    if engine.dialect.name == "sqlite":
        assert not traces_of(old_wrapping, bytes_on_disk(tmp_path))


def test_rewrapping_does_not_bring_back_a_key_destroyed_meanwhile(
    keys: KeyStore, engine: sa.Engine, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.create(SUBJECT)
    store = KeyStore(engine, rotate_key_file(key_file))
    wrap = store._wrap

    def wrap_while_it_is_destroyed(*args: object) -> bytes:
        keys.destroy(SUBJECT)
        return wrap(*args)

    monkeypatch.setattr(store, "_wrap", wrap_while_it_is_destroyed)
    assert store.rewrap() == 0
    with pytest.raises(KeyDestroyed):
        store.create(SUBJECT)


def test_fingerprint_keys_differ_by_label_and_stay_the_same_over_a_restart(
    keys: KeyStore, engine: sa.Engine, key_file: Path
) -> None:
    assert len(keys.digest_key("idempotency")) == 32
    assert keys.digest_key("idempotency") != keys.digest_key("idempotency2")
    restarted = KeyStore(engine, load_or_create_key_file(key_file))
    assert restarted.digest_key("idempotency") == keys.digest_key("idempotency")
    assert keys.digest_key("idempotency") not in keys._keks.generations.values()


def test_a_rotation_leaves_the_fingerprint_keys_as_they_are(keys: KeyStore, engine: sa.Engine, key_file: Path) -> None:
    """A key that changed would let a repeated intent pass for a new one."""
    before = keys.digest_key("idempotency")
    rotated = KeyStore(engine, rotate_key_file(key_file))
    rotated.rewrap()
    assert rotated.digest_key("idempotency") == before


# Nothing leaks on the way


def refusals(keys: KeyStore, key_file: Path) -> list[SealingError]:
    """One of each typed refusal, raised as in life."""
    engine = keys._engine
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    keys.seal("req-gone", TEXT, CONTEXT)
    keys.destroy("req-gone")
    wrong = KeyStore(engine, KeyEncryptionKeys({keys._keks.current: b"\x01" * 32}))
    attempts = [
        lambda: keys.seal(SUBJECT, TEXT * 1_000, CONTEXT),
        lambda: keys.seal(SUBJECT, TEXT + "\ud800", CONTEXT),
        lambda: keys.seal("req-gone", TEXT, CONTEXT),
        lambda: keys.unseal(sealed, msgspec.structs.replace(CONTEXT, event_id="event-2")),
        lambda: keys.unseal(msgspec.structs.replace(sealed, box=TEXT), CONTEXT),
        lambda: wrong.unseal(sealed, CONTEXT),
        lambda: key_file.chmod(0o644) or load_or_create_key_file(key_file),
    ]
    raised = []
    for attempt in attempts:
        with pytest.raises(SealingError) as refusal:
            attempt()
        raised.append(refusal.value)
    return raised


def test_no_error_log_or_repr_shows_text_or_key(
    keys: KeyStore, key_file: Path, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine.echo = True
    errors = refusals(keys, key_file)
    assert {type(error) for error in errors} == {
        TextRefused,
        KeyDestroyed,
        SealBroken,
        KeyFileMismatch,
        KeyFileRefused,
    }
    for error in errors:
        logging.getLogger("haven").error("refused", exc_info=error)
    with pytest.raises(sa.exc.IntegrityError) as database_error, engine.begin() as connection:
        connection.execute(sa.text("UPDATE data_keys SET wrapped = :w"), {"w": TEXT.encode()})
    wrapped = wrapped_key_of(engine, SUBJECT)
    kek = keys._keks.generations[keys._keks.current]
    seen = "\n".join(
        [
            caplog.text,
            str(database_error.value),
            repr(keys),
            repr(keys._keks),
            repr(engine),
            *(f"{error}\n{error!r}\n{error.args}" for error in errors),
            *("".join(traceback.format_exception(link)) for error in errors for link in chain_of(error)),
        ]
    )
    assert "refused" in seen
    assert "UPDATE data_keys" in seen
    for secret in ("Marigold", key_file.read_text().split()[-1], repr(kek)[2:-1], kek.hex(), repr(wrapped)[2:20]):
        assert secret not in seen


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all it was raised from, also where `from None` only hides it."""
    while error is not None:
        yield error
        error = error.__context__


def test_an_unreadable_answer_carries_only_the_reason_and_the_key_id(keys: KeyStore) -> None:
    sealed = keys.seal(SUBJECT, TEXT, CONTEXT)
    keys.destroy(SUBJECT)
    unreadable = keys.unseal(sealed, CONTEXT)
    assert isinstance(unreadable, Unreadable)
    assert msgspec.to_builtins(unreadable) == {"reason": "key_destroyed", "key_id": sealed.key_id}


def test_plain_text_and_unwrapped_keys_never_reach_the_database(
    tmp_path: Path, engine: sa.Engine, key_file: Path
) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("reads the raw file")
    drawn: list[bytes] = []

    def remember(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    keys = KeyStore(engine, load_or_create_key_file(key_file), random_bytes=remember)
    keys.create_schema()
    keys.seal(SUBJECT, TEXT, CONTEXT)
    data_keys = [value for value in drawn if len(value) == 32]
    raw = bytes_on_disk(tmp_path)
    assert len(data_keys) == 1
    assert not traces_of(data_keys[0], raw)
    assert TEXT.encode() not in raw


def test_many_threads_seal_unseal_and_destroy_at_once(keys: KeyStore) -> None:
    def life(household: int) -> str | Unreadable:
        subject = f"req-{household % 4}"
        context = msgspec.structs.replace(CONTEXT, stream=subject, event_id=f"event-{household}")
        return keys.unseal(keys.seal(subject, f"{TEXT} {household}", context), context)

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(life, range(40)))
        destroyed = list(threads.map(keys.destroy, [f"req-{n % 4}" for n in range(16)]))
    assert texts == [f"{TEXT} {household}" for household in range(40)]
    assert sum(destroyed) == 4


def test_a_key_database_left_in_write_ahead_mode_is_brought_back(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "keys.db") as earlier:
        earlier.execute("PRAGMA journal_mode=WAL")
        earlier.execute("CREATE TABLE t (x)")
    earlier.close()
    with key_store_engine(f"sqlite:///{tmp_path / 'keys.db'}").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
