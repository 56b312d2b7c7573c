"""The secrets an embedded node makes for itself and keeps in its data directory: demo logins and the signing key."""

import os
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from events.key_file import on_disk
from services.config import ConfigurationError
from services.gateway.principals import Account

_LOGINS_FILE = "demo-logins.json"
_SIGNING_KEY_FILE = "demo-signing-key.pem"


def load_or_create_logins(data_dir: Path, accounts: Iterable[Account]) -> dict[str, str]:
    """The secret of every account by user name; those without one yet get one of 144 random bits.

    They are kept in `demo-logins.json`, readable by the owner only. An account that is no longer there keeps its line, so that
    it comes back with the same secret. Raises `ConfigurationError` if the file cannot be used; it is never overwritten.
    """
    path = data_dir / _LOGINS_FILE
    usernames = [account.username for account in accounts]
    new = {username: secrets.token_urlsafe(18) for username in usernames}
    content = _read_private(path)
    if content is None:
        content = _create_private(path, msgspec.json.format(msgspec.json.encode(new)))
    try:
        known = msgspec.json.decode(content, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} cannot be read. Move it away; new demo logins are then made.") from error
    if not new.keys() <= known.keys():
        known = new | known
        _write_private(path, msgspec.json.format(msgspec.json.encode(known)))
    return {username: known[username] for username in usernames}


def load_or_create_signing_key(data_dir: Path) -> ECKey:
    """The P-256 key that signs access tokens, made once per data directory. Its id is its RFC 7638 thumbprint.

    Raises `ConfigurationError` if the file is there and cannot be used.
    """
    path = data_dir / _SIGNING_KEY_FILE
    content = _read_private(path)
    if content is None:
        content = _create_private(path, ECKey.generate_key("P-256").as_pem(private=True))
    try:
        key = ECKey.import_key(content, {"use": "sig", "alg": "ES256"})
    except (JoseError, ValueError) as error:
        raise ConfigurationError(f"{path} holds no signing key. Move it away; a new one is then made.") from error
    if key.curve_name != "P-256" or not key.is_private:
        raise ConfigurationError(f"{path} holds no private P-256 key. Move it away; a new one is then made.")
    key.ensure_kid()
    return key


def public_keys(signing_key: ECKey) -> KeySet:
    """The key set that checks what `signing_key` signs; it holds nothing secret."""
    return KeySet([ECKey.import_key(signing_key.as_dict(private=False))])


def _read_private(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigurationError(f"{path} can be read by others. Run: chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        return None


def _create_private(path: Path, content: bytes) -> bytes:
    """What the file holds afterwards. Of several gateways that start at once one is the first, and all use what it made."""
    _write_private(path, content, replace=False)
    return path.read_bytes()


def _write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file 0600 from its first byte; a crash at any point leaves the old file or the new one, whole.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(temporary).replace(path)
        else:
            with suppress(FileExistsError):
                path.hardlink_to(temporary)
            Path(temporary).unlink()
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    on_disk(path.parent)
