"""Which counts must not be published, so that nobody among the counted can be picked out. Pure.

What is published is a tree: counts at the top, and partitions, each of which splits one count into parts that add up to it. A
count may be split in several ways; no count is a part of two. So there is no second margin to reckon back through: of a
partition whose whole is shown, a reader finds out the sum of the hidden parts and nothing else.

From the top down:

1. A count below the threshold is small, zero like the others: "none" tells of everybody that they are elsewhere. A small count
   is hidden.
2. With small parts others are hidden, in a written order, at least one, until the hidden ones have the threshold to spare:
   what is left of their sum, when each of the others keeps the least that makes it not small, is not below the threshold. If
   there are not enough others, all parts are hidden.
3. Below a hidden count everything is hidden.

Sums alone would not do. Of two hidden parts that together are 20, whoever knows that both are below 11 knows that both are 10;
and whoever knows that always the smallest of the others is hidden can reckon back from which one it was. Under these rules
each hidden count can be at least as many numbers as the threshold says, also for a reader who knows the rules and the order
and reads everything: a small part can be each number below it (what is to spare moves to the last of the others, and the same
parts are hidden again), and the others as many. tests/gateway/test_suppression.py tries every small table there is.

Thresholds in use elsewhere are 11 (PCORnet) and 5 (PEDSnet), as the CRAN package countmaskr says. docs/adr/0029 says what this
does not protect from.
"""

from collections.abc import Mapping, Sequence

import msgspec

THRESHOLD = 11
"""Counts below it are never shown."""

Cell = tuple[str, ...]
"""Names one count."""


class Partition(msgspec.Struct, frozen=True):
    """One count split into parts that add up to it."""

    whole: Cell
    parts: tuple[Cell, ...]
    """In the order in which they are hidden with a small one."""


class NotATree(ValueError):
    """The counts cannot be protected by these rules: a count is missing, negative, a part of two partitions, split before it
    is known whether it is hidden, or is not the sum of its parts. A fault of the program, whatever was counted."""


def hidden(counts: Mapping[Cell, int], partitions: Sequence[Partition], threshold: int = THRESHOLD) -> frozenset[Cell]:
    """The counts that must not be shown. `partitions` go from the top down. Raises NotATree."""
    _require_tree(counts, partitions)
    parts = {part for partition in partitions for part in partition.parts}
    kept_back = {top for top in counts.keys() - parts if counts[top] < threshold}
    for partition in partitions:
        if partition.whole in kept_back:
            kept_back.update(partition.parts)
        else:
            kept_back.update(_hidden_parts(counts, partition, threshold))
    return frozenset(kept_back)


def _hidden_parts(counts: Mapping[Cell, int], partition: Partition, threshold: int) -> list[Cell]:
    kept_back = [part for part in partition.parts if counts[part] < threshold]
    if not kept_back:
        return []
    to_spare = sum(counts[part] for part in kept_back)
    for other in partition.parts:
        if counts[other] >= threshold:
            kept_back.append(other)
            to_spare += counts[other] - threshold
            if to_spare >= threshold:
                break
    return kept_back


def _require_tree(counts: Mapping[Cell, int], partitions: Sequence[Partition]) -> None:
    parts: set[Cell] = set()
    split: set[Cell] = set()
    for partition in partitions:
        cells = (partition.whole, *partition.parts)
        if any(counts.get(cell, -1) < 0 for cell in cells):
            raise NotATree(f"no count for a cell of {partition.whole}")
        if len({*cells}) < len(cells) or not parts.isdisjoint(partition.parts):
            raise NotATree(f"a part of {partition.whole} is counted twice")
        if not split.isdisjoint(partition.parts):
            raise NotATree(f"a part of {partition.whole} is split above it")
        if counts[partition.whole] != sum(counts[part] for part in partition.parts):
            raise NotATree(f"the parts of {partition.whole} do not add up to it")
        parts.update(partition.parts)
        split.add(partition.whole)
