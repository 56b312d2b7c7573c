"""Files that hold a secret: readable by this user alone, from their first byte on."""

import secrets
import tempfile
from pathlib import Path


def private_file(file: Path, text: str) -> None:
    """Writes a file anew; who reads it meanwhile gets the old text or the new."""
    file.parent.mkdir(exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as draft:
        draft.write(text)  # NamedTemporaryFile makes it with mode 0600
    Path(draft.name).replace(file)


def random_secret(file: Path) -> str:
    """The secret in a file, made up (192 bits) the first time it is asked for."""
    if not file.exists():
        private_file(file, secrets.token_urlsafe(24))
    return file.read_text(encoding="utf-8")
