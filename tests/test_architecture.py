"""Who may know whom, and what the pure parts may touch: each rule one test, and each rule seen to fail on a bad example.

Every rule is a function from the sources it watches to the list of what breaks it.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("events", "reference", "services", "simulation")

Sources = dict[str, ast.Module]
"""Path below the repository to its syntax tree."""

PURE_STANDARD_LIBRARY = {
    "calendar",
    "collections",
    "dataclasses",
    "datetime",
    "enum",
    "hashlib",
    "itertools",
    "typing",
    "uuid",
}
PURE_OTHERS = {"events", "msgspec", "reference", "services"}
"""A list of what is allowed: a new I/O library is refused without anybody having thought of it."""

CLOCKS_AND_CHANCE = {"now", "utcnow", "today", "uuid1", "uuid4", "urandom", "getenv", "environ", "open", "input"}
SERVICES = ("placement", "capacity", "gateway")
COMPOSITION_ROOTS = ("services/node.py", "services/processes.py", "services/cli.py")
BROKER = {"faust", "kafka"}


def sources(where: Callable[[str], bool] = lambda _path: True) -> Sources:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if where(name):
                found[name] = ast.parse(path.read_text(), name)
    return found


def is_pure(path: str) -> bool:
    contracts = {f"events/{name}.py" for name in ("vocabulary", "gateway", "placement", "capacity", "envelope")}
    return path in contracts or (path.startswith("services/") and "/domain/" in path)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of every module that is imported, anywhere in the file."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)


def impure_imports(watched: Sources) -> list[str]:
    allowed = PURE_STANDARD_LIBRARY | PURE_OTHERS
    return [
        f"{path} imports {module}"
        for path, tree in watched.items()
        for module in imports(tree)
        if module.split(".")[0] not in allowed
    ]


def looks_at_clock_or_chance(watched: Sources) -> list[str]:
    """Calls of a clock, a source of chance, the environment or a file. `context.now` is a value and no call."""
    found = []
    for path, tree in watched.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.split(".")[-1] in CLOCKS_AND_CHANCE or called in ("time", "time.time", "time.monotonic"):
                    found.append(f"{path}:{node.lineno} calls {called}")
            elif isinstance(node, ast.Attribute) and node.attr == "environ":
                found.append(f"{path}:{node.lineno} reads the environment")
    return found


def service_of(name: str) -> str | None:
    """`services.capacity.worker` and `services/capacity/worker.py` both belong to capacity."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "services" and parts[1] in SERVICES else None


def services_that_know_each_other(watched: Sources) -> list[str]:
    return [
        f"{path} imports {module}"
        for path, tree in watched.items()
        for module in imports(tree)
        if service_of(path) and service_of(module) not in (None, service_of(path))
    ]


def services_met_outside_a_composition_root(watched: Sources) -> list[str]:
    return [
        f"{path} puts {' and '.join(sorted(known))} together"
        for path, tree in watched.items()
        if path not in COMPOSITION_ROOTS
        and path.startswith("services/")
        and len(known := {service for module in imports(tree) if (service := service_of(module))}) > 1
    ]


def domains_that_know_their_surroundings(watched: Sources) -> list[str]:
    """A domain knows events, reference data and its own domain, and of the log only what a decider is."""
    allowed = ("events.vocabulary", "events.gateway", "events.placement", "events.capacity", "events.envelope")
    found = []
    for path, tree in watched.items():
        own = path.rpartition("/")[0].replace("/", ".")
        for module in imports(tree):
            if module.split(".")[0] not in ("events", "services"):
                continue
            if not module.startswith((*allowed, "events.log.decider", own)):
                found.append(f"{path} imports {module}")
    return found


def events_that_know_services(watched: Sources) -> list[str]:
    return [
        f"{path} imports {module}"
        for path, tree in watched.items()
        for module in imports(tree)
        if module.split(".")[0] in ("services", "simulation")
    ]


def without_docstring(watched: Sources) -> list[str]:
    """A package marker may be empty; a module that says something says first what it is."""
    return [path for path, tree in watched.items() if tree.body and ast.get_docstring(tree) is None]


def evolve_with_a_clock(watched: Sources) -> list[str]:
    """An `evolve` that mentions a context, a clock or the present moment: its replay would differ."""
    found = []
    for path, tree in watched.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "evolve":
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                names |= {argument.arg for argument in node.args.args}
                found += [f"{path}: evolve mentions {name}" for name in sorted(names & {"context", "now", "clock"})]
    return found


def relative_or_star_imports(watched: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno}"
        for path, tree in watched.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or any(alias.name == "*" for alias in node.names))
    ]


