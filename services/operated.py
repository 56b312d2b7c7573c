"""What every process has beside its work: threads that end together, log lines, counters, traces, and a port for its operator."""

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from events.log.inbox import Consumer
from events.log.store import EventLog
from services.config import Settings
from services.operations.health import OperationsServer
from services.operations.logs import configure_logging
from services.operations.metrics import Work, registry
from services.operations.tracing import Tracer, configure_tracing

STOP_SECONDS = 5.0

Ready = Callable[[], Mapping[str, str]]


class Threads:
    """The threads of a process that run until it stops, and which of them did not."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, target: Callable[[threading.Event], None]) -> None:
        thread = threading.Thread(target=target, args=(self.stop,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def ended(self) -> dict[str, str]:
        """Those that ended by themselves: a bug, and a reason to start the process again."""
        if self.stop.is_set():
            return {}
        return {thread.name: "stopped; restart the process" for thread in self._threads if not thread.is_alive()}

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)


@dataclass
class Watch:
    """Where a process shows what it does."""

    metrics: CollectorRegistry
    tracer: Tracer
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        self.work = Work(self.metrics)

    def log(self, log: EventLog) -> None:
        """Counts and traces what is appended to a log."""
        self.work.watch_log(log)
        self.tracer.watch_log(log)

    def consumer(self, consumer: Consumer) -> None:
        """Counts and traces what a consumer handles."""
        self.work.watch_consumer(consumer)
        self.tracer.watch_consumer(consumer)


@contextmanager
def operated(process: str, settings: Settings, ready: Ready) -> Iterator[Watch]:
    """Log lines as JSON, and the operator's port open, for as long as the process works. Raises OperationsPortTaken or
    BadEndpoint."""
    configure_logging(process)
    metrics = registry()
    watch = Watch(metrics, configure_tracing(process, settings.otlp_endpoint, metrics))
    server = None
    if settings.operations_port:
        server = OperationsServer(settings.operations_port, ready, metrics, settings.operations_host)
        server.start()
    # What is loaded stays: looking through it for garbage, again and again, stops every thread for tens of milliseconds.
    gc.freeze()
    try:
        yield watch
    finally:
        watch.tracer.stop()
        if server:
            server.stop()
