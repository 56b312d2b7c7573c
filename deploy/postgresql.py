"""Preparing a PostgreSQL for Haven as its administrator: the database, the roles, their passwords.

The administrator's part ends here: from then on `haven migrate` works as haven_migrator, and every process under its own role.
"""

from collections.abc import Mapping
from pathlib import Path

import psycopg
import sqlalchemy as sa
from psycopg import sql

ROLES = Path(__file__).parent / "postgres" / "roles.sql"


def prepare(admin_url: str, passwords: Mapping[str, str], database: str = "haven") -> sa.URL:
    """Makes what is missing and sets the given passwords; the URL of the database, without a user. Repeatable.

    The server never sees a password: what is sent is the SCRAM verifier made from it (RFC 5803), as psql does.
    """
    url = sa.make_url(admin_url)
    with _connect(url) as connection:
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [database]).fetchall():
            # "C": text is ordered by its bytes, as on SQLite, and no operating system upgrade can change an index's order.
            make = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
            connection.execute(make.format(sql.Identifier(database)))
    with _connect(url.set(database=database)) as connection:
        connection.execute(ROLES.read_bytes())
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))
    return url.set(database=database, username=None, password=None)


def _connect(url: sa.URL) -> psycopg.Connection:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=10)
