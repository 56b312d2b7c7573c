"""What every gateway process must know about tokens at once: which are refused before their time, which proofs were used."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from events.log.engines import is_database_trouble, reading
from services.gateway.token_errors import TokenStoreUnavailable

metadata = sa.MetaData()

revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    # In the key: a later end is another row, so nothing is ever updated and no revocation can be shortened.
    sa.Column("until", sa.BigInteger, primary_key=True),
    comment="Token ids and person ids that are refused, until a moment in seconds since 1970.",
)

used_proofs = sa.Table(
    "used_proofs",
    metadata,
    sa.Column("proof", sa.Text, primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False, index=True),
    comment="DPoP proofs that were used, by their digests, until the moment in seconds since 1970 when they are too old anyway.",
)

KEPT_LONGER = timedelta(minutes=5)
"""A row outlives its use by this much: the process that forgets it may have a clock that much faster than another's."""


class TokenStore:
    """Revocations and used proofs in one database: PostgreSQL for as many gateways as there are, a SQLite file for the
    embedded node. What was confirmed survives a crash, and every answer is of this moment: nothing is cached.

    Raises `TokenStoreUnavailable` when the database cannot be asked: nobody is let through on a guess.
    """

    def __init__(self, engine: sa.Engine, now: Callable[[], datetime]) -> None:
        self.engine = engine
        self._now = now
        self._insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    def create_schema(self) -> None:
        """Makes the tables where nobody migrates (the embedded node)."""
        metadata.create_all(self.engine)

    def revoke(self, subject: str, until: datetime) -> None:
        """Refuse this token id, or everything of this person id, until then."""
        with self._writing() as connection:
            row = {"subject": subject, "until": math.ceil(until.timestamp())}
            connection.execute(self._insert(revocations).values(row).on_conflict_do_nothing())

    def is_revoked(self, *subjects: str) -> bool:
        """Whether any of these token and person ids is revoked now."""
        return bool(self.revoked_among(subjects))

    def revoked_among(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of these token and person ids that are revoked now."""
        now = self._now().timestamp()
        stands = sa.and_(revocations.c.subject.in_(subjects), revocations.c.until > now)
        with _closed_on_trouble(), reading(self.engine) as connection:
            return frozenset(connection.scalars(sa.select(revocations.c.subject).where(stands)))

    def is_first_use(self, proof: str, until: datetime) -> bool:
        """Whether nobody has used this proof before, in any process. Whoever is told so has used it up.

        The insert decides: of two at once one waits for the other's commit, and is the second. Should the answer of a
        commit get lost, the proof counts as used, and its sender makes a new one.
        """
        with self._writing() as connection:
            row = {"proof": proof, "until": math.ceil(until.timestamp())}
            insert = self._insert(used_proofs).values(row).on_conflict_do_nothing().returning(used_proofs.c.proof)
            return connection.execute(insert).first() is not None

    def forget_expired(self) -> None:
        """Drops what nobody will ask for any more; for the housekeeping of every process."""
        past = int((self._now() - KEPT_LONGER).timestamp())
        for table in (used_proofs, revocations):
            with self._writing() as connection:
                connection.execute(sa.delete(table).where(table.c.until < past))

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _closed_on_trouble(), self.engine.execution_options(haven_writes=True).begin() as connection:
            yield connection


@contextmanager
def _closed_on_trouble() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as failure:
        if is_database_trouble(failure):
            raise TokenStoreUnavailable from failure
        raise
