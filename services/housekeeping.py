"""Forgetting what nobody will ask for any more, every few minutes, whatever one chore does."""

import logging
import threading
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

EVERY_SECONDS = 300.0


def keep_house(chores: Sequence[Callable[[], object]], stop: threading.Event, every: float = EVERY_SECONDS) -> None:
    """Does every chore, then waits, until `stop` is set. One that fails keeps nothing from the others, and is tried again."""
    while not stop.wait(every):
        for chore in chores:
            try:
                chore()
            except Exception as failure:  # noqa: BLE001 - the next round may find the database again
                logger.warning("housekeeping failed error=%s", type(failure).__name__)
