"""The process that rings people: the way out for messages, on PostgreSQL. It speaks to no broker, and knows no case.

Two may run; each message is sent by one of them.
"""

import logging
import signal
import threading
from types import FrameType

from events.log.engines import is_database_trouble
from events.log.schema import verify_version
from reference import load
from services.clock import clock_of, real_time
from services.config import BadSetting, Settings
from services.connections import engine_of
from services.migrate import latest
from services.notifications.addresses import SETTING, Organisation, load_organisations
from services.notifications.channels import NotTaken
from services.notifications.notifier import Notifier, ring_now
from services.notifications.queue import RingQueue
from services.notifications.rules import Message
from services.operated import Threads, Watch
from services.operations.doctor import why_no_database
from services.operations.health import clock_reasons
from services.operations.ring_metrics import watch_notifier

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


def organisations_of(settings: Settings) -> dict[str, Organisation]:
    """Whom the operator's file names. Raises BadSetting, also when there is no file."""
    if not settings.notify_file:
        raise BadSetting(SETTING, "is missing; name the file that says whom to ring (docs/operations.md).")
    return load_organisations(settings, load().countries)


class NotifyProcess:
    """One such process; raises BadSetting when it must not run."""

    def __init__(self, settings: Settings) -> None:
        if not settings.public_url:
            raise BadSetting("HAVEN_PUBLIC_URL", "is missing; a message leads there.")
        self.settings = settings
        self.threads = Threads()
        self.engine = engine_of(settings, "notify", "rings")
        self.waits_for = "starting"
        self.notifier = Notifier(
            RingQueue(self.engine),
            organisations_of(settings),
            load().clocks,
            settings.url,
            clock_of(settings),
            real_time,
        )

    def run(self, watch: Watch) -> int:
        """Rings until SIGTERM or SIGINT; the exit status. Raises SchemaMismatch."""
        watch_notifier(watch.metrics, self.notifier, self.notifier.clock)

        def tell(_signal: int, _frame: FrameType | None) -> None:
            # In a thread of its own: this handler may have interrupted the very lock that setting the event takes.
            threading.Thread(target=self.threads.stop.set, daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, tell)
        if self._until_the_tables_are_there():
            self.notifier.run(self.threads.stop)
        return 0

    def ready(self) -> dict[str, str]:
        """Why nobody is rung now; empty when people are."""
        if self.waits_for:
            return {"start": self.waits_for}
        return clock_reasons(self.engine) | self.notifier.ready()

    def _until_the_tables_are_there(self) -> bool:
        stop = self.threads.stop
        while not stop.is_set():
            try:
                verify_version(self.engine, latest())
            except Exception as failure:
                if not is_database_trouble(failure):
                    raise
                self.waits_for = f"the database cannot be used: {why_no_database(self.engine.url, failure)}"
                logger.warning("cannot start yet client=%s error=%s", "notify", type(failure).__name__)
                stop.wait(RETRY_SECONDS)
                continue
            self.waits_for = ""
            return True
        return False


def send_tests(settings: Settings, name: str) -> list[tuple[str, str]]:
    """Sends a test to every channel of an organisation: each channel and why it did not take it; empty when it did. Raises
    BadSetting."""
    known = organisations_of(settings)
    if name not in known:
        raise BadSetting(SETTING, f"names no organisation {name}; it names {', '.join(known) or 'nobody'}.")
    outcomes = []
    for channel, address in known[name].channels.items():
        try:
            ring_now(known[name], address, Message.TEST, settings.url)
            outcomes.append((channel, ""))
        except NotTaken as refused:
            outcomes.append((channel, str(refused)))
    return outcomes
