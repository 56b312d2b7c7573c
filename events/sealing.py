"""Personal fields, sealed under one household's own key, so that destroying that key forgets the household everywhere.

Every copy of an event (log, topic, replica, backup) carries only ciphertext. The data keys live here, in a database of
their own that no log and no backup of a log contains; each is wrapped by a key-encryption key that lives in a file
outside both. Sealed text stays personal data for as long as its key exists (GDPR recital 26, art. 17).

What "destroyed" means, per database:

* SQLite: the wrapped key's bytes are overwritten in the file before `destroy` returns, and its rollback journal is gone.
* PostgreSQL: the row no longer has it, but dead tuples and the write-ahead log do until they are reused.

What a worn flash cell, an unlinked journal or PostgreSQL still remembers is a key wrapped by the key-encryption key of
that time. `rotate_key_file`, a restart, `rewrap`, and then deleting the old line of the key file makes that useless too.
"""

import base64
import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from events.key_file import KEY_BYTES, KeyEncryptionKeys, RandomBytes, SealingError
from events.log.engines import postgresql_engine, reading
from events.vocabulary import Sealed, SealedField

ALGORITHM = "aes-256-gcm.pad64.v1"
"""AES-256-GCM (NIST SP 800-38D), 96-bit random nonce, UTF-8 text padded as in ISO/IEC 7816-4 to a multiple of 64 bytes."""

MAX_CHARACTERS = 4_000
BLOCK = 64
"""Bytes. Up to 63 bytes of text look alike: a phone number and a short address cannot be told apart by length."""

_DIGESTS = "haven.digests"
"""Subject of the one data key that is no household's."""
_NONCE_BYTES = 12
_TAG_BYTES = 16


class KeyFileMismatch(SealingError):
    def __init__(self, key_id: str, generation: str) -> None:
        self.key_id = key_id
        self.generation = generation
        super().__init__(
            f"data key {key_id} does not open with generation {generation} of the key file; "
            "put back the key file that belongs to this key database before starting again"
        )


class KeyDestroyed(SealingError):
    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"the key of {subject} was destroyed; nothing can be sealed for it: open a new request")


class TextRefused(SealingError):
    def __init__(self, context: "SealContext") -> None:
        self.context = context
        super().__init__(
            f"{context.field} of event {context.event_id} is longer than {MAX_CHARACTERS} characters or is not "
            "Unicode text; shorten it or type it again"
        )


class SealBroken(SealingError):
    def __init__(self, key_id: str, context: "SealContext") -> None:
        self.key_id = key_id
        self.context = context
        super().__init__(
            f"{context.field} of event {context.event_id} in {context.stream} does not open with its key {key_id}: "
            "it was altered or moved; keep the log as it is and report a security incident"
        )


class UnreadableReason(StrEnum):
    KEY_DESTROYED = "key_destroyed"
    KEY_UNKNOWN = "key_unknown"
    UNKNOWN_ALGORITHM = "unknown_algorithm"


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """What `unseal` gives for text that cannot be read: a normal answer, since forgetting has to work."""

    reason: UnreadableReason
    key_id: str


class SealContext(msgspec.Struct, frozen=True, kw_only=True):
    """The one place a sealed field may stand. Sealed text opens nowhere else.

    `type` is the event's versioned wire name, so the contract version is bound too.
    """

    stream: str
    type: str
    event_id: str
    field: SealedField


metadata = sa.MetaData()

data_keys = sa.Table(
    "data_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("wrapped_by", sa.Text),
    sa.Column("wrapped", sa.LargeBinary),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("destroyed_at", sa.Text),
    sa.UniqueConstraint("subject", name="one_key_per_subject"),
    sa.CheckConstraint(
        "(destroyed_at IS NULL) = (wrapped IS NOT NULL) AND (wrapped IS NULL) = (wrapped_by IS NULL)",
        name="destroyed_means_no_key_material",
    ),
)


class _Key(NamedTuple):
    key_id: str
    subject: str
    wrapped_by: str | None
    wrapped: bytes | None


_KEYS = sa.select(data_keys.c.key_id, data_keys.c.subject, data_keys.c.wrapped_by, data_keys.c.wrapped)
_BY_SUBJECT = _KEYS.where(data_keys.c.subject == sa.bindparam("subject"))
_BY_KEY = _KEYS.where(data_keys.c.key_id == sa.bindparam("key_id"))
_OLDER_WRAPPINGS = _KEYS.where(data_keys.c.wrapped_by != sa.bindparam("current")).order_by(data_keys.c.key_id)
_ONE_OF_EACH_GENERATION = _KEYS.where(
    data_keys.c.key_id.in_(
        sa.select(sa.func.min(data_keys.c.key_id))
        .where(data_keys.c.wrapped.is_not(None))
        .group_by(data_keys.c.wrapped_by)
    )
)
_CREATE = sa.text(
    "INSERT INTO data_keys (key_id, subject, wrapped_by, wrapped, created_at) "
    "VALUES (:key_id, :subject, :wrapped_by, :wrapped, :now) ON CONFLICT (subject) DO NOTHING"
)
_DESTROY = sa.text(
    "UPDATE data_keys SET wrapped = NULL, wrapped_by = NULL, destroyed_at = :now "
    "WHERE subject = :subject AND destroyed_at IS NULL"
)
_REFUSE_FOR_EVER = sa.text(
    "INSERT INTO data_keys (key_id, subject, created_at, destroyed_at) "
    "VALUES (:key_id, :subject, :now, :now) ON CONFLICT (subject) DO NOTHING"
)
_REWRAP = sa.text(
    "UPDATE data_keys SET wrapped = :wrapped, wrapped_by = :wrapped_by "
    "WHERE key_id = :key_id AND wrapped = :wrapped_before"
)


