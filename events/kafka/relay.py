"""Publishing the logs: one leader for each log sends its events to Kafka in position order.

Nothing is skipped: the cursor moves when every message of a batch is acknowledged by the brokers, and not before. What was
sent and not remembered (a crash between the two, a broker that answered too late) is sent again, and the consumers know it
by its version. Nothing is sent by two: the leader of a log holds an advisory lock in the log's own database, on the very
connection it reads with and moves the cursor on, so who loses the lock cannot go on. A leader that is frozen as a whole
process is disconnected by the server (`idle_session_timeout`), and another takes over.

The cursor belongs to a topic's id, not to its name: topics of a cluster that was lost and made anew are empty, have other
ids, and are filled again from the logs without anybody asking for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from events.kafka import dead_letters, topics
from events.kafka.connection import Broker, BrokerProblem
from events.kafka.layout import Layout
from events.kafka.wire import LARGEST_BODY, Message, to_message
from events.log.engines import is_database_trouble, reading
from events.log.follower import SourceWentBack
from events.log.hints import listen, log_channel, wait_for_hint

logger = logging.getLogger(__name__)

BATCH = 500
BATCH_BYTES = 4 << 20
POLL_SECONDS = 0.25
PAUSE_SECONDS = 0.5
LOOK_AT_TOPICS_SECONDS = 2.0
LOOK_FOR_DEAD_LETTERS_SECONDS = 1.0
IDLE_LIMIT = "8s"
"""A leader touches its database at least every few seconds; the server takes the lock from one that does not."""
TOUCH_SECONDS = 1.0
"""How often it does so while it waits for the brokers: else the server takes its silence for a frozen process."""
DELIVERY_SECONDS = 10
LINGER_MS = 50
"""How long the client waits for the rest of a batch, unless it is told that this was all: what one decision said goes out
together, comes together, and is taken together."""
PRODUCE_BYTES = 256 << 10
"""As much of one partition in one request; a shortlist alone can be larger than the 16 KiB of the client's default."""
CLOSE_SECONDS = 1.0

_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtext('haven relay'), hashtext(:source))")
# Where the cursor is, what lies there, and what comes behind it; one row at the least.
_NEXT = sa.text("""
    SELECT c.position AS before, c.event_id, (SELECT id FROM events WHERE position = c.position) AS stands_at,
           e.position, e.id, e.record
    FROM (SELECT 1) AS one LEFT JOIN relay_cursors c ON c.topic = :topic
    LEFT JOIN LATERAL (SELECT position, id, record FROM events WHERE position > coalesce(c.position, 0)
                       ORDER BY position LIMIT :limit) AS e ON true
    ORDER BY e.position
""")
_BEGIN = sa.text(
    "INSERT INTO relay_cursors (topic, position, event_id) VALUES (:topic, :position, :event_id) ON CONFLICT DO NOTHING"
)
# Only from where this batch began: a cursor that `send_again` took away meanwhile must not come back.
_MOVE = sa.text(
    "UPDATE relay_cursors SET position = :position, event_id = :event_id WHERE topic = :topic AND position = :before"
)
_FORGET = sa.text("DELETE FROM relay_cursors")
_STANDING = sa.text(
    "SELECT (SELECT coalesce(max(position), 0) FROM events), (SELECT position FROM relay_cursors WHERE topic = :topic)"
)
# Not if somebody had it tried again meanwhile: should it be given up once more, that has to be told too.
_TOLD = sa.text("UPDATE dead_letters SET published_at = :now WHERE id = :id AND given_up_at = :given_up_at")


class NotSent(Exception):
    """Not every message of a batch was acknowledged in time; all of it will be sent again."""


@dataclass
class LogStatus:
    """Where the publishing of one log stands, as this process sees it."""

    source: str
    position: int = 0
    head: int = 0
    leading: bool = False
    sent_total: int = 0
    failed_total: int = 0
    last_sent_at: datetime | None = None
    problem: str = ""
    """Why nothing goes out now; empty when nothing keeps it."""


