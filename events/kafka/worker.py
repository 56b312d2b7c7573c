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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from faust.types.auth import CredentialsT

from events.kafka.connection import SASL_MECHANISM, Broker
from events.kafka.receiver import COMPANY_SECONDS, Receiver, Stopping
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
    host that never returns. `gather_seconds` is how long the first pressing message waits for others of its transaction.
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
    """What Faust brings waits in one place for each receiver, whichever topic it came on, and all that waits is taken at once:
    under load a transaction carries many messages, without load each that somebody acts on has its own."""
    waiting = [_Waiting(receiver, gather_seconds) for receiver in receivers]

    async def bring(stream: Any) -> None:
        async for event in stream.noack().events():
            message = _message(event)
            takers = [one for one in waiting if message.topic in one.receiver.topic_ids]
            brought = _Brought(event, message, len(takers))
            for one in takers:
                await one.add(brought)

    for topic in topics:
        app.agent(
            app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"),
            name=f"bring-{topic}",
            concurrency=1,
        )(bring)

    async def take(waiting: _Waiting) -> None:
        while True:
            run = await waiting.next_run()
            try:
                await asyncio.to_thread(waiting.receiver.receive, [brought.message for brought in run])
            except Stopping:
                return
            except Exception as failure:  # noqa: BLE001 - see the module's docstring
                logger.critical("unexpected group=%s error=%s", app.conf.id, type(failure).__name__)
                end(EXIT_UNEXPECTED)
                return
            for brought in run:
                brought.taken()

    @app.task  # type: ignore[untyped-decorator]
    async def take_all() -> None:
        await asyncio.gather(*map(take, waiting))


@dataclass
class _Brought:
    """A message, and how many receivers have not taken it yet."""

    event: Any
    message: Message
    takers: int

    def taken(self) -> None:
        self.takers -= 1
        if not self.takers:
            self.event.ack()


class _Waiting:
    """What was brought and a receiver has not taken yet."""

    def __init__(self, receiver: Receiver, gather_seconds: float) -> None:
        self.receiver = receiver
        self._gather_seconds = gather_seconds
        self._queue: asyncio.Queue[_Brought] = asyncio.Queue(MOST_AT_ONCE)
        self._is_time = asyncio.Event()

    async def add(self, brought: _Brought) -> None:
        await self._queue.put(brought)
        if self._queue.full() or self.receiver.is_pressing(brought.message):
            self._is_time.set()

    async def next_run(self) -> list[_Brought]:
        """All that waits, soon after something pressing has come, or when what is not has waited long enough."""
        run = [await self._queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(COMPANY_SECONDS):
                await self._is_time.wait()
        await asyncio.sleep(self._gather_seconds)
        self._is_time.clear()
        while len(run) < MOST_AT_ONCE and not self._queue.empty():
            run.append(self._queue.get_nowait())
        if not self._queue.empty():
            self._is_time.set()
        return run


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
