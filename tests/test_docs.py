"""What is written down says what the code does: every word, every no, every route, every file.

Each check compares two sets, so it fails on what the documents lack and on what they still have.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from events import capacity, placement, vocabulary
from events.envelope import CONTRACTS
from events.log.inbox import ParkReason
from reference import MovingEffect
from services.config import PREFIX, Settings
from services.gateway import problems
from services.gateway.api import RULES
from services.gateway.principals import Scope
from services.placement.domain.matching import HARD_RULES
from services.placement.domain.request import AskStage

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))
CODE_LISTS = [
    *(
        code_list
        for module in (vocabulary, placement, capacity)
        for code_list in vars(module).values()
        if isinstance(code_list, type) and issubclass(code_list, StrEnum) and code_list.__module__ == module.__name__
    ),
    AskStage,
    MovingEffect,
    ParkReason,
    Scope,
]


def read(path: str) -> str:
    return (ROOT / path).read_text()


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"there is no heading {heading!r}"
    return match[2]


def first_cells(text: str) -> list[str]:
    """The code in the first cell of each row of the tables."""
    return re.findall(r"^\| `([^`|]+)` \|", text, re.MULTILINE)


def rows_without_meaning(text: str) -> list[str]:
    rows = re.findall(r"^\| `([^`|]+)` \|(.*)\|$", text, re.MULTILINE)
    return [name for name, cells in rows if not cells.split("|")[-1].strip()]


# The glossary


def test_every_contract_is_in_the_glossary_once() -> None:
    said = [cell for cell in first_cells(section_of_contracts()) if cell.endswith(".v1")]
    assert sorted(said) == sorted(CONTRACTS)


def section_of_contracts() -> str:
    text = read("docs/glossary.md")
    return text[text.index("\n## What is said\n") : text.index("\n## Codes\n")]


@pytest.mark.parametrize("code_list", CODE_LISTS, ids=lambda code_list: code_list.__name__)
def test_every_code_is_in_the_glossary_and_no_other(code_list: type[StrEnum]) -> None:
    explained = first_cells(section(read("docs/glossary.md"), code_list.__name__))
    assert sorted(explained) == sorted(code.value for code in code_list)


def test_the_glossary_explains_no_list_that_is_gone() -> None:
    text = read("docs/glossary.md")
    headings = re.findall(r"^### (\w+)$", text[text.index("\n## Codes\n") :], re.MULTILINE)
    assert sorted(headings) == sorted(code_list.__name__ for code_list in CODE_LISTS)


def test_every_entry_of_the_glossary_has_a_meaning() -> None:
    assert rows_without_meaning(read("docs/glossary.md")) == []


def test_the_hard_rules_are_explained_in_the_order_they_are_named() -> None:
    assert first_cells(section(read("docs/glossary.md"), "Rule")) == list(HARD_RULES)


# Problems


def problem_codes() -> set[str]:
    """Names and, of those made from a status, patterns: whatever is passed to `Problem` anywhere in the gateway."""
    codes: set[str] = set()
    for path in (ROOT / "services/gateway").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and (name := ast.unparse(call.func)).endswith(("Problem", "forbidden")):
                match call.args[0 if name.endswith("forbidden") else 1 :]:
                    case [ast.Constant(value=str(code)), *_]:
                        codes.add(code)
                    case [ast.JoinedStr(values=[ast.Constant(value=str(prefix)), ast.FormattedValue()]), *_]:
                        codes.add(f"{prefix}*")
    answers = [problems.refused(reason, vocabulary.Stage.OPENED, ()) for reason in placement.Refusal]
    answers += [problems.report_refused(reason) for reason in capacity.ReportRefusal]
    return codes | {answer.code for answer in answers}


def test_every_problem_is_documented_and_no_other() -> None:
    codes = problem_codes()
    assert {"bad-field", "not-found", "same-person", "stale-revision", "http-*"} <= codes, "the search has gone blind"
    documented = first_cells(read("docs/problems.md"))
    assert len(documented) == len(set(documented))
    assert {"http-*" if name.startswith("http-") else name for name in documented} == codes


def test_a_refusal_is_documented_with_the_status_it_has() -> None:
    answers = [problems.refused(reason, vocabulary.Stage.OPENED, ()) for reason in placement.Refusal]
    answers += [problems.report_refused(reason) for reason in capacity.ReportRefusal]
    documented = dict(re.findall(r"^\| `([^`|]+)` \| (\d{3}) \|", read("docs/problems.md"), re.MULTILINE))
    assert {a.code: documented.get(a.code) for a in answers} == {a.code: str(a.status) for a in answers}


# The API and its settings


def test_every_route_is_in_the_tour_and_no_other() -> None:
    documented = first_cells(section(read("docs/api.md"), "Routes"))
    assert sorted(documented) == sorted(f"{rule.method} {rule.path}" for rule in RULES)


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `(HAVEN_\w+)` \| `?([^`|]*?)`? \|", read("docs/api.md"), re.MULTILINE)
    defaults = {name: getattr(Settings(), name) for name in Settings.__struct_fields__}
    assert dict(rows) == {
        PREFIX + name.upper(): {"": "empty", 1.0: "1"}.get(value, str(value)) for name, value in defaults.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made with curl")
def test_the_tour_of_the_api_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    tour = read("docs/api.md").replace("127.0.0.1:8080", address)
    script = "set -euo pipefail\n" + "\n".join(re.findall(r"^```bash\n(.*?)^```", tour, re.MULTILINE | re.DOTALL))
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HAVEN_PORT": address.partition(":")[2],
        "HAVEN_DATA_DIR": str(tmp_path / "data"),
        "HAVEN_SCENE": "still",  # the tour finds its way among other cases; nobody changes a unit between two of its steps
    }
    program = [sys.executable, "-c", "from services.cli import main; main()", "run"]
    with subprocess.Popen(program, env=settings, stdout=subprocess.DEVNULL) as node:
        try:
            wait_until_ready(f"http://{address}/readyz")
            told = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
            )
        finally:
            node.terminate()
    assert told.returncode == 0, told.stderr
    assert "one request, however often it is sent" in told.stdout
    refusals = re.findall(rf"{re.escape(problems.TYPE_ROOT)}([a-z-]+)", told.stdout)
    assert refusals == ["idempotency-key-used", "bad-field", "stale-revision"]
    assert '"stage":"withdrawn"' in told.stdout
    assert '"verb":"consultation"' in told.stdout


def wait_until_ready(url: str) -> None:
    ends = time.monotonic() + 100  # the scene is seconds of work, and many on a busy machine
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


# Links, files, commands


def relative_links() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if "://" not in target:
                yield document.relative_to(ROOT).as_posix(), target


@pytest.mark.parametrize(("document", "target"), sorted(set(relative_links())))
def test_a_link_leads_somewhere(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    led_to = (ROOT / document).parent / path if path else ROOT / document
    assert led_to.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", led_to.read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_there_are_links_to_check() -> None:
    assert len(set(relative_links())) > 30


def paths_in(text: str) -> set[str]:
    """Every path in backticks that has a folder and names a file or, with a slash at the end, a folder."""
    return set(re.findall(r"`((?:[\w.-]+/)+(?:[\w-]+\.[a-z]+)?)`", text))


def test_every_file_the_architecture_names_is_there() -> None:
    named = paths_in(read("ARCHITECTURE.md")) - {"domain/"}  # the one folder of each service that has rules
    assert len(named) > 40
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_module_is_on_the_code_map() -> None:
    modules = {
        path.relative_to(ROOT).as_posix() for folder in ("events", "services") for path in (ROOT / folder).rglob("*.py")
    }
    assert sorted(modules - paths_in(section(read("ARCHITECTURE.md"), "Code map"))) == []


@pytest.mark.parametrize("name", ["HARD_RULES", "PREFERENCES", "bed_claims", "FIELDS_OF_ROLE", "may_see_sealed_field"])
def test_what_a_newcomer_is_sent_to_find_is_where_it_is_said_to_be(name: str) -> None:
    (row,) = [line for line in section(read("ARCHITECTURE.md"), "Where do I find").splitlines() if f"`{name}`" in line]
    told = re.findall(rf"`{name}`.*?\[`[^`]+`\]\(([^)]+)\)|`{name}` in `([\w.]+)`", row)
    assert told
    files = [linked or f"services/placement/domain/{bare}" for linked, bare in told]
    assert any(re.search(rf"^(def )?{name}\b", read(path), re.MULTILINE) for path in files)


def test_the_readme_names_only_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", " ".join(re.findall(r"`+[^`]+`+", read("README.md")))))
    assert {"run", "test", "demo"} <= named
    assert named <= targets


def test_the_readme_says_run_first_and_test_second() -> None:
    assert re.findall(r"^make (\w+)", read("README.md"), re.MULTILINE)[:2] == ["run", "test"]


def test_the_readme_quotes_the_demo_as_it_speaks() -> None:
    """Each quoted line, numbers and ids aside, is one the demo says."""
    quoted = re.search(r"^```\nHaven demo\.(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    assert quoted
    lines = [line.removeprefix("- ") for line in quoted[1].splitlines() if line.startswith("- ")]
    assert len(lines) >= 8
    said = {re.sub(r"\W+", " ", text) for text in told("services/demo.py")}
    unsaid = [line for line in lines if not any(words_in_order(pieces, line) for pieces in said)]
    assert unsaid == []


def told(path: str) -> Iterator[str]:
    """Every sentence the demo tells, with VALUE where a value is put in."""
    for call in ast.walk(ast.parse(read(path))):
        match call:
            case ast.Call(func=ast.Attribute(attr="tell"), args=[ast.JoinedStr(values=parts)]):
                yield "".join(part.value if isinstance(part, ast.Constant) else " VALUE " for part in parts)
            case ast.Call(func=ast.Attribute(attr="tell"), args=[ast.Constant(value=str(sentence))]):
                yield sentence


def words_in_order(text: str, line: str) -> bool:
    pattern = r"\s*".join(".*" if word == "VALUE" else re.escape(word) for word in text.split())
    return re.fullmatch(pattern, re.sub(r"\W+", " ", line).strip()) is not None


# Decisions


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:5] for path in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]
    assert len(DECISIONS) >= 15


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_where_it_stands_and_fits_on_a_page(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name[:4]}. ")
    assert re.search(r"^Status: (accepted|proposed|superseded by \[\d{4}\])", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 60


def test_a_decision_the_code_refers_to_exists() -> None:
    numbers = {path.name[:4] for path in DECISIONS}
    sources = [path for folder in ("events", "services") for path in (ROOT / folder).rglob("*.py")]
    named = {number for path in sources for number in re.findall(r"docs/adr/(\d{4})", path.read_text())}
    assert named
    assert named <= numbers
