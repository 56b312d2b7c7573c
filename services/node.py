"""The embedded node: every service in one process on SQLite files. The composition root; it decides nothing.

Each service has its own database and its own thread; they hear each other only through their logs, exactly as the
distributed runtime will let them through Kafka.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from flask import Flask

from events.key_file import load_or_create_key_file, on_disk
from events.log.engines import sqlite_engine
from events.log.follower import Follower
from events.log.inbox import Consumer
from events.log.store import EventLog
from events.sealing import KeyStore, key_store_engine
from reference import Reference, load
from services.capacity.worker import CapacityWorker
from services.clock import Clock, clock_of, real_time
from services.config import Settings
from services.gateway.alert_routes import set_aside_in_node
from services.gateway.api import create_app
from services.gateway.asked_for import AskedFor
from services.gateway.authorization_server import refuse_when_external
from services.gateway.erasure import Eraser
from services.gateway.feed import Feed, revoked
from services.gateway.identity import demo_identity
from services.gateway.intake import Intake
from services.gateway.lateness import Lateness
from services.gateway.limits import Limits
from services.gateway.pages import add_pages
from services.gateway.pages.sessions import Sessions
from services.gateway.principals import GUESTS, Account, demo_principals
from services.gateway.projection import Projection
from services.gateway.read_model import ReadModel
from services.gateway.ringing import ringing_in
from services.gateway.routing import Gateway
from services.gateway.token_store import TokenStore
from services.gateway.views import open_asks
from services.housekeeping import keep_house
from services.notifications.addresses import load_organisations
from services.notifications.notifier import Notifier
from services.notifications.queue import RingQueue
from services.placement.worker import PlacementWorker
from services.seeding import seed
from simulation.inventory import SyntheticUnit, synthetic_inventory

logger = logging.getLogger(__name__)

SCENE_MAKING, SCENE_MADE = ".scene-making", ".scene-made"
"""Folders of a scene (services/first_look.py): one that is not whole, and one that the node has yet to take in."""

READY_LAG = 1000
"""Events the read model may be behind before the node says it is not ready."""


class DataDirectoryTaken(Exception):
    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"{data_dir} is in use by another Haven node. Stop that one, or set HAVEN_DATA_DIR to another directory."
        )


class DataDirectory:
    """The node's files, held by one process at a time. The lock goes with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DataDirectoryTaken(path) from None
        self._take_scene_in()

    def _take_scene_in(self) -> None:
        """Before anybody opens a database. What a crash left in the middle of it goes on here: some files are there already."""
        made = self.path / SCENE_MADE
        if made.exists():
            for file in made.iterdir():
                file.rename(self.path / file.name)
            on_disk(self.path)
            made.rmdir()

    def database(self, name: str) -> sa.Engine:
        file = self.path / f"{name}.sqlite"
        file.touch(mode=0o600)
        return sqlite_engine(str(file))

    def release(self) -> None:
        os.close(self._lock)


class Core:
    """The three services on their logs, without HTTP and without threads: what the node, the simulation and the tests
    share. `engine` gives each service its own database."""

    def __init__(self, engine: Callable[[str], sa.Engine], keys: KeyStore, reference: Reference, clock: Clock) -> None:
        self.reference = reference
        self.clock = clock
        self.keys = keys
        self.gateway_log = EventLog(engine("gateway"), "gateway")
        self.placement_log = EventLog(engine("placement"), "placement")
        self.capacity_log = EventLog(engine("capacity"), "capacity")
        self.gateway_log.create_schema()
        self.placement = PlacementWorker(self.placement_log, reference, clock)
        self.capacity = CapacityWorker(self.capacity_log, reference, clock)
        self.projection = Projection(self.gateway_log)
        self.eraser = Eraser(self.gateway_log, keys)
        self.read_model = ReadModel(self.gateway_log.engine)
        self.intake = Intake(self.gateway_log, keys, self.read_model, clock)
        logs = self.logs
        self.followers = [
            self._follow(self.placement.consumer, ("gateway", "capacity"), self.placement.pass_time),
            self._follow(self.capacity.consumer, ("gateway", "placement"), self.capacity.pass_time),
            self._follow(self.projection.consumer, tuple(logs)),
            self._follow(self.eraser.consumer, ("placement",)),
        ]

    @property
    def logs(self) -> dict[str, EventLog]:
        return {"gateway": self.gateway_log, "placement": self.placement_log, "capacity": self.capacity_log}

    @property
    def consumers(self) -> list[Consumer]:
        return [follower.consumer for follower in self.followers]

    def settle(self) -> None:
        """Works until nothing is left to do at this moment of the clock; for tests and simulations, without threads."""
        while sum(follower.step() for follower in self.followers):
            pass

    def close(self) -> None:
        """Gives the databases back; whoever comes last leaves them without a journal."""
        for log in self.logs.values():
            log.engine.dispose()
        self.keys.close()

    def seed(self, inventory: Sequence[SyntheticUnit]) -> None:
        """Registers the synthetic units and their first report; a second time, or after a crash, adds what is missing."""
        seed(self.gateway_log, inventory, self.clock())

    def _follow(
        self,
        consumer: Consumer,
        sources: Sequence[str],
        pass_time: Callable[[datetime], bool] = lambda _now: False,
    ) -> Follower:
        logs: Mapping[str, EventLog] = self.logs
        return Follower(consumer, {source: logs[source] for source in sources}, self.clock, pass_time)


