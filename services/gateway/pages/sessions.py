"""Who is signed in at the pages: a cookie that says nothing, and a row that only this cookie opens.

The cookie holds 32 random bytes. The row is found by a digest of them, and what it says is sealed under a key derived from them:
whoever has the database can end a session and use none. No token ever reaches the browser.
"""

import base64
import hashlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from events.log.engines import reading
from services.code_flow import Flow
from services.gateway.feed import Listener
from services.gateway.principals import Principal

IDLE = timedelta(minutes=15)
"""A page that nobody touches is locked after this long: a phone is put down, a screen is left."""
LOCKED_FOR = timedelta(hours=1)
"""So long after it was locked a session still says whose the form is that comes from it, and opens nothing."""
LONGEST = timedelta(hours=10)
"""One duty. Then a person signs in again, whatever they did meanwhile."""
SIGNING_IN = timedelta(minutes=10)
"""How long the issuer's own pages may take."""
TOUCHED_EVERY = timedelta(seconds=20)
"""A row is not written for every page that is looked at."""

metadata = sa.MetaData()

page_sessions = sa.Table(
    "page_sessions",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, nullable=False, index=True),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("sealed", sa.Text, nullable=False),
    comment="Sessions of the pages, by a digest of their cookie; what is sealed only the cookie opens. Seconds since 1970.",
)


