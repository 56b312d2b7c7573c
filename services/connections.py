"""How many connections to PostgreSQL one process may hold, by its kind and under which role.

Counted by its threads: each that keeps a connection for good (who announces commits, who listens for them, who leads a log), and as
many as there is use for at one moment. Whoever finds all of them in use waits, five seconds at the most, and then it is trouble of the
database. Nobody waits who holds one: no thread takes a second connection of one pool. More connections than this would make nothing
faster: they would wait in the server instead.

The limits of the roles (deploy/postgres/roles.sql) follow from this.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from events.kafka.layout import SOURCES
from events.log.engines import postgresql_engine

if TYPE_CHECKING:
    from services.config import Settings

AT_ONCE = 4
"""Processes of each kind the roles' limits have room for: two of each, and in a rolling restart as many beside them."""
HEADROOM = 1.25
"""Of that, for the commands of operators (`haven doctor`, `rebuild`, `dead-letters`) and for sessions of processes that just died."""


@dataclass(frozen=True)
class Pool:
    """The connections of one process under one role for one purpose."""

    role: str
    most: int


POOLS: Mapping[str, Mapping[str, Pool]] = {
    # Announcer and hints for good; 32 threads serve people, but each needs the database for milliseconds of its time.
    "gateway": {"log": Pool("haven_gateway", 10), "keys": Pool("haven_gateway", 4)},
    # The same two for good; the feed, who comes in, whether whoever listens still may, the operator's port.
    "stream": {"log": Pool("haven_gateway", 6), "keys": Pool("haven_gateway", 1)},
    # Announcer for good; one takes messages; timers, sweep, watchdog, the operator's port.
    "placement": {"log": Pool("haven_placement", 6)},
    "capacity": {"log": Pool("haven_capacity", 6)},
    # The same with housekeeping for timers. Who destroys keys is whoever takes messages, or the sweep.
    "projection": {"log": Pool("haven_projection", 6), "keys": Pool("haven_eraser", 2)},
    # Of each log: its leader, or who waits to lead, for good; the operator's port.
    "relay": {source: Pool("haven_relay", 2) for source in SOURCES},
    # Who looks, who writes down what became of a message, the operator's port.
    "notify": {"rings": Pool("haven_notifier", 3)},
}


def most_of(kind: str, role: str) -> int:
    """How many connections one process of a kind may hold under a role; 0 if it is no process of ours."""
    return sum(pool.most for pool in POOLS.get(kind, {}).values() if pool.role == role)


def engine_of(settings: "Settings", kind: str, purpose: str, schema: str | None = None) -> sa.Engine:
    """The engine of a process for one of its purposes, in `schema` or wherever its role's search path leads. Raises BadSetting.

    On the server its sessions have the process's name, by which `haven doctor` counts processes."""
    pool = POOLS[kind][purpose]
    # The number before the name: the server cuts what is longer than 63 bytes.
    name = f"haven {kind} {os.getpid()} {settings.worker}"
    url = settings.database_url(pool.role).update_query_dict({"application_name": name})
    return postgresql_engine(url, schema, connections=pool.most)
