"""What could reach or locate a household is nowhere but in the one answer it was disclosed in.

The demo plants three texts. Afterwards every byte that the node wrote, said or answered is searched for them, as they are
and in every coating a program might put them in. That the search finds things is proved by planting some.
"""

import base64
import gzip
import http.client
import json
import quopri
import random
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

from services import demo
from tests.journeys.process import RunningNode

PLANTED = (demo.CALLBACK, demo.RENDEZVOUS, demo.STEPS)
# A database may break a text where a page ends; the codes in them are short.
WORDS = (*PLANTED, "KESTREL-41", "HERON-77", "OSPREY-13")


def coatings(word: str) -> Iterator[tuple[str, bytes]]:
    """The bytes under which `word` might lie somewhere, each with the name of its coating."""
    raw = word.encode()
    yield "utf-8", raw
    yield "utf-16le", word.encode("utf-16-le")
    yield "utf-16be", word.encode("utf-16-be")
    yield "utf-32le", word.encode("utf-32-le")
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    yield "percent, whole", "".join(f"%{byte:02X}" for byte in raw).encode()
    yield "percent", quote(word, safe="").encode()
    yield "percent, lower case", quote(word, safe="").replace("%3A", "%3a").encode()
    yield "form", quote(word, safe=" ").replace(" ", "+").encode()
    yield "json escapes", "".join(f"\\u{ord(letter):04x}" for letter in word).encode()
    yield "JSON escapes", "".join(f"\\u{ord(letter):04X}" for letter in word).encode()
    yield "quoted-printable", quopri.encodestring(raw, quotetabs=True).replace(b"=\n", b"")
    yield "quoted-printable, whole", "".join(f"={byte:02X}" for byte in raw).encode()
    yield "html", "".join(f"&#{byte};" for byte in raw).encode()
    yield "reversed", raw[::-1]
    yield "rot13", word.translate(ROT13).encode()
    for offset in range(3):
        # Of base64, only what does not depend on the bytes around it.
        start, end = (0, 2, 3)[offset], 4 * ((offset + len(raw)) // 3)
        yield f"base64 +{offset}", base64.b64encode(bytes(offset) + raw)[start:end]
        yield f"base64url +{offset}", base64.urlsafe_b64encode(bytes(offset) + raw)[start:end]


ROT13 = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)
NEEDLES = [(word, name, needle) for word in WORDS for name, needle in coatings(word)]


def found_in(content: bytes, depth: int = 2) -> set[tuple[str, str]]:
    """Every planted word in `content`, with its coating; compressed streams are looked into."""
    hits = {(word, name) for word, name, needle in NEEDLES if needle in content}
    if depth:
        for inner in compressed_in(content):
            hits |= {(word, f"compressed {name}") for word, name in found_in(inner, depth - 1)}
    return hits


def compressed_in(content: bytes) -> Iterator[bytes]:
    """What zlib and gzip streams anywhere in `content` hold, as far as they can be read."""
    for magic, window in (
        (b"\x1f\x8b\x08", 31),
        *((b"\x78" + level, 15) for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")),
    ):
        at = content.find(magic)
        while at >= 0:
            with suppress(zlib.error):
                yield zlib.decompressobj(window).decompress(content[at:], 1_000_000)
            at = content.find(magic, at + 1)


def hits_in_files(folder: Path) -> dict[str, set[tuple[str, str]]]:
    hits = {str(path.relative_to(folder)): found_in(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    return {name: found for name, found in hits.items() if found}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("offset", range(4))
def test_the_search_finds_what_is_planted(tmp_path: Path, word: str, offset: int) -> None:
    noise = random.Random(offset)
    for name, needle in coatings(word):
        (tmp_path / "planted").write_bytes(noise.randbytes(50 + offset) + needle + noise.randbytes(50))
        assert (word, name) in hits_in_files(tmp_path).get("planted", set())
    surrounded = noise.randbytes(50 + offset) + word.encode() + noise.randbytes(50)
    for compressed in (zlib.compress(surrounded), gzip.compress(surrounded), zlib.compress(gzip.compress(surrounded))):
        assert any(found == word for found, _ in found_in(noise.randbytes(offset) + compressed + b"tail"))
    assert any(found == word for found, name in found_in(base64.b64encode(surrounded)) if name.startswith("base64 "))
    assert found_in(noise.randbytes(10_000)) == set()


class Overheard(http.client.HTTPResponse):
    """Every answer of the node, as it came."""

    headers_and_bodies: ClassVar[list[bytes]] = []

    def begin(self) -> None:
        super().begin()
        self.headers_and_bodies.append(str(self.headers).encode())

    def read(self, amt: int | None = None) -> bytes:
        content = super().read(amt)
        self.headers_and_bodies.append(content)
        return content

    def readline(self, limit: int = -1) -> bytes:
        line = super().readline(limit)
        self.headers_and_bodies.append(line)
        return line


def is_disclosure(content: bytes) -> bool:
    return content.startswith(b'{"disclosure_id":') and "value" in json.loads(content)


@pytest.mark.slow
def test_after_the_whole_story_nothing_planted_is_anywhere_but_in_the_disclosed_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "response_class", Overheard)
    monkeypatch.setattr(Overheard, "headers_and_bodies", heard := [])
    told: list[str] = []
    with RunningNode(tmp_path, speed=demo.EXERCISE_SPEED) as node:
        demo.play(demo.demo_client(node.url, node.logins), told.append)
        assert hits_in_files(node.data_dir) == {}, "while it runs, write-ahead logs included"
        assert node.stop() == 0
        files = [path for path in node.data_dir.rglob("*") if path.is_file()]
        assert {"gateway.sqlite", "placement.sqlite", "capacity.sqlite", "keys.sqlite"} <= {file.name for file in files}
        assert hits_in_files(tmp_path) == {}, "its files and what it said"
    disclosed = [content for content in heard if is_disclosure(content)]
    assert [json.loads(content)["value"] for content in disclosed] == [demo.RENDEZVOUS]
    assert len(heard) > 50
    assert found_in("\n".join(told).encode()) == set()
    assert set().union(*map(found_in, [content for content in heard if not is_disclosure(content)])) == set()