class Relay:
    """Publishes the logs of all services. Several processes may run it: one of them leads each log, the others wait.

    `engines` reach each service's schema under the relay's role. `headers` adds to a message what follows from its record
    (the trace it belongs to). `why_no_database` says cause and remedy of the database's trouble, for whoever runs Haven.
    """

    def __init__(
        self,
        engines: Mapping[str, sa.Engine],
        broker: Broker,
        layout: Layout,
        client_id: str,
        headers: Callable[[str], Mapping[str, str]] = lambda _record: {},
        why_no_database: Callable[[sa.URL, BaseException], str] = lambda _url, failure: type(failure).__name__,
    ) -> None:
        self.broker = broker
        self.why_no_database = why_no_database
        self.layout = layout
        self.topic_ids: dict[str, str] = {}
        self.problem = "has not looked at the topics yet"
        self._leaders = [_Leader(self, source, engine, client_id, headers) for source, engine in engines.items()]
        self._threads: list[threading.Thread] = []

    def run(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set, and then waits no longer than a batch may take, whatever does not answer."""
        works = {"topics": self._keep_looking_at_topics} | {
            leader.status.source: leader.run for leader in self._leaders
        }
        self._threads = [
            threading.Thread(target=work, args=(stop,), name=f"relay-{name}", daemon=True)
            for name, work in works.items()
        ]
        for thread in self._threads:
            thread.start()
        stop.wait()
        ends = time.monotonic() + DELIVERY_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def status(self) -> list[LogStatus]:
        """Where each log stands; asks its database, and raises what that raises."""
        return [leader.look() for leader in self._leaders]

    def ready(self) -> dict[str, str]:
        """Why something is not published, by log; empty when all is well. A process that only waits for its turn is well."""
        reasons = {"topics": self.problem} if self.problem else {}
        reasons |= {
            f"log of {leader.status.source}": leader.status.problem for leader in self._leaders if leader.status.problem
        }
        return reasons | {
            thread.name: "stopped; restart the process" for thread in self._threads if not thread.is_alive()
        }

    def _keep_looking_at_topics(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._look_at_topics()
            stop.wait(LOOK_AT_TOPICS_SECONDS)

    def _look_at_topics(self) -> None:
        try:
            found = topics.check(self.broker, self.layout)
        except BrokerProblem as problem:
            self.problem = str(problem)
            logger.warning("topics cannot be used error=%s", type(problem).__name__)
        except Exception as failure:  # noqa: BLE001 - whatever the client does, there is a next time
            self.problem = f"could not be looked at ({type(failure).__name__}); see that the brokers answer"
            logger.warning("could not look at topics error=%s", type(failure).__name__)
        else:
            self.topic_ids, self.problem = found, ""


def send_again(engines: Mapping[str, sa.Engine]) -> None:
    """Forgets how far each log was published: the leaders send everything from the first event on, and the consumers leave
    alone what they have had. For topics that lost messages and kept their ids."""
    for engine in engines.values():
        with engine.begin() as connection:
            connection.execute(_FORGET)


def _within_bytes(rows: Sequence[sa.Row[Any]]) -> Sequence[sa.Row[Any]]:
    """As many of the rows as can be acknowledged in time, one at the least: a batch that is too large would be sent for ever."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row.record)
        if size > BATCH_BYTES and number:
            return rows[:number]
    return rows


class _Leader:
    """Publishes one log while it holds the log's relay lock; waits for the lock while another has it."""

    def __init__(
        self,
        relay: Relay,
        source: str,
        engine: sa.Engine,
        client_id: str,
        headers: Callable[[str], Mapping[str, str]],
    ) -> None:
        self.status = LogStatus(source)
        self._relay = relay
        self._engine = engine
        self._client_id = f"{client_id}-{source}"
        self._headers = headers
        self._topic = relay.layout.topic(source)
        self._producer: Any = None
        self._dead_letters_at = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    try:
                        self._lead_while_possible(connection, stop)
                    finally:
                        connection.invalidate()  # never back into the pool: it may hold the lock
            except Exception as failure:  # noqa: BLE001 - whatever it is, the log must go on being published
                self._failed(failure)
                stop.wait(PAUSE_SECONDS)
            self.status.leading = False
        self._drop_producer()

    def look(self) -> LogStatus:
        with reading(self._engine) as connection:
            head, position = connection.execute(_STANDING, {"topic": self._topic_id()}).one()
        self.status.head, self.status.position = head, position or 0
        return self.status

    def _lead_while_possible(self, connection: sa.Connection, stop: threading.Event) -> None:
        connection.exec_driver_sql(f"SET idle_session_timeout = '{IDLE_LIMIT}'")
        while not connection.scalar(_LOCK, {"source": self.status.source}):
            self.status.problem = ""
            if stop.wait(PAUSE_SECONDS):
                return
        listen(connection, log_channel(self.status.source))
        self.status.leading = True
        logger.info("leads source=%s", self.status.source)
        while not stop.is_set():
            more = self._send_next(connection) if self._topic_id() else False
            self._tell_of_dead_letters(connection)
            self.status.problem = ""
            if not more:
                wait_for_hint(connection, POLL_SECONDS)

    def _send_next(self, connection: sa.Connection) -> bool:
        """Sends one batch, if there is one; whether more may wait behind it."""
        topic_id = self._topic_id()
        found = connection.execute(_NEXT, {"topic": topic_id, "limit": BATCH}).all()
        before = found[0].before
        # Under the lock this log has one reader, and a log that was restored from a backup is another log.
        if found[0].stands_at != found[0].event_id:
            raise SourceWentBack(self.status.source, before)
        if found[0].position is None:
            return False
        rows = _within_bytes(found)
        self._send(connection, [self._message(row.record) for row in rows])
        self._move(connection, topic_id, before, rows[-1].position, rows[-1].id)
        self.status.sent_total += len(rows)
        self.status.last_sent_at = datetime.now(UTC)
        return len(rows) < len(found) or len(found) == BATCH

    def _move(self, connection: sa.Connection, topic_id: str, before: int | None, position: int, event_id: str) -> None:
        moved = {"topic": topic_id, "position": position, "event_id": event_id}
        if before is None:
            connection.execute(_BEGIN, moved)
        else:
            connection.execute(_MOVE, moved | {"before": before})

    def _message(self, record: str) -> Message:
        message = to_message(self._topic, record)
        more = {name: value.encode() for name, value in self._headers(record).items()}
        return msgspec.structs.replace(message, headers=message.headers | more)

    def _send(self, connection: sa.Connection, messages: Sequence[Message]) -> None:
        """Returns when the brokers have every message on as many disks as the topic asks for. Raises NotSent, or what the
        client raised."""
        producer = self._producer_now()
        sent = [
            producer.send(message.topic, message.body, message.key, list(message.headers.items()))
            for message in messages
        ]
        self._wait_until_acknowledged(connection, producer, sent)

    def _wait_until_acknowledged(self, connection: sa.Connection, producer: Any, sent: Sequence[Any]) -> None:
        touched = time.monotonic()
        ends = touched + DELIVERY_SECONDS
        with suppress(KafkaTimeoutError):
            producer.flush(timeout=TOUCH_SECONDS)
        for future in sent:
            while not future.is_done:
                with suppress(KafkaTimeoutError):
                    future.get(timeout=TOUCH_SECONDS)
                if (now := time.monotonic()) - touched >= TOUCH_SECONDS:
                    connection.exec_driver_sql("SELECT 1")
                    touched = now
                if now > ends and not future.is_done:
                    raise NotSent
            if future.failed():
                raise future.exception

    def _tell_of_dead_letters(self, connection: sa.Connection) -> None:
        now = time.monotonic()
        if now < self._dead_letters_at:
            return
        self._dead_letters_at = now + LOOK_FOR_DEAD_LETTERS_SECONDS
        letters = dead_letters.unpublished(connection, BATCH)
        if letters:
            self._send(connection, [self._letter(letter) for letter in letters])
            self._mark_told(connection, letters)

    def _mark_told(self, connection: sa.Connection, letters: Sequence[dead_letters.DeadLetter]) -> None:
        for letter in letters:
            told = {"now": datetime.now(UTC).isoformat(), "id": letter.id, "given_up_at": letter.given_up_at}
            connection.execute(_TOLD, told)

    def _letter(self, letter: dead_letters.DeadLetter) -> Message:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": letter.id,
            "ce_source": f"/haven/{self.status.source}",
            "ce_type": dead_letters.TYPE,
            "ce_time": letter.given_up_at or letter.first_at,
            "content-type": "application/json",
        }
        return Message(
            topic=self._relay.layout.dead_letters,
            key=letter.consumer.encode(),
            headers={name: value.encode() for name, value in headers.items()},
            body=msgspec.json.encode(letter),
        )

    def _topic_id(self) -> str:
        """Empty until the topics were found fit."""
        return self._relay.topic_ids.get(self._topic, "")

    def _producer_now(self) -> Any:
        if self._producer is None:
            self._producer = KafkaProducer(
                **self._relay.broker.kafka_python(self._client_id),
                bootstrap_timeout_ms=4_000,
                enable_idempotence=True,
                acks="all",
                delivery_timeout_ms=DELIVERY_SECONDS * 1000 + LINGER_MS,
                max_in_flight_requests_per_connection=5,  # with idempotence the brokers keep their order
                linger_ms=LINGER_MS,
                batch_size=PRODUCE_BYTES,
                max_block_ms=2_000,
                max_request_size=LARGEST_BODY + 64 * 1024,  # and its headers
                allow_auto_create_topics=False,
            )
        return self._producer

    def _failed(self, failure: Exception) -> None:
        match failure:
            case SourceWentBack() | BrokerProblem():
                self.status.problem = str(failure)
            case KafkaError():
                self.status.problem = str(self._relay.broker.problem(failure, "take what is sent"))
            case _ if is_database_trouble(failure):
                why = self._relay.why_no_database(self._engine.url, failure)
                self.status.problem = f"the database cannot be used: {why}"
            case _:
                self.status.problem = f"cannot be sent ({type(failure).__name__}); see that the brokers answer"
        self.status.failed_total += 1
        logger.warning("publishing failed source=%s error=%s", self.status.source, type(failure).__name__)
        # An idempotent producer that gave up on a message sends nothing more; the next one has a new identity.
        self._drop_producer()

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # Not by `close` alone: with messages under way it raises, and leaves behind the thread that sends them.
            producer._sender.force_close()
            producer._sender.join(CLOSE_SECONDS)
            with suppress(KafkaError):
                producer.close(timeout=0)
