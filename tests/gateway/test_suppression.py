"""Nothing that is hidden can be reckoned back: not from the sums, and not by whoever knows the rules as well."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.suppression import THRESHOLD, Cell, NotATree, Partition, hidden

Counts = dict[Cell, int]
Tree = tuple[Partition, ...]
Look = tuple[tuple[Cell, int | None], ...]
"""Every count as a reader sees it; None: hidden."""
TOP: Cell = ()


def split(whole: Cell, *names: str) -> Partition:
    return Partition(whole, tuple((*whole, name) for name in names))


# Every small table there is


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to make `total` of so many counts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def filled_in(counts: Counts, tree: Sequence[Partition]) -> Iterator[Counts]:
    """Every way to fill in what is below the counts."""
    if not tree:
        yield counts
        return
    first, *rest = tree
    for values in compositions(counts[first.whole], len(first.parts)):
        yield from filled_in({**counts, **dict(zip(first.parts, values, strict=True))}, rest)


def read_by_a_stranger(counts: Counts, tree: Tree, threshold: int) -> Look:
    kept_back = hidden(counts, tree, threshold)
    return tuple((cell, None if cell in kept_back else count) for cell, count in counts.items())


SMALL_TREES: dict[str, Tree] = {
    "two parts": (split(TOP, "a", "b"),),
    "three parts": (split(TOP, "a", "b", "c"),),
    "four parts": (split(TOP, "a", "b", "c", "d"),),
    "a part that is split": (split(TOP, "a", "b", "c"), split(("b",), "x", "y")),
    "the first part split twice": (split(TOP, "a", "b"), split(("a",), "x", "y"), split(("a",), "u", "v")),
    "a top that is split twice": (split(TOP, "a", "b", "c"), split(TOP, "x", "y")),
}


@pytest.mark.parametrize("threshold", [2, 3, 4])
@pytest.mark.parametrize("tree", SMALL_TREES.values(), ids=[*SMALL_TREES])
def test_whoever_knows_the_rules_and_reads_everything_cannot_narrow_a_hidden_count(tree: Tree, threshold: int) -> None:
    """All tables with a top up to four times the threshold: those that look the same must differ in every hidden count by as
    many values as the threshold says, or the look tells."""
    possible: dict[Look, dict[Cell, set[int]]] = defaultdict(lambda: defaultdict(set))
    for total in range(4 * threshold + 1):
        for counts in filled_in({TOP: total}, tree):
            seen = read_by_a_stranger(counts, tree, threshold)
            for cell, shown in seen:
                if shown is None:
                    possible[seen][cell].add(counts[cell])
    assert len(possible) > threshold, "nothing was ever hidden"
    for seen, cells in possible.items():
        for cell, values in cells.items():
            assert len(values) >= threshold, (seen, cell, values)


# Tables of any size


@st.composite
def published(draw: st.DrawFn) -> tuple[Counts, Tree]:
    """A tree of up to three levels, filled from the bottom; counts around the threshold are the likely ones."""
    near = st.one_of(st.integers(0, 3), st.integers(8, 25), st.integers(0, 400))
    tree: list[Partition] = []
    counts: Counts = {}

    def fill(cell: Cell, depth: int, total: int | None) -> int:
        """Splits the cell in up to two ways; both must add up to the same."""
        ways = draw(st.integers(0, 2 if depth else 0)) if cell else 2
        tables = []
        for way in range(ways):
            names = [f"{way}{part}" for part in range(draw(st.integers(2, 5)))]
            table = split(cell, *names)
            tables.append(table)
            tree.append(table)
        if not tables:
            counts[cell] = draw(near) if total is None else total
            return counts[cell]
        values = (
            [fill(part, depth - 1, None) for part in tables[0].parts] if total is None else shares(total, tables[0])
        )
        if total is not None:
            for part, value in zip(tables[0].parts, values, strict=True):
                fill(part, depth - 1, value)
        counts[cell] = sum(values)
        for table in tables[1:]:
            for part, value in zip(table.parts, shares(counts[cell], table), strict=True):
                fill(part, depth - 1, value)
        return counts[cell]

    def shares(total: int, table: Partition) -> list[int]:
        cuts = sorted(draw(st.integers(0, total)) for _ in table.parts[1:])
        return [end - begin for begin, end in itertools.pairwise([0, *cuts, total])]

    fill(TOP, draw(st.integers(1, 2)), None)
    return counts, tuple(sorted(tree, key=lambda table: len(table.whole)))


@settings(max_examples=300, deadline=None)
@given(published())
def test_every_count_that_is_shown_is_large_enough(given_: tuple[Counts, Tree]) -> None:
    counts, tree = given_
    kept_back = hidden(counts, tree)
    assert all(count >= THRESHOLD for cell, count in counts.items() if cell not in kept_back)


@settings(max_examples=300, deadline=None)
@given(published())
def test_no_sum_or_difference_of_what_is_published_gives_a_hidden_count(given_: tuple[Counts, Tree]) -> None:
    counts, tree = given_
    assert determined(tree, hidden(counts, tree)) == set()


def determined(tree: Iterable[Partition], kept_back: frozenset[Cell]) -> set[Cell]:
    """The hidden counts that follow from what is shown by linear algebra alone, exactly: each row of the reduced equations
    with one unknown solves it."""
    unknown = sorted(kept_back)
    rows = []
    for table in tree:
        row = [Fraction((cell == table.whole) - (cell in table.parts)) for cell in unknown]
        if any(row):
            rows.append(row)
    done = 0
    for column in range(len(unknown)):
        pivot = next((row for row in rows[done:] if row[column]), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        rows.insert(done, [value / pivot[column] for value in pivot])
        for other in [*range(done), *range(done + 1, len(rows))]:
            factor = rows[other][column]
            rows[other] = [a - factor * b for a, b in zip(rows[other], rows[done], strict=True)]
        done += 1
    return {unknown[row.index(Fraction(1))] for row in rows if sum(map(bool, row)) == 1}


def test_the_algebra_finds_what_can_be_found() -> None:
    tree = (split(TOP, "a", "b", "c"), split(("c",), "x", "y"))
    a, b, c, x, y = ("a",), ("b",), ("c",), ("c", "x"), ("c", "y")
    assert determined(tree, frozenset({a})) == {a}
    assert determined(tree, frozenset({a, b})) == set()
    assert determined(tree, frozenset({c, x})) == {c, x}
    assert determined(tree, frozenset({b, c, x, y})) == set()


@settings(max_examples=300, deadline=None)
@given(published())
def test_a_hidden_count_can_be_as_many_numbers_as_the_threshold_says(given_: tuple[Counts, Tree]) -> None:
    """A proof by example, for tables too large to try all: for each hidden count, as many whole tables as the threshold says,
    in which it is another number, whose sums hold, and which look the same to the last detail."""
    counts, tree = given_
    seen = read_by_a_stranger(counts, tree, THRESHOLD)
    for cell, shown in seen:
        if shown is None:
            numbers = set()
            for other in alternatives(counts, tree, cell):
                assert adds_up(other, tree)
                assert read_by_a_stranger(other, tree, THRESHOLD) == seen
                numbers.add(other[cell])
            assert len(numbers) >= THRESHOLD, (cell, counts)


def adds_up(counts: Mapping[Cell, int], tree: Tree) -> bool:
    return all(counts[table.whole] == sum(counts[part] for part in table.parts) for table in tree)


def alternatives(counts: Counts, tree: Tree, cell: Cell) -> Iterator[Counts]:
    """Tables that look the same and have another number in `cell`, as the docstring of the module says they can be found."""
    table = next((table for table in tree if cell in table.parts), None)
    kept_back = hidden(counts, tree)
    if table is None:  # a top: any small number
        for number in range(THRESHOLD):
            yield refilled({**counts, cell: number}, tree, cell)
        return
    if table.whole in kept_back:  # as much as there is above, and there can be as many numbers
        for above in alternatives(counts, tree, table.whole):
            yield refilled(above, tree, table.whole, first=cell)
        return
    missing = [part for part in table.parts if part in kept_back]
    total = sum(counts[part] for part in missing)
    others = [part for part in missing if counts[part] >= THRESHOLD]
    spare = total - THRESHOLD * len(others)
    if others and spare >= THRESHOLD:
        # Every other keeps the least it needs, the last takes what is left: for a small one each small number fits.
        base = {part: THRESHOLD if part in others else 0 for part in missing}
        last = others[-1]
        for number in range(THRESHOLD):
            to = next(part for part in missing if part not in others) if cell == last else cell
            values = {**base, to: base[to] + number}
            values[last] += spare - number
            yield refilled_parts(counts, tree, values)
        return
    # Not enough to spare: everything is hidden, wherever it lies.
    assert missing == [*table.parts]
    elsewhere = next(part for part in missing if part != cell)
    for number in range(THRESHOLD):
        yield refilled_parts(counts, tree, dict.fromkeys(missing, 0) | {cell: number, elsewhere: total - number})


def refilled_parts(counts: Counts, tree: Tree, values: Counts) -> Counts:
    changed = {**counts, **values}
    for cell in values:
        changed = refilled(changed, tree, cell)
    return changed


def refilled(counts: Counts, tree: Tree, cell: Cell, first: Cell | None = None) -> Counts:
    """What is below a hidden cell, given to the first part of each split (or to `first`)."""
    changed = dict(counts)
    for table in tree:
        if table.whole == cell:
            heir = first if first in table.parts else table.parts[0]
            for part in table.parts:
                changed[part] = changed[cell] if part == heir else 0
                changed = refilled(changed, tree, part)
    return changed


# What it does to a table


def shown(threshold: int = THRESHOLD, **counts: int) -> dict[str, int | None]:
    table = split(TOP, *counts)
    cells = {(name,): count for name, count in counts.items()} | {TOP: sum(counts.values())}
    kept_back = hidden(cells, (table,), threshold)
    return {name: None if (name,) in kept_back else count for name, count in counts.items()}


def test_a_table_of_large_counts_is_shown_as_it_is() -> None:
    assert shown(a=11, b=300, c=12) == {"a": 11, "b": 300, "c": 12}


def test_the_written_order_says_what_is_hidden_with_a_small_count_whatever_the_sizes() -> None:
    assert shown(a=300, b=12, c=5) == {"a": None, "b": 12, "c": None}
    assert shown(a=30, b=1200, c=5) == {"a": None, "b": 1200, "c": None}


def test_zero_is_small() -> None:
    assert shown(a=40, b=40, c=0) == {"a": None, "b": 40, "c": None}


def test_two_small_counts_do_not_hide_each_other() -> None:
    """Together 20, and both below 11: both 10."""
    assert shown(a=40, b=10, c=10, d=40) == {"a": None, "b": None, "c": None, "d": 40}


def test_others_are_hidden_until_there_is_enough_to_spare() -> None:
    assert shown(a=12, b=13, c=50, d=60, e=1) == {"a": None, "b": None, "c": None, "d": 60, "e": None}
    assert shown(a=11, b=11, c=0) == {"a": None, "b": None, "c": None}


def test_below_what_is_hidden_everything_is() -> None:
    tree = (split(TOP, "a", "b"), split(("a",), "x", "y"))
    counts = {TOP: 105, ("a",): 100, ("b",): 5, ("a", "x"): 50, ("a", "y"): 50}
    assert hidden(counts, tree) == {("a",), ("b",), ("a", "x"), ("a", "y")}
    assert hidden({**counts, TOP: 200, ("b",): 100}, tree) == set()
    assert hidden(dict.fromkeys(counts, 0), tree) == set(counts)


@pytest.mark.parametrize(
    ("counts", "tree"),
    [
        ({TOP: 3, ("a",): 1, ("b",): 1}, (split(TOP, "a", "b"),)),
        ({TOP: 2, ("a",): 2}, (split(TOP, "a", "b"),)),
        ({TOP: 0, ("a",): 1, ("b",): -1}, (split(TOP, "a", "b"),)),
        ({TOP: 2, ("a",): 2}, (split(TOP, "a", "a"),)),
        ({TOP: 2, ("a",): 1, ("b",): 1}, (split(TOP, "a", "b"), Partition(TOP, (("b",), ("a",))))),
        (
            {TOP: 2, ("a",): 1, ("b",): 1, ("a", "x"): 1, ("a", "y"): 0},
            (split(("a",), "x", "y"), split(TOP, "a", "b")),
        ),
    ],
)
def test_what_is_no_tree_is_refused(counts: Counts, tree: Tree) -> None:
    with pytest.raises(NotATree):
        hidden(counts, tree)