class KeptForm(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody sent when their sign-in was too old for it: shown to them again afterwards, never sent by itself."""

    path: str
    """Of the page it belongs to; no other page shows it."""
    fields: tuple[tuple[str, str], ...]
    person: str
    """Whose it is: to nobody else is it shown."""

    def __repr__(self) -> str:
        return "KeptForm()"


class Session(msgspec.Struct, kw_only=True):
    """What belongs to one cookie. Without a `principal` somebody is signing in."""

    csrf: str
    principal: Principal | None = None
    flow: Flow | None = None
    came_from: str = "/"
    """Where they wanted to go when they were sent to sign in."""
    replaces: str = ""
    """The session that ends when this sign-in has succeeded."""
    checked_at: int = 0
    """When the issuer last said that this person may still be here, in seconds since 1970."""
    id_token: str = ""
    kept: KeptForm | None = None
    is_wall: bool = False
    """Shows the wall and nothing else, and is not locked: there is nobody to touch it."""
    notices: list[str] = []
    once: dict[str, str] = {}
    """What one page left for the next view of another, such as how to undo what was just done."""

    def __repr__(self) -> str:
        return "Session()"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One of somebody's sessions, as they may see it."""

    session_id: str
    started_at: datetime
    seen_at: datetime


class Sessions:
    """The sessions of all gateways that share a database. `now` is real time."""

    def __init__(self, engine: sa.Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def create_schema(self) -> None:
        """Makes the table where nobody migrates (the embedded node)."""
        metadata.create_all(self._engine)

    def begin(self, session: Session) -> str:
        """A new cookie for this session."""
        cookie = secrets.token_urlsafe(32)
        now = self._seconds()
        lives = LONGEST if session.principal else SIGNING_IN
        row = {
            "session_id": session_id_of(cookie),
            "person": session.principal.person if session.principal else "",
            "started_at": now,
            "seen_at": now,
            "ends_at": now + int(lives.total_seconds()),
            "sealed": _seal(cookie, session),
        }
        with self._writing() as connection:
            connection.execute(sa.insert(page_sessions), row)
        return cookie

    def doubts(self, listeners: Sequence[Listener]) -> list[Listener]:
        """Whose session has ended while they listened, which is no use of it."""
        by_session = {one.session_id for one in listeners} - {""}
        if not by_session:
            return []
        query = sa.select(page_sessions.c.session_id).where(
            page_sessions.c.session_id.in_(by_session), self._lasts(self._seconds())
        )
        with reading(self._engine) as connection:
            ended = by_session - set(connection.scalars(query))
        return [one for one in listeners if one.session_id in ended]

    def find(self, cookie: str, *, is_touch: bool = True) -> Session | None:
        """The session of a cookie; None if it has ended, was idle for too long, or never was. `is_touch`: somebody does something
        there, and it is not a page that loads itself."""
        session_id, now = session_id_of(cookie), self._seconds()
        row = self._row(session_id)
        if row is None:
            return None
        session = _open(cookie, row.sealed)
        if session is not None and is_touch and now - row.seen_at >= TOUCHED_EVERY.total_seconds():
            self._change(session_id, seen_at=now)
        return session

    def locked(self, cookie: str) -> Session | None:
        """The session of a cookie that nobody touched for too long, or that has come to its end. It opens nothing: it only says
        whose the form is that was sent from it. None if somebody ended it, or after `LOCKED_FOR`."""
        since = self._seconds() - int(LOCKED_FOR.total_seconds())
        row = self._row(session_id_of(cookie), at=since)
        return _open(cookie, row.sealed) if row is not None else None

    def keep(self, cookie: str, session: Session) -> None:
        """Remembers what has changed in a session that is still there."""
        seen = {} if session.is_wall else {"seen_at": self._seconds()}
        self._change(session_id_of(cookie), sealed=_seal(cookie, session), **seen)

    def put_on_wall(self, cookie: str, session: Session) -> None:
        """From now on this session shows the wall, until its end and whether anybody touches it or not."""
        session.is_wall = True
        self._change(session_id_of(cookie), sealed=_seal(cookie, session), seen_at=page_sessions.c.ends_at)

    def end(self, cookie: str) -> None:
        self._delete(page_sessions.c.session_id == session_id_of(cookie))

    def end_one(self, person: str, session_id: str) -> None:
        """Ends another of somebody's own sessions."""
        self._delete((page_sessions.c.person == person) & (page_sessions.c.session_id == session_id))

    def end_all(self, person: str) -> None:
        """Signs somebody out everywhere."""
        self._delete(page_sessions.c.person == person)

    def of(self, person: str) -> list[Listed]:
        """Somebody's sessions, the newest first."""
        now = self._seconds()
        query = sa.select(page_sessions).where(page_sessions.c.person == person, page_sessions.c.ends_at > now)
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(page_sessions.c.started_at.desc())).all()
        return [
            Listed(
                session_id=row.session_id,
                started_at=datetime.fromtimestamp(row.started_at, self._now().tzinfo),
                seen_at=datetime.fromtimestamp(min(row.seen_at, now), self._now().tzinfo),
            )
            for row in rows
            if now - row.seen_at < IDLE.total_seconds()
        ]

    def forget_ended(self) -> None:
        """Drops what nobody can use any more; for the housekeeping of every process."""
        then = self._seconds() - int(LOCKED_FOR.total_seconds())
        self._delete((page_sessions.c.ends_at < then) | (page_sessions.c.seen_at < then - IDLE.total_seconds()))

    def _lasts(self, at: int) -> sa.ColumnElement[bool]:
        return (page_sessions.c.ends_at > at) & (page_sessions.c.seen_at > at - IDLE.total_seconds())

    def _row(self, session_id: str, at: int | None = None) -> Any:
        lasts = self._lasts(self._seconds() if at is None else at)
        query = sa.select(page_sessions).where(page_sessions.c.session_id == session_id, lasts)
        with reading(self._engine) as connection:
            return connection.execute(query).first()

    def _seconds(self) -> int:
        return math.floor(self._now().timestamp())

    def _change(self, session_id: str, **values: object) -> None:
        with self._writing() as connection:
            connection.execute(
                sa.update(page_sessions).where(page_sessions.c.session_id == session_id).values(**values)
            )

    def _delete(self, which: sa.ColumnElement[bool]) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(page_sessions).where(which))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.execution_options(haven_writes=True).begin() as connection:
            yield connection


def session_id_of(cookie: str) -> str:
    """Under which a cookie's session is found."""
    return hashlib.sha256(b"haven page session\0" + cookie.encode(errors="surrogatepass")).hexdigest()


def _key(cookie: str) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"haven page session, sealed")
    return AESGCM(derived.derive(cookie.encode(errors="surrogatepass")))


def _seal(cookie: str, session: Session) -> str:
    nonce = secrets.token_bytes(12)
    sealed = _key(cookie).encrypt(nonce, msgspec.json.encode(session), session_id_of(cookie).encode())
    return base64.b64encode(nonce + sealed).decode()


def _open(cookie: str, sealed: str) -> Session | None:
    """None for what another release sealed, or somebody changed: such a person signs in again."""
    try:
        raw = base64.b64decode(sealed)
        opened = _key(cookie).decrypt(raw[:12], raw[12:], session_id_of(cookie).encode())
        return msgspec.json.decode(opened, type=Session)
    except (InvalidTag, ValueError):
        return None