class KeyStore:
    """The data key of every household, in a database of their own. Safe for use from many threads.

    Unwrapped keys are never kept: a cache would go on reading for a household whose key another process destroyed.
    Whatever has to open a key raises KeyFileMismatch when the key file is not the one it was wrapped with.
    """

    def __init__(
        self,
        engine: sa.Engine,
        key_encryption_keys: KeyEncryptionKeys,
        random_bytes: RandomBytes = os.urandom,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._keks = key_encryption_keys
        self._random_bytes = random_bytes
        self._clock = clock

    def create_schema(self) -> None:
        """Creates what is missing; needs the owner's rights on PostgreSQL."""
        metadata.create_all(self._engine)

    def close(self) -> None:
        """Gives the database back."""
        self._engine.dispose()

    def verify_key_file(self) -> None:
        """Opens one data key of every generation in use; call it before serving. Raises KeyFileMismatch.

        Otherwise a node whose key file was lost would make a new one and seal under it, beside keys it cannot open.
        """
        with reading(self._engine) as connection:
            keys = [_Key(*row) for row in connection.execute(_ONE_OF_EACH_GENERATION)]
        for key in keys:
            self._unwrap(key)

    def create(self, subject: str) -> str:
        """The id of the subject's key, made now if there is none. Raises KeyDestroyed."""
        return str(self._key_of(subject).key_id)

    def seal(self, subject: str, text: str, context: SealContext) -> Sealed:
        """Seals `text` under the subject's key, made now if there is none. Raises TextRefused or KeyDestroyed."""
        padded = _pad(text, context)
        key = self._key_of(subject)
        nonce = self._random_bytes(_NONCE_BYTES)
        bound = _context_bytes(key.key_id, context)
        box = nonce + AESGCM(self._unwrap(key)).encrypt(nonce, padded, bound)
        return Sealed(algorithm=ALGORITHM, key_id=key.key_id, box=_to_base64url(box))

    def unseal(self, sealed: Sealed, context: SealContext) -> str | Unreadable:
        """The text, or why it is not readable any more (or not by this release). Raises SealBroken.

        Altered, truncated and moved ciphertext are one and the same failure to AES-GCM; nothing tells them apart.
        """
        if sealed.algorithm != ALGORITHM:
            return Unreadable(reason=UnreadableReason.UNKNOWN_ALGORITHM, key_id=sealed.key_id)
        key = self._find(_BY_KEY, key_id=sealed.key_id)
        if key is None:
            return Unreadable(reason=UnreadableReason.KEY_UNKNOWN, key_id=sealed.key_id)
        if key.wrapped is None:
            return Unreadable(reason=UnreadableReason.KEY_DESTROYED, key_id=sealed.key_id)
        box = _from_base64url(sealed.box)
        if box is None or len(box) < _NONCE_BYTES + BLOCK + _TAG_BYTES:
            raise SealBroken(sealed.key_id, context)
        bound = _context_bytes(sealed.key_id, context)
        try:
            padded = AESGCM(self._unwrap(key)).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], bound)
        except InvalidTag:
            raise SealBroken(sealed.key_id, context) from None
        return padded.rstrip(b"\0")[:-1].decode()

    def destroy(self, subject: str) -> bool:
        """Destroys the subject's key for ever, on disk when it returns. True if there was a key, False if not any more.

        A subject that has no key yet is refused one from now on: a sealing may be under way that comes second.
        """
        now = self._now()
        with self._engine.begin() as connection:
            # First in the transaction, so that a key made meanwhile is either seen by the update or never made.
            connection.execute(_REFUSE_FOR_EVER, {"key_id": self._new_key_id(), "subject": subject, "now": now})
            return connection.execute(_DESTROY, {"subject": subject, "now": now}).rowcount == 1

    def rewrap(self) -> int:
        """Wraps every data key under the current generation and returns how many it changed; safe to repeat and to
        interrupt. Raises KeyFileMismatch if the key file lacks a generation that is still in use."""
        current = self._keks.current
        with reading(self._engine) as connection:
            keys = [_Key(*row) for row in connection.execute(_OLDER_WRAPPINGS, {"current": current})]
        rewrapped = 0
        for key in keys:
            wrapped = self._wrap(self._unwrap(key), key.key_id, key.subject)
            with self._engine.begin() as connection:
                # Compare and swap: a key destroyed since it was read stays destroyed.
                changes = {"key_id": key.key_id, "wrapped": wrapped, "wrapped_by": current}
                rewrapped += connection.execute(_REWRAP, {**changes, "wrapped_before": key.wrapped}).rowcount
        return rewrapped

    def digest_key(self, label: str) -> bytes:
        """32 bytes for keyed fingerprints and opaque ids, one independent key per label (HKDF-SHA256, RFC 5869).

        Derived from a data key of its own, which a rotation re-wraps and leaves as it is: a key that changed would let a
        repeated intent pass for a new one.
        """
        info = _unambiguous("haven.digest.v1", label)
        secret = self._unwrap(self._key_of(_DIGESTS))
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)

    def _key_of(self, subject: str) -> _Key:
        # Of two threads that make one together, the unique constraint keeps one key for both.
        key = (
            self._find(_BY_SUBJECT, subject=subject) or self._make(subject) or self._find(_BY_SUBJECT, subject=subject)
        )
        if key is None or key.wrapped is None:
            raise KeyDestroyed(subject)
        return key

    def _make(self, subject: str) -> _Key | None:
        """A new key for a subject, None if it has one by now. One statement, since somebody waits to be acknowledged."""
        key_id = self._new_key_id()
        wrapped = self._wrap(self._random_bytes(KEY_BYTES), key_id, subject)
        key = _Key(key_id, subject, self._keks.current, wrapped)
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            made = connection.execute(_CREATE, key._asdict() | {"now": self._now()}).rowcount
        return key if made else None

    def _find(self, query: sa.Select[Any, Any, Any, Any], **ids: str) -> _Key | None:
        with reading(self._engine) as connection:
            row = connection.execute(query, ids).one_or_none()
        return _Key(*row) if row else None

    def _new_key_id(self) -> str:
        return f"key-{self._random_bytes(16).hex()}"

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def _wrap(self, data_key: bytes, key_id: str, subject: str) -> bytes:
        generation = self._keks.current
        nonce = self._random_bytes(_NONCE_BYTES)
        bound = _unambiguous("haven.wrap.v1", generation, key_id, subject)
        return nonce + AESGCM(self._keks.generations[generation]).encrypt(nonce, data_key, bound)

    def _unwrap(self, key: _Key) -> bytes:
        assert key.wrapped_by is not None
        assert key.wrapped is not None
        kek = self._keks.generations.get(key.wrapped_by)
        if kek is None:
            raise KeyFileMismatch(key.key_id, key.wrapped_by)
        wrapped = bytes(key.wrapped)
        # The subject is bound: whoever can write the key database cannot hand one household another's key.
        bound = _unambiguous("haven.wrap.v1", key.wrapped_by, key.key_id, key.subject)
        try:
            return AESGCM(kek).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], bound)
        except InvalidTag:
            raise KeyFileMismatch(key.key_id, key.wrapped_by) from None


