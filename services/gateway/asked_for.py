"""For how many beds each organisation has asked, and how often it was stopped: the same for all gateways, and after a restart.

One row for an organisation, and one statement that looks and takes: of two gateways that ask at once the second sees what the first took.
It is written when a request is opened or stopped, and by nothing else that is asked of a gateway.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from events.log.engines import reading, sqlite_engine

metadata = sa.MetaData()

asked_for = sa.Table(
    "asked_for",
    metadata,
    sa.Column("organisation", sa.Text, primary_key=True),
    sa.Column("country", sa.Text, nullable=False),
    sa.Column("beds", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("times_stopped", sa.Integer, nullable=False),
    sa.Column("stopped_at", sa.Double, nullable=False),
    comment="For how many beds each organisation has asked, as of a moment in seconds since 1970, and how often it was stopped.",
)

A_DAY = timedelta(days=1)


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation that asked for more beds than it may: how often, and when last."""

    organisation: str
    country: str
    times: int
    last: datetime


class AskedFor:
    """A bucket of beds for each organisation: what was taken comes back evenly over a day."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        on_postgresql = engine.dialect.name == "postgresql"
        self._insert = postgresql.insert if on_postgresql else sqlite.insert
        self._largest = sa.func.greatest if on_postgresql else sa.func.max

    @classmethod
    def in_memory(cls) -> "AskedFor":
        """For whoever is alone, and for no longer than it runs."""
        store = cls(sqlite_engine(":memory:"))
        store.create_schema()
        return store

    def create_schema(self) -> None:
        """Makes the table where nobody migrates (the embedded node)."""
        metadata.create_all(self._engine)

    def take(self, organisation: str, country: str, beds: int, size: int, now: datetime) -> float:
        """0 if there were enough, else the seconds until there will be; then nothing is taken, and that it was stopped is kept.
        Whoever asks for more than a whole bucket is let through when it is full: one household may be larger than what is left."""
        moment, rate, wanted = now.timestamp(), size / A_DAY.total_seconds(), min(beds, size)
        # A clock that was set back, or is another gateway's, makes nothing come back sooner.
        passed = self._largest(0.0, moment - asked_for.c.at)
        taken = self._largest(0.0, asked_for.c.beds - passed * rate)
        row = {"organisation": organisation, "country": country, "beds": beds, "at": moment}
        insert = self._insert(asked_for).values(row | {"times_stopped": 0, "stopped_at": 0})
        take = insert.on_conflict_do_update(
            index_elements=[asked_for.c.organisation],
            set_={"beds": taken + beds, "at": self._largest(asked_for.c.at, moment)},
            where=taken + wanted <= size,
        ).returning(asked_for.c.beds)
        again = asked_for.c.stopped_at >= moment - A_DAY.total_seconds()
        stop = (
            sa.update(asked_for)
            .where(asked_for.c.organisation == organisation)
            .values(times_stopped=sa.case((again, asked_for.c.times_stopped + 1), else_=1), stopped_at=moment)
            .returning(taken)
        )
        with self._writing() as connection:
            if connection.execute(take).first() is not None:
                return 0.0
            return float((connection.execute(stop).scalar_one() + wanted - size) / rate)

    def give_back(self, organisation: str, beds: int) -> None:
        ours = asked_for.c.organisation == organisation
        with self._writing() as connection:
            connection.execute(
                sa.update(asked_for).where(ours).values(beds=self._largest(0.0, asked_for.c.beds - beds))
            )

    def stopped(self, country: str, since: datetime) -> list[Stopped]:
        """Organisations of a country that were stopped since then."""
        query = (
            sa.select(asked_for)
            .where(asked_for.c.country == country, asked_for.c.stopped_at >= since.timestamp())
            .order_by(asked_for.c.organisation)
        )
        with reading(self._engine) as connection:
            return [
                Stopped(
                    organisation=row.organisation,
                    country=row.country,
                    times=row.times_stopped,
                    last=datetime.fromtimestamp(row.stopped_at, UTC),
                )
                for row in connection.execute(query)
            ]

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.execution_options(haven_writes=True).begin() as connection:
            yield connection
