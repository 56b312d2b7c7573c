"""Destroying a household's key once placement has closed its request. A consumer of its own: a rebuild of the read model
never runs it again."""

import msgspec
import sqlalchemy as sa

from events.envelope import Event, derived_id, system_actor
from events.gateway import KeyDestroyed
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.placement import HouseholdErased
from events.sealing import KeyStore
from services.gateway.intake import idempotency


class Eraser:
    """Follows placement's log."""

    def __init__(self, log: EventLog, keys: KeyStore) -> None:
        self.log = log
        self.keys = keys
        self.consumer = Consumer("gateway.eraser", log, self.handle, (HouseholdErased,))

    def handle(self, tx: Writing, event: Event) -> None:
        """Destroys the key first and says so second: a crash in between destroys what is gone already, once more."""
        if not isinstance(event.data, HouseholdErased):
            return
        request_id = event.data.request_id
        self.keys.destroy(request_id)
        # Fingerprints of what was sent go too. The order itself stays, so that repeating it is answered as before.
        ordered_by = msgspec.json.encode([event.causation_id]).decode()
        about_it = sa.and_(idempotency.c.subject == request_id, idempotency.c.command_ids != ordered_by)
        tx.connection.execute(sa.delete(idempotency).where(about_it))
        tx.append(
            [
                Event(
                    id=derived_id(event.id, "key destroyed"),
                    source=self.log.source,
                    stream=event.stream,
                    time=event.time,
                    actor=system_actor("gateway"),
                    correlation_id=request_id,
                    causation_id=event.id,
                    data=KeyDestroyed(request_id=request_id),
                )
            ]
        )