class Node:
    """The embedded node: the core, its HTTP face with the demo sign-in, and the threads that keep it going."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        refuse_when_external(settings.issuer)
        self.settings = settings
        reference = load()
        organisations = load_organisations(settings, reference.countries) if settings.notify_file else {}
        self.directory = DataDirectory(settings.data_dir)
        self.clock = clock or clock_of(settings)
        keys = KeyStore(
            key_store_engine(f"sqlite:///{settings.data_dir / 'keys.sqlite'}"),
            load_or_create_key_file(settings.data_dir / "key-file"),
        )
        keys.create_schema()
        keys.verify_key_file()
        self.core = Core(self.directory.database, keys, reference, self.clock)
        self.inventory = synthetic_inventory(settings.inventory_seed, reference)
        self.accounts = demo_accounts(self.inventory)
        self.app = self._app(reference)
        self._stop = threading.Event()
        self._caught_up_once = False
        self._threads = [
            threading.Thread(target=follower.run, args=(self._stop,), name=follower.consumer.name, daemon=True)
            for follower in self.core.followers
        ]
        chores = (
            lambda: self.core.intake.forget_old_keys(self.clock()),
            self._token_store.forget_expired,
            self.sessions.forget_ended,
            self.core.projection.forget_changes,
        )
        self._threads.append(
            threading.Thread(target=keep_house, args=(chores, self._stop), name="housekeeping", daemon=True)
        )
        self.notifier: Notifier | None = None
        if settings.notify_file:
            queue = RingQueue(self.core.gateway_log.engine)
            self.notifier = Notifier(queue, organisations, reference.clocks, settings.url, self.clock, real_time)
            self._threads.append(
                threading.Thread(target=self.notifier.run, args=(self._stop,), name="notifications", daemon=True)
            )

    def start(self) -> None:
        """Seeds a new data directory and starts the services."""
        for consumer in self.core.consumers:
            consumer.retry_parked()
        self.core.seed(self.inventory)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets every service finish what it is at; nothing acknowledged depends on it."""
        self._stop.set()
        for follower in self.core.followers:
            follower.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
        self._token_store.close()
        self.core.close()
        self.directory.release()

    def guests(self) -> list[Account]:
        """The accounts a visitor is led to. The shelter among them is one that is asked something, if any is."""
        accounts = {account.username: account for account in self.accounts}
        return [accounts[self._asked(name)] for name in GUESTS if name in accounts]

    def _asked(self, guest: str) -> str:
        if not guest.endswith("-staff"):
            return guest
        views = self.core.read_model.requests_with_open_asks([f"coordinator:{guest[:2].upper()}"])
        asks = [ask for view in views for ask in open_asks(view)]
        staff = [
            f"{ask['shelter_id']}-staff" for ask in sorted(asks, key=lambda ask: str(ask["deadline"]), reverse=True)
        ]
        return next((name for name in staff if name.startswith(guest[:2])), guest)

    def ready(self) -> dict[str, str]:
        """Why the node is not ready; empty when it is."""
        reasons = {}
        lags = {follower: follower.lag() for follower in self.core.followers}
        # What was there at the start is shown before anybody is told that the node is ready.
        self._caught_up_once = self._caught_up_once or not any(lags.values())
        for follower, lag in lags.items():
            if lag > (READY_LAG if self._caught_up_once else 0):
                reasons[follower.consumer.name] = f"{lag} events behind"
            if follower.problem:
                reasons[f"{follower.consumer.name} stopped"] = follower.problem
            if parked := follower.consumer.parked():
                reasons[f"{follower.consumer.name} parked"] = f"{len(parked)} events wait for an upgrade or a repair"
        if self.notifier is not None:
            reasons |= self.notifier.ready()
        dead = [thread.name for thread in self._threads if self._started(thread) and not thread.is_alive()]
        if dead:
            reasons["stopped"] = ", ".join(dead)
        return reasons

    def _started(self, thread: threading.Thread) -> bool:
        return thread.ident is not None and not self._stop.is_set()

    def _app(self, reference: Reference) -> Flask:
        self._token_store = store = TokenStore(self.directory.database("tokens"), real_time)
        store.create_schema()
        asked_for = AskedFor(store.engine)
        asked_for.create_schema()
        identity = demo_identity(self.settings, self.accounts, reference.countries.keys(), store, real_time)
        self.logins = identity.logins
        lateness = Lateness(self.core.read_model, self.core.gateway_log)
        self.gateway = Gateway(
            log=self.core.gateway_log,
            intake=self.core.intake,
            read_model=self.core.read_model,
            keys=self.core.keys,
            reference=reference,
            verifier=identity.verifier,
            clock=self.clock,
            new_id=lambda: str(uuid4()),
            limits=Limits(self.settings.requests_per_minute, self.settings.beds_at_once, self.clock, asked_for),
            feed=Feed(self.core.read_model, self.core.gateway_log, lateness),
            lateness=lateness,
            set_aside=set_aside_in_node(self.core.consumers),
            ringing=ringing_in(self.core.gateway_log.engine, real_time),
        )
        self.gateway.feed.doubts.append(revoked(store.revoked_among))
        app = create_app(self.gateway, self.settings.url, self.ready, *identity.blueprints)
        self.sessions = Sessions(store.engine, real_time)
        self.sessions.create_schema()
        self.site = add_pages(app, self.gateway, identity, self.sessions, self.settings, real_time, self.guests)
        return app


def demo_accounts(inventory: Sequence[SyntheticUnit]) -> list[Account]:
    shelters = {unit.profile.shelter_id: unit.profile.country for unit in inventory}
    return demo_principals(sorted(shelters.items()))