PURE = sources(is_pure)
DOMAIN = sources(lambda path: "/domain/" in path)


def test_the_rules_watch_what_they_are_about() -> None:
    assert {"events/placement.py", "services/capacity/domain/unit.py", "services/placement/domain/process.py"} <= set(
        PURE
    )
    assert "services/placement/worker.py" not in PURE
    assert set(DOMAIN) < set(PURE)


def test_contracts_and_domains_import_no_library_that_could_reach_the_outside() -> None:
    assert impure_imports(PURE) == []


def test_contracts_and_domains_look_at_no_clock_no_chance_and_no_environment() -> None:
    assert looks_at_clock_or_chance(PURE) == []


def test_services_hear_each_other_only_through_events() -> None:
    assert services_that_know_each_other(sources()) == []


def test_only_a_composition_root_puts_services_together() -> None:
    assert services_met_outside_a_composition_root(sources()) == []


def test_a_domain_knows_events_and_itself() -> None:
    assert domains_that_know_their_surroundings(DOMAIN) == []


def test_events_know_no_service() -> None:
    assert events_that_know_services(sources(lambda path: path.startswith(("events/", "reference/")))) == []


def test_every_module_says_what_it_is() -> None:
    assert without_docstring(sources()) == []


def test_a_state_depends_on_its_events_alone() -> None:
    watched = sources(lambda path: path.startswith(("events/", "services/")))
    assert evolve_with_a_clock(watched) == []
    evolving = [path for path, tree in watched.items() if "def evolve" in ast.unparse(tree)]
    assert len(evolving) >= 3, "the rule has lost sight of what it watches"


def test_imports_name_what_they_take() -> None:
    assert relative_or_star_imports(sources()) == []


@pytest.mark.parametrize("process", ["node", "gateway_process"])
def test_the_embedded_node_and_the_gateway_run_without_a_broker(process: str) -> None:
    program = f"import sys, services.{process}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "flask" in loaded
    assert BROKER & set(loaded) == set()


BAD_EXAMPLES = [
    (impure_imports, "events/placement.py", "import sqlalchemy as sa"),
    (impure_imports, "services/capacity/domain/unit.py", "def f():\n    from pathlib import Path"),
    (impure_imports, "services/capacity/domain/unit.py", "import random"),
    (impure_imports, "services/capacity/domain/unit.py", "import os.path"),
    (looks_at_clock_or_chance, "events/envelope.py", "from datetime import datetime\nx = datetime.now()"),
    (looks_at_clock_or_chance, "events/envelope.py", "import datetime as dt\nx = dt.date.today()"),
    (looks_at_clock_or_chance, "events/envelope.py", "import time\nx = time.time()"),
    (looks_at_clock_or_chance, "events/envelope.py", "from uuid import uuid4\nx = uuid4()"),
    (looks_at_clock_or_chance, "events/envelope.py", "import os\nx = os.environ['HOME']"),
    (looks_at_clock_or_chance, "events/envelope.py", "x = open('file')"),
    (services_that_know_each_other, "services/placement/worker.py", "from services.capacity.domain.unit import Unit"),
    (services_that_know_each_other, "services/gateway/api.py", "from services import placement"),
    (
        services_met_outside_a_composition_root,
        "services/config.py",
        "import services.placement.worker\nimport services.gateway.api",
    ),
    (domains_that_know_their_surroundings, "services/capacity/domain/unit.py", "from events.log.store import EventLog"),
    (domains_that_know_their_surroundings, "services/capacity/domain/unit.py", "import services.capacity.worker"),
    (events_that_know_services, "events/log/store.py", "from services.node import EmbeddedNode"),
    (without_docstring, "events/placement.py", "x = 1"),
    (evolve_with_a_clock, "services/a.py", "def evolve(state, event, context):\n    return context"),
    (evolve_with_a_clock, "services/a.py", "class D:\n    def evolve(self, s, e):\n        return self.clock.now"),
    (relative_or_star_imports, "events/a.py", "from . import b"),
    (relative_or_star_imports, "events/a.py", "from events.placement import *"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BAD_EXAMPLES)
def test_each_rule_can_fail(rule: Callable[[Sources], list[str]], path: str, source: str) -> None:
    assert rule({path: ast.parse(source)}) != []


def test_no_rule_is_without_a_bad_example() -> None:
    rules = {
        impure_imports,
        looks_at_clock_or_chance,
        services_that_know_each_other,
        services_met_outside_a_composition_root,
        domains_that_know_their_surroundings,
        events_that_know_services,
        without_docstring,
        evolve_with_a_clock,
        relative_or_star_imports,
    }
    assert {rule for rule, _, _ in BAD_EXAMPLES} == rules
