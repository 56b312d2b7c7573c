"""What the operator is told to type exists, and what the operator may be told is explained."""

import ast
import re
from pathlib import Path

import yaml

from events.kafka import dead_letters
from events.log.inbox import ParkReason
from tests.test_compose import SERVICES, commands

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/operations.md").read_text()
TYPED = re.findall(r"`{3}\n(.*?)`{3}|`([^`]+)`", TEXT, re.DOTALL)
LINES = [re.sub(r"\s+", " ", line) for block, inline in TYPED for line in (block.splitlines() or [inline])]


def rows(heading: str) -> list[str]:
    """The first cell of each row of the first table below a heading."""
    below = TEXT[TEXT.index(f"# {heading}\n") :]
    (table, *_) = re.findall(r"^\|.*?(?=^[^|]|\Z)", below, re.MULTILINE | re.DOTALL)
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_every_command_of_haven_it_names_exists() -> None:
    known = {" ".join(words) for words in commands()}
    named = {match[1] for line in LINES if (match := re.search(r"(?:^|/|\s)haven ((?:[a-z-]+ ?)+)", line))}
    assert len(named) >= 12, "the search has gone blind"
    unknown = {name for name in named if not any(name.strip() == one or name.startswith(f"{one} ") for one in known)}
    assert unknown == set()


def test_every_module_it_has_somebody_run_exists() -> None:
    modules = {match[1] for line in LINES if (match := re.search(r"python -m ([\w.]+)", line))}
    assert "deploy.secrets" in modules
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_every_container_it_names_is_on_the_map() -> None:
    verbs = r"docker compose (?:exec(?: --no-TTY)?|run --rm|rm --stop --force|stop|up --detach --no-deps) ([a-z -]+)"
    named = {match[1].split()[0] for line in LINES if (match := re.search(verbs, line))}
    assert {"postgresql", "placement", "kafka", "migrate"} <= named
    assert named <= SERVICES.keys()
    volumes = {match[1] for line in LINES if (match := re.search(r"docker volume rm haven_([\w-]+)", line))}
    assert volumes <= yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"].keys()


def test_every_variable_it_has_set_is_one_the_map_reads() -> None:
    read = set(re.findall(r"\$\{(\w+):-", (ROOT / "docker-compose.yml").read_text()))
    told = {match[1] for line in LINES if (match := re.match(r" *([A-Z_]+)=\S", line))}
    assert {"PUBLIC_URL", "ISSUER"} <= told
    assert {name for name in told - {"COMPOSE_PROFILES"} if not name.startswith("HAVEN_")} <= read


def test_every_process_is_described() -> None:
    described = {row.removeprefix("`haven ").rstrip("`") for row in rows("What there is")}
    running = {
        " ".join(s["command"][1:]) for s in SERVICES.values() if "core" in s["profiles"] and s["image"] == "haven:0.1.0"
    }
    assert described == {name for name in running if not name.startswith("-m ")}


def test_every_reason_of_a_dead_letter_has_a_remedy() -> None:
    ours = {dead_letters.MALFORMED, dead_letters.HANGS, dead_letters.CUT_SHORT}
    parked = {reason.value for reason in ParkReason if reason is not ParkReason.EARLY}  # which passes by itself
    assert {row.strip("`") for row in rows("Dead letters")} == ours | parked


def test_every_reason_not_to_be_ready_has_a_remedy() -> None:
    """Each literal key of the reasons that a process gives."""
    given = set()
    for path in (
        "services/processes.py",
        "services/gateway_process.py",
        "services/operations/health.py",
        "events/kafka/relay.py",
    ):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            match node:
                case ast.Subscript(value=ast.Name(id="reasons"), slice=ast.Constant(value=str(key))):
                    given.add(key)
                case ast.Return(value=ast.Dict(keys=[ast.Constant(value=str(key))], values=[_])):
                    given.add(key)
                case ast.Assign(
                    targets=[ast.Name(id="reasons")],
                    value=ast.IfExp(body=ast.Dict(keys=[ast.Constant(value=str(key))])),
                ):
                    given.add(key)
    assert {"start", "kafka", "database", "topics"} <= given, "the search has gone blind"
    explained = " ".join(rows("What `/readyz` says"))
    assert [key for key in given if f"`{key}`" not in explained] == []
