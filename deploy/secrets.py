"""Makes what the processes of `docker-compose.yml` keep from each other: passwords, keys and certificates, one file each.

`python -m deploy.secrets FOLDER` makes what is missing, leaves what is there as it is, and gives each file to the one user that
reads it. Run it as root, once before the first start, and again after a file was changed by hand. `--renew` makes a new authority
and new certificates; then restart everything.

Certificates of an authority of one's own are for an installation on one machine. Where there is a certificate authority already,
put its files in the same places.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.certificates import LOOPBACK, Authority
from deploy.kafka_access import ADMINISTRATOR, principals
from deploy.private import private_file
from events.key_file import SealingError, load_or_create_key_file
from services.migrate import ROLES

HAVEN, POSTGRESQL, KAFKA, KEYCLOAK = 10001, 999, 1000, 1000
"""Users of the images, by number; `docker-compose.yml` says the same of each process."""
DAYS = 90
AUTHORITY = "authority.pem"
SERVERS = {
    "postgresql": (POSTGRESQL, ("postgresql",)),
    "kafka": (KAFKA, ("kafka", "localhost", LOOPBACK)),
    "keycloak": (KEYCLOAK, ("keycloak.localhost", "localhost", LOOPBACK)),
}
"""Whose certificate is for which names."""


@dataclass(frozen=True)
class Secret:
    """A file, who owns it, and who else may read it: the group, if it is not the owner's own."""

    name: str
    owner: int
    group: int = -1

    @property
    def mode(self) -> int:
        return 0o600 if self.group == -1 else 0o640


def passwords() -> list[Secret]:
    """Every password of an installation. PostgreSQL's and Kafka's own users read those they set."""
    return [
        *(Secret(f"{role}_password", HAVEN, POSTGRESQL) for role in ROLES),
        *(Secret(f"{principal}_kafka_password", HAVEN) for principal in principals()),
        Secret(f"{ADMINISTRATOR}_kafka_password", HAVEN, KAFKA),
        Secret("postgres_password", POSTGRESQL),
        Secret("keycloak_admin_password", KEYCLOAK),
    ]


def server_files() -> list[Secret]:
    """Key and certificate of every server, each in one file of its own."""
    return [
        Secret(f"{server}_{kind}", owner) for server, (owner, _) in SERVERS.items() for kind in ("key", "certificate")
    ]


KEY_FILE = Secret("key-file", HAVEN)
PAGES_SECRET = Secret("pages_client_secret", HAVEN)
"""The pages' secret at the identity provider. That makes it up, so all that is made here is a place for it."""
NOTIFY_FILE = Secret("notify-file", HAVEN)
NOBODY_YET = """\
# Whom Haven rings, and where (docs/operations.md, Notifications). Nobody yet: write each organisation like this.
#
# [organisations.nl-coordinator]
# role = "coordinator"
# country = "NL"
# language = "nl"
# quiet_hours = "22:00-07:00"
# channels = { duty-phone = "...", mailbox = "..." }
"""


def make(folder: Path, give: Callable[[Path, int, int], None] = os.chown, *, renew: bool = False) -> list[str]:
    """Makes what is missing in the folder and gives every file to its reader; the names of what was made. `renew`: the
    certificates too, all of them, since the authority that signed the old ones signs nothing any more.

    Raises KeyFileRefused, or PermissionError when the caller may not give files away."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for secret in passwords():
        if not (folder / secret.name).exists():
            private_file(folder / secret.name, secrets.token_urlsafe(24))
            made.append(secret.name)
    if not (folder / KEY_FILE.name).exists():
        load_or_create_key_file(folder / KEY_FILE.name)
        made.append(KEY_FILE.name)
    if not (folder / PAGES_SECRET.name).exists():
        private_file(folder / PAGES_SECRET.name, "")
        made.append(PAGES_SECRET.name)
    if not (folder / NOTIFY_FILE.name).exists():
        private_file(folder / NOTIFY_FILE.name, NOBODY_YET)
        made.append(NOTIFY_FILE.name)
    if renew or not all((folder / name).exists() for name in (AUTHORITY, *(file.name for file in server_files()))):
        made += _make_certificates(folder)
    for secret in (*passwords(), KEY_FILE, PAGES_SECRET, NOTIFY_FILE, *server_files()):
        (folder / secret.name).chmod(secret.mode)
        give(folder / secret.name, secret.owner, secret.owner if secret.group == -1 else secret.group)
    (folder / AUTHORITY).chmod(0o644)  # a certificate, which everybody may see
    return made


def _make_certificates(folder: Path) -> list[str]:
    authority = Authority(DAYS)
    for server, (_, hosts) in SERVERS.items():
        issued = authority.issue(server, hosts)
        private_file(folder / f"{server}_key", issued.key)
        private_file(folder / f"{server}_certificate", issued.certificate)
    private_file(folder / AUTHORITY, authority.certificate)
    return [*(file.name for file in server_files()), AUTHORITY]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.secrets", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="docker-compose.yml looks in var/secrets")
    parser.add_argument("--renew", action="store_true", help="new certificates; everything has to be restarted then")
    chosen = parser.parse_args(arguments)
    try:
        made = make(chosen.folder, renew=chosen.renew)
    except PermissionError:
        sys.stderr.write("The files belong to the users of the containers, so only root can make them: use sudo.\n")
        return 1
    except SealingError as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    sys.stdout.write("".join(f"made {name}\n" for name in made) or "Nothing was missing.\n")
    if not (chosen.folder / PAGES_SECRET.name).read_text().strip():
        sys.stdout.write(
            f"{PAGES_SECRET.name} is empty, and until it is filled nobody can sign in to the pages: put the secret there that the "
            "identity provider has for the client haven-pages (deploy/keycloak/README.md).\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
