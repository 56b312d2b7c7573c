"""Every attack of tests/attacks.py has a test that shows it fails, or a reason why it does not apply; docs/attacks.md says which."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.attacks import ATTACKS, GROUPS, REASONS

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "attacks.md"
ABOUT = """# Attacks

What pages and API are tried with, and the tests that show it fails. Made from `tests/attacks.py`, which has the sources, and from the marks
of the tests, by `python -m tests.test_attacks`. What is not claimed stands in [SECURITY.md](../SECURITY.md#what-we-do-not-claim-yet).
"""


def marked(path: Path) -> Iterator[tuple[str, int]]:
    """Names of tests and the numbers they are marked with."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.attack":
                yield from ((node.name, ast.literal_eval(number)) for number in decorator.args)


@cache
def found() -> Mapping[int, list[tuple[str, str]]]:
    """Number of an attack to the file and name of each of its tests."""
    tests = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, number in marked(path):
            tests[number].append((str(path.relative_to(ROOT)), name))
    return tests


def table() -> str:
    tests, lines = found(), [ABOUT]
    for group, attacks in GROUPS.items():
        lines += [f"## {group}", "", "| | attack | tests |", "|---|---|---|"]
        for number, name in attacks.items():
            said = [REASONS[number]] if number in REASONS else []
            by_file: dict[str, list[str]] = defaultdict(list)
            for file, test in tests[number]:
                by_file[file].append(test.removeprefix("test_").replace("_", " "))
            said += [f"[{Path(file).name}](../{file}): {'; '.join(names)}" for file, names in by_file.items()]
            lines.append(f"| {number} | {name} | {'<br>'.join(said)} |")
        lines.append("")
    return "\n".join(lines)


def test_the_list_is_whole() -> None:
    assert list(ATTACKS) == list(range(1, 66))
    assert REASONS.keys() <= ATTACKS.keys()


@pytest.mark.parametrize("number", ATTACKS)
def test_an_attack_has_a_test_or_a_reason(number: int) -> None:
    assert found()[number] or number in REASONS, ATTACKS[number]


def test_no_test_names_an_attack_that_is_not_on_the_list() -> None:
    assert found().keys() <= ATTACKS.keys()


def test_the_document_says_what_the_tests_say() -> None:
    assert TABLE.read_text() == table(), "write it anew: python -m tests.test_attacks"


if __name__ == "__main__":
    TABLE.write_text(table())
