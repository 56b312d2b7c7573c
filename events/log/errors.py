"""What the log refuses. Messages carry ids and never what an event says."""

from collections.abc import Iterable

from events.envelope import LARGEST_RECORD, Event


class LogError(Exception):
    """Root of what the log refuses.

    LogError
     +-- StreamConflict   somebody else appended first: read the stream again and decide again
     +-- DuplicateEvent   this very event is in the log already: nothing more to do
     +-- EventTooLarge    no broker would take it, and everything behind it in the log would wait for ever
     +-- OthersWrite      another process does not let go of what has to be had alone
    """


class StreamConflict(LogError):
    def __init__(self, streams: Iterable[str]) -> None:
        self.streams = tuple(dict.fromkeys(streams))
        super().__init__(f"another append came first on {', '.join(self.streams)}; read again and decide again")


class DuplicateEvent(LogError):
    """`event_ids` is everything the refused append held; at least one of them is in the log."""

    def __init__(self, event_ids: Iterable[str]) -> None:
        self.event_ids = tuple(event_ids)
        super().__init__(f"already in the log, or twice in one append: {', '.join(self.event_ids)}")


class EventTooLarge(LogError):
    def __init__(self, event: Event, size: int) -> None:
        super().__init__(
            f"event {event.id} on {event.stream} would be {size} bytes long, and {LARGEST_RECORD} can be published; nothing was "
            "appended, and whoever made it that long has to say less"
        )


class OthersWrite(LogError):
    def __init__(self, source: str) -> None:
        super().__init__(
            f"what is written beside the log of {source} is in another process's hands: let it finish, or stop it, and try again"
        )


class NestedWrite(RuntimeError):
    """A thread asked for a second write transaction inside its first; it would wait for itself for ever."""

    def __init__(self, source: str) -> None:
        super().__init__(f"this thread is writing to the log of {source} already; use that transaction")