def key_store_engine(url: str | sa.URL, schema: str | None = None) -> sa.Engine:
    """An engine for a KeyStore on `sqlite:///path/keys.db`, `sqlite://` (in memory, one thread) or PostgreSQL, there in
    `schema` or wherever the role's own search path leads."""
    # hide_parameters: SQLAlchemy would print wrapped keys in its errors and logs.
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return postgresql_engine(parsed, schema)
    if parsed.database not in (None, "", ":memory:"):
        Path(parsed.database).touch(mode=0o600)
        engine = sa.create_engine(parsed, hide_parameters=True, connect_args={"timeout": 30})
    else:
        engine = sa.create_engine(parsed, hide_parameters=True, poolclass=sa.StaticPool)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection, _record):  # type: ignore[no-untyped-def]
        # No write-ahead log: it would keep a destroyed key until some later checkpoint.
        connection.execute("PRAGMA journal_mode=DELETE")
        # Freed bytes are zeroed. Rows must never be deleted all the same: merging two half-empty pages leaves copies of
        # neighbours that this does not reach. A tombstone keeps its place, and its page too full to be merged.
        connection.execute("PRAGMA secure_delete=ON")
        # EXTRA also syncs the directory after the journal is unlinked; otherwise a power cut can bring the journal back
        # and roll back a destruction that was already confirmed.
        connection.execute("PRAGMA synchronous=EXTRA")

    return engine


def _unambiguous(*parts: str) -> bytes:
    """Length-prefixed, so no two different lists of parts give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _context_bytes(key_id: str, context: SealContext) -> bytes:
    return _unambiguous("haven.seal", ALGORITHM, key_id, context.stream, context.type, context.event_id, context.field)


def _pad(text: str, context: SealContext) -> bytes:
    try:
        encoded = text.encode() if len(text) <= MAX_CHARACTERS else None
    except UnicodeEncodeError:
        encoded = None
    if encoded is None:
        # Raised out here: an exception chained to the codec's own would carry the text with it.
        raise TextRefused(context)
    return encoded + b"\x80" + bytes(-(len(encoded) + 1) % BLOCK)


def _to_base64url(box: bytes) -> str:
    return base64.urlsafe_b64encode(box).decode().rstrip("=")


def _from_base64url(text: str) -> bytes | None:
    try:
        box = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    # The decoder skips foreign characters and spare bits; only the one spelling `seal` wrote counts as unaltered.
    return box if _to_base64url(box) == text else None
