"""From an intent to a line in the gateway's log: the commit is the acknowledgement.

An `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07) belongs to one person, role and route. The ids of what
it causes are derived from it, so a second tap, a retry after a lost answer and two taps at once all end in the same
single event: the first by the remembered row, the last by the log's own constraint.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import msgspec
import sqlalchemy as sa

from events.envelope import Contract, Event, derived_id
from events.log.engines import reading
from events.log.errors import LogError
from events.log.store import ANY_VERSION, NO_STREAM, EventLog
from events.sealing import KeyStore
from services.gateway import problems
from services.gateway.access import actor_of
from services.gateway.principals import Principal
from services.gateway.read_model import Json, ReadModel

metadata = sa.MetaData()

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("intent_id", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("command_ids", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("received_at", sa.Text, nullable=False, index=True),
)

KEPT_FOR = timedelta(hours=48)
LONGEST_WAIT = 30.0
"""Seconds a client may ask to wait for the outcome (`Prefer: wait=N`)."""


@dataclass(frozen=True)
class Intent:
    """One request to change something, identified by who sends it where under which key."""

    principal: Principal
    route: str
    key: str
    body: msgspec.Struct

    def canonical(self) -> bytes:
        return msgspec.json.encode([self.route, self.body])


@dataclass(frozen=True)
class Accepted:
    """What was acknowledged: ids of the commands in the gateway's log, and when."""

    command_ids: tuple[str, ...]
    subject: str
    received_at: str


class Intake:
    """Accepts intents, once each, and waits for what becomes of them."""

    def __init__(self, log: EventLog, keys: KeyStore, read_model: ReadModel, clock: Callable[[], datetime]) -> None:
        self.log = log
        self._read_model = read_model
        self._clock = clock
        self._keys = keys
        log.create_schema(metadata)

    # Not before the first intent: a process that only serves live streams accepts none, and has no key file.
    @cached_property
    def _id_key(self) -> bytes:
        return self._keys.digest_key("intent ids")

    @cached_property
    def _fingerprint_key(self) -> bytes:
        return self._keys.digest_key("intent fingerprints")

    def intent_id(self, intent: Intent) -> str:
        """Opaque and unguessable, the same for the same sender, route and key."""
        who = intent.principal
        said = msgspec.json.encode([who.person, who.role, who.organisation, intent.route, intent.key])
        return hmac.new(self._id_key, said, hashlib.sha256).hexdigest()[:32]

    def has_accepted(self, intent: Intent) -> bool:
        """Whether this very intent was accepted within the last 48 h. Raises Problem 422 when its key was used for another."""
        return self._recall(self.intent_id(intent), self._fingerprint(intent)) is not None

    def accept(
        self,
        intent: Intent,
        subject: str,
        commands: Callable[[Callable[[int], str]], Sequence[tuple[str, Contract]]],
        *,
        opens_stream: bool = False,
    ) -> Accepted:
        """Keeps the commands of an intent, all or none; of a repeated intent, returns what was accepted the first time.

        `commands` is given a function from a command's place to its event id (sealing binds to it) and returns streams
        with commands. Raises Problem 422 when the key was used for something else.
        """
        intent_id, fingerprint = self.intent_id(intent), self._fingerprint(intent)
        if known := self._recall(intent_id, fingerprint):
            return known
        now = self._clock()
        drafts = [
            Event(
                id=derived_id(intent_id, place),
                source=self.log.source,
                stream=stream,
                time=now,
                actor=actor_of(intent.principal),
                correlation_id=subject,
                causation_id=derived_id(intent_id, place),
                data=command,
            )
            for place, (stream, command) in enumerate(commands(lambda place: derived_id(intent_id, place)))
        ]
        accepted = Accepted(tuple(draft.id for draft in drafts), subject, now.isoformat())
        try:
            with self.log.writing() as tx:
                tx.append(drafts, NO_STREAM if opens_stream else ANY_VERSION)
                tx.connection.execute(
                    sa.insert(idempotency),
                    {
                        "intent_id": intent_id,
                        "fingerprint": fingerprint,
                        "command_ids": msgspec.json.encode(accepted.command_ids).decode(),
                        "subject": subject,
                        "received_at": accepted.received_at,
                    },
                )
        except LogError:
            # Two taps at once: the other one committed first. Or the memory of it has been purged since.
            if known := self._recall(intent_id, fingerprint):
                return known
            raise _key_used() from None
        return accepted

    def wait_for_outcomes(self, accepted: Accepted, seconds: float) -> list[Json | None]:
        """For each command the event that answers it, or None if there is none when `seconds` are over for all."""
        deadline = time.monotonic() + min(seconds, LONGEST_WAIT)
        return [self._wait_for_outcome(command_id, deadline) for command_id in accepted.command_ids]

    def _wait_for_outcome(self, command_id: str, deadline: float) -> Json | None:
        pause = 0.002
        while (outcome := self._read_model.outcome(command_id)) is None and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return outcome

    def forget_old_keys(self, now: datetime) -> None:
        """Drops the memory of keys older than 48 h. The ids stay derived, so even then nothing can happen twice."""
        with self.log.writing() as tx:
            tx.connection.execute(
                sa.delete(idempotency).where(idempotency.c.received_at < (now - KEPT_FOR).isoformat())
            )

    def _fingerprint(self, intent: Intent) -> str:
        return hmac.new(self._fingerprint_key, intent.canonical(), hashlib.sha256).hexdigest()

    def _recall(self, intent_id: str, fingerprint: str) -> Accepted | None:
        with reading(self.log.engine) as connection:
            row = connection.execute(sa.select(idempotency).where(idempotency.c.intent_id == intent_id)).first()
        if row is None:
            return None
        if not hmac.compare_digest(row.fingerprint, fingerprint):
            raise _key_used()
        return Accepted(msgspec.json.decode(row.command_ids, type=tuple[str, ...]), row.subject, row.received_at)


def _key_used() -> problems.Problem:
    return problems.Problem(
        422,
        "idempotency-key-used",
        "This Idempotency-Key was used for something else.",
        next_action="Use a new key for a new intent, and the same key only to repeat the same request.",
    )
