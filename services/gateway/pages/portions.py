"""How much of a long list one page shows: what a phone can load at night, and no more than somebody reads. Nothing falls off: a
page says how many there are, and leads to the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

One = TypeVar("One")


@dataclass(frozen=True)
class Portion(Generic[One]):
    """Some of a list, in its order."""

    shown: Sequence[One]
    start: int
    count: int
    """Of the whole list."""

    @property
    def following(self) -> int:
        """Where the next portion starts; 0 if this is the last."""
        end = self.start + len(self.shown)
        return end if end < self.count else 0


def portion(whole: Sequence[One], size: int, asked: str = "") -> Portion[One]:
    """`size` of them, from where the address says; from the first if it says nothing that is there."""
    start = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 7 and int(asked) < len(whole) else 0
    return Portion(whole[start : start + size], start, len(whole))


def even_share(lengths: Iterable[int], most: int) -> int:
    """How many rows each of several lists may show so that together they show at most `most`; one at least, so that each is seen."""
    counts = list(lengths)
    share = max(counts, default=0)
    while share > 1 and sum(min(count, share) for count in counts) > most:
        share -= 1
    return share
