"""One server process of this machine with its folder: started, waited for, and broken in every way a test needs.

It listens on the loopback address alone, on ports chosen the first time its folder is used, and dies with the process that
started it, even if that one is killed.
"""

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import psutil  # type: ignore[import-untyped]

from deploy.certificates import LOOPBACK

# Below the ports from which systems pick those of outgoing connections: otherwise a client that tries to reach a stopped part
# could be given the part's own port, and talk to itself.
PORTS = range(15_000, 32_000)
POLL = 0.05  # seconds


class PartFailed(Exception):
    """A part did not start or did not stop; its log says why."""


@dataclass(frozen=True)
class Command:
    """How a part is run. `account` holds the arguments of `subprocess.run` that change its user."""

    arguments: Sequence[str | Path]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Mapping[str, Any] = field(default_factory=dict)


class Part(ABC):
    """One server process with its folder. Start it, then break it: stop, kill, pause and wipe are what tests are made of."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    start_timeout: ClassVar[float] = 60  # seconds; a loaded machine with one core takes long for a Java start
    stop_timeout: ClassVar[float] = 30
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    orphan_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._ports = _lasting_ports(self.folder / "ports.json", self.port_names)

    def start(self) -> Self:
        """Starts the part and returns when it answers.

        Raises `PartUnavailable` if its files cannot be had, `PartFailed` if it ends or stays silent.
        """
        if self.running:
            raise PartFailed(f"{self.name} in {self.folder} is running already")
        self._take_folder()
        try:
            self._process = self._spawn(self._prepare())
            self._guard = _guard(self._process.pid, self.orphan_signal)
            self._wait_until_it_answers(self._process)
        except BaseException:  # an interrupt too: a part that nobody holds could not be stopped
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ends the part in order; a paused one too. It is killed if it does not end in time. Does nothing if it does not run."""
        if self._process and self.running:
            self._process.send_signal(self.stop_signal)
            self.resume()
            try:
                self._process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._ended()

    def kill(self) -> None:
        """Ends all its processes at once, with nothing said or written: a crash."""
        self.pause()  # else a parent could still see its child die, and write about it
        self._signal(self._family(), signal.SIGKILL)
        if self._process:
            self._process.wait()
            self._ended()
            # Orphaned children are not ours to wait for, but the folder is free only when the last of them is gone.
            self._take_folder()
        self._ended()

    def pause(self) -> None:
        """Freezes all its processes: connections stay open, nothing answers."""
        self._signal(self._family()[:1], signal.SIGSTOP)  # first, so that it starts no more children
        self._signal(self._family(), signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        self._signal(self._family(), signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether the process is there, be it paused."""
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def address(self) -> dict[str, Any]:
        """Where and how to reach it, as JSON. May hold a password."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> Command:
        """Sees to it that everything lies in the folder that the process needs, and says how to run it."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether a client would be served."""

    def _take_folder(self) -> None:
        # The lock is handed down to the part, and so is held until the last of its processes is gone: those of a killed
        # owner may still be dying.
        self._lock = (self.folder / ".lock").open("w")
        deadline = time.monotonic() + self.stop_timeout
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._ended()
                    raise PartFailed(f"{self.folder} is in use: stop the {self.name} that runs there") from None
                time.sleep(POLL)

    def _spawn(self, command: Command) -> subprocess.Popen[bytes]:
        assert self._lock
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=command.folder,
                env={**os.environ, **command.environment},
                pass_fds=(self._lock.fileno(),),
                # A session of its own: an interrupt typed at the terminal reaches us, and we stop the parts in order.
                start_new_session=True,
                **command.account,
            )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            if process.poll() is not None:
                raise PartFailed(f"{self.name} ended with {process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise PartFailed(f"{self.name} did not answer for {self.start_timeout} s: {self._last_words()}")
            time.sleep(POLL)

    def _family(self) -> list[psutil.Process]:
        if not self._process or not self.running:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    @staticmethod
    def _signal(family: list[psutil.Process], number: signal.Signals) -> None:
        for process in family:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def _ended(self) -> None:
        if self._guard:
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin:
                self._guard.stdin.close()
            self._guard = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"the end of {self.log}:", *lines[-20:]])


def _guard(group: int, number: signal.Signals) -> subprocess.Popen[bytes]:
    """A process that ends the part as soon as ours is gone.

    It reads from a pipe whose other end only we hold. (The kernel's parent-death signal is tied to the thread that forked.)
    """
    script = 'read -r line; kill -s "$1" -- "-$0"; kill -s CONT -- "-$0"'
    command = ["/bin/sh", "-c", script, str(group), number.name.removeprefix("SIG")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _lasting_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Free ports, no two the same, chosen the first time a folder is used."""
    if not file.exists():
        file.write_text(json.dumps(dict(zip(names, _free_ports(len(names)), strict=True))))
    ports: dict[str, int] = json.loads(file.read_text())
    return ports


def _free_ports(count: int) -> list[int]:
    free: list[int] = []
    for port in random.SystemRandom().sample(PORTS, min(len(PORTS), 200)):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return free
    raise PartFailed(f"no {count} ports between {PORTS.start} and {PORTS.stop} are free on {LOOPBACK}")
