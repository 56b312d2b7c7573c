"""The scene that a new embedded node opens on: made whole or not at all (docs/adr/0031).

It is made in a folder beside the node's files, by the real services, on a clock that is led from yesterday to now. When it is whole
that folder gets its other name, in one step, and only then does the node take its files in (`DataDirectory`). Where there is a
database or a key already, nothing is ever added.
"""

import os
import shutil
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from events.key_file import RandomBytes, load_or_create_key_file, on_disk
from events.sealing import KeyStore, key_store_engine
from services.clock import Clock
from services.config import Settings
from services.node import SCENE_MADE, SCENE_MAKING, DataDirectory, Node
from simulation.scene.cast import Cast
from simulation.scene.life import Life
from simulation.scene.stories import STORIES

BEGINS_BEFORE = timedelta(hours=26)
"""Before now: the shelters' first reports, of which the late ones are overdue by now."""
FILES = ("key-file", "keys.sqlite", "gateway.sqlite", "placement.sqlite", "capacity.sqlite")
"""What a scene is made of. Logins and sessions are the node's own."""


def make_scene(
    settings: Settings,
    clock: Clock,
    said: Callable[[], object] = lambda: None,
    random_bytes: RandomBytes = os.urandom,
) -> bool:
    """Makes the scene in a new data directory; whether it did. In any other it does nothing. `said` is called when it begins.
    Raises DataDirectoryTaken and what a Node raises."""
    directory = DataDirectory(settings.data_dir)
    try:
        if any((directory.path / name).exists() for name in FILES):
            return False
        making = directory.path / SCENE_MAKING
        shutil.rmtree(making, ignore_errors=True)  # begun by a process that did not come to an end
        said()
        try:
            _play(
                msgspec.structs.replace(settings, data_dir=making, requests_per_minute=0, beds_at_once=0),
                clock(),
                random_bytes,
            )
            _keep(making, directory.path / SCENE_MADE)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
    finally:
        directory.release()
    return True


def keep_alive(node: Node, stop: threading.Event) -> threading.Thread:
    """The scene's people go on acting in a thread of their own until `stop` is set."""
    life = _life(node, Cast(node.app, node.settings.url, node.clock))
    thread = threading.Thread(target=life.run, args=(stop, node.clock), name="scene", daemon=True)
    thread.start()
    return thread


class LedNode:
    """A node without threads on a clock that is led, and the scene's people in it. With `ends` the scene is made that is whole by
    then; without, the one that is there is kept alive."""

    def __init__(self, settings: Settings, now: datetime, ends: datetime | None = None) -> None:
        self.now = now
        self.node = Node(settings, clock=lambda: self.now)
        cast = Cast(self.node.app, settings.url, self.node.clock)
        self.core = self.node.core
        self.life = _life(self.node, cast, ends)
        self._runners = (self.core.placement.runner, self.core.capacity.runner)
        for log in self.core.logs.values():
            sa.event.listen(log.engine, "checkout", _without_waiting_for_the_disk)
        # While somebody waits for the outcome of what they sent, the services get their turns.
        self.core.gateway_log.listeners.append(lambda: self.core.settle() if cast.stops_waiting() else None)

    def go_on(self, until: datetime) -> None:
        """Everything that is due by then, at its time."""
        while True:
            self.core.settle()
            while self.life.live(self.now):
                pass
            if self.now >= until:
                return
            moments = [moment for moment, _, _ in self.life.due(self.now)]
            moments += [due for runner in self._runners if (due := runner.next_due()) is not None]
            self.now = min((moment for moment in moments if self.now < moment < until), default=until)


def _life(node: Node, cast: Cast, ends: datetime | None = None) -> Life:
    core = node.core
    begin = None if ends is None else {story.name: ends - story.opened_ago for story in STORIES if story.opened_ago}
    seed = node.settings.inventory_seed
    return Life(cast, core.read_model, core.gateway_log, node.inventory, core.reference, seed, begin=begin)


def _play(settings: Settings, ends: datetime, random_bytes: RandomBytes) -> None:
    """Everything that happened until `ends`, in a folder of its own."""
    settings.data_dir.mkdir(mode=0o700)
    keys = KeyStore(
        key_store_engine(f"sqlite:///{settings.data_dir / 'keys.sqlite'}"),
        load_or_create_key_file(settings.data_dir / "key-file", random_bytes),
        random_bytes,
    )
    keys.create_schema()
    keys.digest_key("any")  # made with the first use
    keys.close()
    led = LedNode(settings, ends - BEGINS_BEFORE, ends)
    try:
        led.core.seed(led.node.inventory)
        led.go_on(ends)
    finally:
        led.node.stop()


def _without_waiting_for_the_disk(connection: Any, *_: Any) -> None:
    """A scene that is cut off is made again from its beginning."""
    connection.execute("PRAGMA synchronous=OFF")


def _keep(making: Path, made: Path) -> None:
    """From here on the scene is whole: its files are on the disk before their folder says so."""
    for left in making.iterdir():
        if left.name not in FILES:
            left.unlink()
    for path in (*(making / name for name in FILES), making):
        on_disk(path)
    making.rename(made)
    on_disk(made.parent)
