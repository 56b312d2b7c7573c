"""A connection to PostgreSQL that does not wait for ever.

The server's own time limits do not help when it is the server that is frozen (a paused machine, a disk that hangs): its
kernel goes on acknowledging, so no network time-out ends the wait, and every thread of every process would hang in it.
"""

from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus


class ImpatientConnection(psycopg.Connection[Any]):
    """Gives up, and closes, when an answer takes longer than `answer_within` seconds. What was sent is in doubt then."""

    answer_within: float | None = None

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_within if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # it has been asked, and has not answered
                self.pgconn.finish()
            raise
