"""The trail as a file that other programs read: one line an entry, as many as there are, none of them kept in memory."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec

from services.gateway.read_model import Json, TrailPosition, trail_position

AT_ONCE = 500
"""Entries read in one query."""


class Format(StrEnum):
    """By the ending of the file."""

    CSV = "csv"
    JSONL = "jsonl"


MEDIA_TYPES = {Format.CSV: "text/csv; charset=utf-8; header=present", Format.JSONL: "application/jsonl"}

COLUMNS = (
    "time",
    "source",
    "stream",
    "version",
    "event_id",
    "type",
    "verb",
    "case_id",
    "person",
    "role",
    "organisation",
    "country",
    "correlation_id",
    "causation_id",
    "detail",
)
"""Of the CSV; `detail` is JSON."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A cell that begins so, a spreadsheet computes (OWASP, CSV injection), also in full width."""


def written(form: Format, first: Sequence[Json], read: Callable[[TrailPosition], Sequence[Json]]) -> Iterator[bytes]:
    """The file, piece by piece: `first`, then what `read` finds behind the last entry, until there is nothing."""
    if form is Format.CSV:
        yield _rows([COLUMNS])
    entries = first
    while entries:
        yield _lines(entries) if form is Format.JSONL else _rows([_cells(entry) for entry in entries])
        entries = read(trail_position(entries[-1]))


def _lines(entries: Sequence[Json]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _cells(entry: Json) -> list[str]:
    flat = {**entry, **entry["actor"], "detail": msgspec.json.encode(entry["detail"]).decode()}
    return [harmless("" if flat[name] is None else str(flat[name])) for name in COLUMNS]


def harmless(text: str) -> str:
    """The same, and no formula: an apostrophe before it says to a spreadsheet that this is text."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _rows(rows: Sequence[Sequence[str]]) -> bytes:
    """RFC 4180, every cell in quotes: whatever a spreadsheet takes for the separator, a cell stays one cell."""
    lines = io.StringIO(newline="")
    csv.writer(lines, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return lines.getvalue().encode()
