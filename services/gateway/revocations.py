"""Which tokens and persons are refused before their time."""

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path


class Revocations:
    """Token ids and person ids that are refused until a given time, in one small SQLite file.

    A revoked person has every token refused and gets no new one. The answer comes from memory, because it is asked for on
    every request; the file is written first, so that what was confirmed as revoked stays so after a crash. One process
    writes it: the embedded node.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._now = now
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS revoked (subject TEXT PRIMARY KEY, until REAL NOT NULL)")
        self._until: dict[str, float] = dict(self._database.execute("SELECT subject, until FROM revoked"))

    def revoke(self, subject: str, until: datetime) -> None:
        """Refuse this token id, or everything of this person id, until then. A later time replaces an earlier one."""
        with self._lock:
            now = self._now().timestamp()
            self._database.execute("DELETE FROM revoked WHERE until <= ?", (now,))
            self._database.execute(
                "INSERT INTO revoked VALUES (?, ?) ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                (subject, until.timestamp()),
            )
            self._until = dict(self._database.execute("SELECT subject, until FROM revoked"))

    def is_revoked(self, *subjects: str) -> bool:
        """Whether any of these token and person ids is revoked now."""
        now = self._now().timestamp()
        return any(self._until.get(subject, now) > now for subject in subjects)

    def close(self) -> None:
        self._database.close()
