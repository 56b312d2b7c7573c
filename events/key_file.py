"""The file that holds the key-encryption keys, apart from every database: without it nothing sealed can be opened."""

import base64
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

KEY_BYTES = 32
_MAX_KEY_FILE_BYTES = 65_536
_KEY_FILE_HEADER = "haven-key-file 1"
_GENERATION = re.compile(r"([0-9a-f]{8}) ([A-Za-z0-9+/]{43}=)")

RandomBytes = Callable[[int], bytes]
"""A source of unpredictable bytes; only a simulation passes anything but `os.urandom`."""


class SealingError(Exception):
    """Root of what sealing refuses. Messages carry ids, never text, key or ciphertext.

    SealingError
     +-- KeyFileRefused    the key file is missing a promise it must keep; the node must not start
     +-- KeyFileMismatch   the key file and the key database do not belong together; the node must not start
     +-- KeyDestroyed      the household was erased: nothing may be sealed for it again
     +-- TextRefused       the text is too long or is not text
     +-- SealBroken        ciphertext was altered or moved: an alarm, never routine
    """


class KeyFileRefused(SealingError):
    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        super().__init__(f"key file {path} {problem}; {remedy}")


@dataclass(frozen=True)
class KeyEncryptionKeys:
    """Generations of the key-encryption key, 32 bytes each, by id; the first is current and wraps every new key."""

    generations: Mapping[str, bytes] = field(repr=False)

    @property
    def current(self) -> str:
        return next(iter(self.generations))


def load_or_create_key_file(path: Path, random_bytes: RandomBytes = os.urandom) -> KeyEncryptionKeys:
    """Reads the key file, creating it with one generation if there is none. Raises KeyFileRefused.

    Two processes that start at once get the same key. The file is one header line, then one `id base64` line per
    generation, current first; mode 0600.
    """
    if not path.exists():
        _write_key_file(path, [_new_generation(random_bytes)], replace=False)
    return load_key_file(path)


def rotate_key_file(path: Path, random_bytes: RandomBytes = os.urandom) -> KeyEncryptionKeys:
    """Puts a fresh generation first and keeps the others. Raises KeyFileRefused. One operator at a time.

    Then restart the node and `KeyStore.rewrap`; only after that may an old line be deleted from the file.
    """
    older = load_key_file(path).generations.items()
    _write_key_file(path, [_new_generation(random_bytes), *older], replace=True)
    return load_key_file(path)


def _new_generation(random_bytes: RandomBytes) -> tuple[str, bytes]:
    return random_bytes(4).hex(), random_bytes(KEY_BYTES)


def load_key_file(path: Path) -> KeyEncryptionKeys:
    """Reads the key file; never makes one, for whoever would then seal beside keys it cannot open. Raises KeyFileRefused."""
    with path.open("rb") as file:
        # The opened file is judged, not the name: the name can point elsewhere a moment later.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileRefused(path, "is not a regular file", "name the file itself")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise KeyFileRefused(
                path, "can be read or changed by others", "set its mode to 0600 and rotate it: others may have read it"
            )
        content = file.read(_MAX_KEY_FILE_BYTES)
    header, *lines = content.decode("ascii", "replace").splitlines() or [""]
    parsed = [_GENERATION.fullmatch(line) for line in lines]
    generations = {match[1]: base64.b64decode(match[2]) for match in parsed if match}
    if header != _KEY_FILE_HEADER or not generations or len(generations) != len(lines):
        raise KeyFileRefused(
            path,
            f"is not '{_KEY_FILE_HEADER}' followed by lines of a generation id and {KEY_BYTES} bytes in base64",
            "restore it from its own backup; a new one cannot open what is sealed",
        )
    return KeyEncryptionKeys(generations)


def on_disk(path: Path) -> None:
    """What a file or folder says is there also after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_key_file(path: Path, generations: list[tuple[str, bytes]], *, replace: bool) -> None:
    """Whole or not at all. A crash leaves at most a hidden file of mode 0600 with a key that nothing was wrapped with."""
    lines = [_KEY_FILE_HEADER, *(f"{name} {base64.b64encode(key).decode()}" for name, key in generations)]
    unfinished = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            # A rename would overwrite the key of a process that started at the same moment and is wrapping with it.
            with suppress(FileExistsError):
                path.hardlink_to(unfinished)
    finally:
        unfinished.unlink(missing_ok=True)
    # Without it, a power cut could take the name away after the first household was sealed.
    on_disk(path.parent)
