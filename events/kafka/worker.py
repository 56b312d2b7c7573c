"""The Faust worker: group membership, fetching and prefetching; nothing else.

Faust's own idea of what is done is switched off (`noack`) and replaced by one acknowledgement after the receivers have
committed. The body never raises and is never left half-way: an exception, or the cancellation at shutdown, would
acknowledge the message in Faust's own `finally`. Should anything escape all the same, the process ends at once, unacked;
crashing is a case that is handled, being half alive is not.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faust
from faust.types.auth import CredentialsT

from events.kafka.connection import SASL_MECHANISM, Broker
from events.kafka.receiver import Receiver, Stopping
from events.kafka.wire import Message

logger = logging.getLogger(__name__)

EXIT_UNEXPECTED = 70
"""Exit status (EX_SOFTWARE) of a process that met an error nobody had thought of; it is to be started again."""
REQUEST_SECONDS = 15.0
"""How long a fetch waits for a broker that is frozen before it asks where its partitions are led now; Faust's default is 90. More
than the session: the join of a group waits for members whose session runs out."""
STOP_SECONDS = 3.0
END_ANYWAY_SECONDS = 4.5
GATHER_SECONDS = 0.002
"""Faust hands over one message at a time; what came together is taken together if one waits for so long."""
MOST_AT_ONCE = 100
"""Messages in one transaction: so many decisions take a fraction of the time that anybody waits for the log's lock."""


def faust_app(
    *,
    group: str,
    worker_name: str,
    broker: Broker,
    topics: Sequence[str],
    receivers: Sequence[Receiver],
    folder: Path,
    gather_seconds: float = GATHER_SECONDS,
    end: Callable[[int], None] = os._exit,
) -> faust.App:
    """A Faust application that brings every message of `topics` to those of `receivers` that follow it, in the order of each
    partition.

    `group` is shared by all workers of one kind, `worker_name` is unique among them and the same after a restart: static
    membership lets a restarted worker have its partitions back at once, the short session lets others have those of a
    host that never returns. `gather_seconds` is how long the first message waits for others of its transaction.
    """
    app = faust.App(
        group,
        broker=broker.faust_url,
        broker_credentials=_credentials(broker),
        datadir=str(folder),
        processing_guarantee="at_least_once",
        consumer_group_instance_id=worker_name,
        broker_session_timeout=8.0,
        broker_heartbeat_interval=2.0,
        broker_request_timeout=REQUEST_SECONDS,
        broker_max_poll_records=500,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=500,
        web_enabled=False,
        worker_redirect_stdouts=False,
        key_serializer="raw",
        value_serializer="raw",
        loghandlers=[],
    )
    _bring(app, topics, receivers, gather_seconds, end)
    return app


async def bring(
    app: faust.App,
    receivers: Sequence[Receiver],
    stop: threading.Event,
    end: Callable[[int], None] = os._exit,
) -> int:
    """Runs the application until `stop` is set; the exit status of the process.

    Whatever does not end in time is left behind: what a killed process was at is taken again, so waiting longer would
    gain nothing."""
    starting = asyncio.ensure_future(app.start())
    try:
        while not stop.is_set():
            failed = starting.done() and not starting.cancelled() and starting.exception()
            if failed or app.crashed or app.should_stop:
                logger.critical("faust ended group=%s error=%s", app.conf.id, type(failed or app.crash_reason).__name__)
                return EXIT_UNEXPECTED
            await asyncio.sleep(0.05)
        return 0
    finally:
        for receiver in receivers:
            receiver.stopping.set()
        overdue = threading.Timer(END_ANYWAY_SECONDS, end, [EXIT_UNEXPECTED if app.crashed else 0])
        overdue.daemon = True
        overdue.start()
        starting.cancel()
        try:
            await asyncio.wait_for(app.stop(), STOP_SECONDS)
        except Exception as failure:  # noqa: BLE001 - it ends all the same
            logger.warning("faust did not stop group=%s error=%s", app.conf.id, type(failure).__name__)


def _credentials(broker: Broker) -> CredentialsT | None:
    if not broker.username:
        return None
    return faust.SASLCredentials(
        username=broker.username,
        password=broker.password,
        ssl_context=broker.tls(),
        mechanism=SASL_MECHANISM,
    )


def _bring(
    app: faust.App,
    topics: Sequence[str],
    receivers: Sequence[Receiver],
    gather_seconds: float,
    end: Callable[[int], None],
) -> None:
    """What Faust brings waits in one place, whichever topic it came on, and all that waits is taken at once: under load a
    transaction carries many messages, without load each has its own."""
    waiting: asyncio.Queue[Any] = asyncio.Queue(MOST_AT_ONCE)

    async def bring(stream: Any) -> None:
        async for event in stream.noack().events():
            await waiting.put(event)

    for topic in topics:
        app.agent(
            app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"),
            name=f"bring-{topic}",
            concurrency=1,
        )(bring)

    @app.task  # type: ignore[untyped-decorator]
    async def take() -> None:
        while True:
            events = [await waiting.get()]
            await asyncio.sleep(gather_seconds)
            while len(events) < MOST_AT_ONCE and not waiting.empty():
                events.append(waiting.get_nowait())
            try:
                await asyncio.to_thread(_receive, receivers, [_message(event) for event in events])
            except Stopping:
                return
            except Exception as failure:  # noqa: BLE001 - see the module's docstring
                logger.critical("unexpected group=%s error=%s", app.conf.id, type(failure).__name__)
                end(EXIT_UNEXPECTED)
                return
            for event in events:
                event.ack()


def _receive(receivers: Sequence[Receiver], messages: Sequence[Message]) -> None:
    for receiver in receivers:
        followed = [message for message in messages if message.topic in receiver.topic_ids]
        if followed:
            receiver.receive(followed)


def _message(event: Any) -> Message:
    raw = event.message
    return Message(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key or b"",
        headers={name: value or b"" for name, value in dict(raw.headers or {}).items()},
        body=raw.value or b"",
    )
