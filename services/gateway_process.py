"""The gateway of the distributed runtime: HTTP in front of its own log and the read model. It never speaks to Kafka. The live
streams are a process of their own, so that whoever only listens keeps nobody waiting; it opens nothing sealed.

Several may serve the same people: all they share is in PostgreSQL. With an external issuer it signs nobody in; without one it
brings the demo sign-in, for this machine only.
"""

import logging
from uuid import uuid4

from events.key_file import KeyEncryptionKeys, load_key_file
from events.log.hints import READ_MODEL, Announcer, log_channel, pass_on
from events.log.store import EventLog
from events.sealing import KeyStore
from reference import load
from services.clock import clock_of, real_time
from services.config import Settings
from services.connections import engine_of
from services.gateway import stream
from services.gateway.alert_routes import set_aside_on_postgresql
from services.gateway.api import RULES_WITHOUT_STREAM, create_app
from services.gateway.asked_for import AskedFor
from services.gateway.feed import Feed, revoked
from services.gateway.identity import demo_identity, external_identity
from services.gateway.intake import Intake
from services.gateway.lateness import Lateness
from services.gateway.limits import Limits
from services.gateway.pages import PAGES_WITHOUT_STREAM, add_pages, live
from services.gateway.pages.sessions import Sessions
from services.gateway.read_model import ReadModel
from services.gateway.ringing import ringing_in
from services.gateway.routing import Gateway
from services.gateway.token_store import TokenStore
from services.housekeeping import keep_house
from services.migrate import latest
from services.node import demo_accounts
from services.operated import Threads
from services.operations.health import clock_reasons
from simulation.inventory import synthetic_inventory

logger = logging.getLogger(__name__)


class GatewayProcess:
    """One gateway process, or one for the live streams alone; raises BadSetting, SchemaMismatch, KeyFileRefused or KeyFileMismatch
    when it must not serve."""

    def __init__(self, settings: Settings, *, only_streams: bool = False) -> None:
        self.settings = settings
        self.only_streams = only_streams
        self.threads = Threads()
        self.clock = clock_of(settings)
        kind = "stream" if only_streams else "gateway"
        key_file = KeyEncryptionKeys({}) if only_streams else load_key_file(settings.secret_file("key-file"))
        keys = KeyStore(engine_of(settings, kind, "keys", "keys"), key_file)
        if not only_streams:
            keys.verify_key_file()
        self.log = EventLog(engine_of(settings, kind, "log"), "gateway", latest())
        read_model = ReadModel(self.log.engine)
        reference = load()
        intake = Intake(self.log, keys, read_model, self.clock)
        store = TokenStore(self.log.engine, real_time)
        countries = reference.countries.keys()
        if settings.issuer:
            identity = external_identity(settings, countries, store, real_time)
        else:
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            accounts = demo_accounts(synthetic_inventory(settings.inventory_seed, reference))
            identity = demo_identity(settings, accounts, countries, store, real_time)
        self._identity = identity
        lateness = Lateness(read_model, self.log)
        self.gateway = Gateway(
            log=self.log,
            intake=intake,
            read_model=read_model,
            keys=keys,
            reference=reference,
            verifier=identity.verifier,
            clock=self.clock,
            new_id=lambda: str(uuid4()),
            limits=Limits(settings.requests_per_minute, settings.beds_at_once, self.clock, AskedFor(self.log.engine)),
            feed=Feed(read_model, self.log, lateness),
            lateness=lateness,
            set_aside=set_aside_on_postgresql(self.log.engine),
            ringing=ringing_in(self.log.engine, real_time),
        )
        self.gateway.feed.doubts.append(revoked(store.revoked_among))
        rules, pages = (stream.RULES, live.PAGES) if only_streams else (RULES_WITHOUT_STREAM, PAGES_WITHOUT_STREAM)
        others = () if only_streams else identity.blueprints
        self.app = create_app(self.gateway, settings.url, self.ready, *others, rules=rules)
        self.sessions = Sessions(self.log.engine, real_time)
        add_pages(self.app, self.gateway, identity, self.sessions, settings, real_time, pages=pages)

    def start(self) -> None:
        announcer = Announcer(self.log.engine, log_channel("gateway"))
        self.threads.start("announcer", announcer.run)

        def somebody_else_moved() -> None:
            for tell in tuple(self.log.listeners):
                if tell is not announcer:
                    tell()

        self.log.listeners.append(announcer)
        engine = self.log.engine
        self.threads.start("hints", lambda stop: pass_on(engine, READ_MODEL, [somebody_else_moved], stop))
        if self.only_streams:
            return
        chores = (
            lambda: self.gateway.intake.forget_old_keys(self.clock()),
            self._identity.store.forget_expired,
            self.sessions.forget_ended,
        )
        self.threads.start("housekeeping", lambda stop: keep_house(chores, stop))

    def stop(self) -> None:
        self.threads.join()

    def ready(self) -> dict[str, str]:
        """Why this gateway cannot serve now; empty when it can."""
        reasons = self.threads.ended() | clock_reasons(self.log.engine)
        try:
            self.log.head()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the answer is that it cannot serve
            reasons["database"] = f"cannot be used ({type(failure).__name__}); see that PostgreSQL answers"
        if unready := self._identity.unready():
            reasons["sign-in"] = unready
        return reasons
