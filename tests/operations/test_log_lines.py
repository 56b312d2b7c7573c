"""What may be read in a log line, and that nothing else gets into one, whichever way it comes."""

import ast
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.operations.logs import ALLOWED, RENAMED, WITHHELD, WITHHELD_TEXT, LineFormatter, literals

ROOT = Path(__file__).resolve().parents[2]
CANARY = "PLOVER-41"
ALWAYS = {"timestamp", "level", "process", "logger", "event"}

Line = dict[str, Any]


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LineFormatter("placement"))
        self.said: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        assert "\n" not in line
        self.said.append(json.loads(line))


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Callable[[str], tuple[logging.Logger, Lines]]:
    """A logger of a name, and what its lines became."""

    def make(name: str) -> tuple[logging.Logger, Lines]:
        logger, lines = logging.getLogger(name), Lines()
        logger.addHandler(lines)
        before = logger.propagate, logger.level
        logger.propagate = False
        logger.setLevel(logging.DEBUG)

        def restore() -> None:
            logger.removeHandler(lines)
            logger.propagate, level = before
            logger.setLevel(level)

        request.addfinalizer(restore)
        return logger, lines

    return make


def withheld() -> float:
    (metric,) = WITHHELD.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))


def test_a_template_becomes_its_words_and_its_arguments_become_keys(said) -> None:
    logger, lines = said("events.log.follower")
    logger.error(
        "handling failed consumer=%s event=%s try=%d error=%s",
        "gateway.read_model",
        "0b6f2ad4e1f94b7f8a1d2c3b4e5f6071",
        3,
        "KeyError",
    )
    (line,) = lines.said
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("timestamp"))
    assert line == {
        "level": "error",
        "process": "placement",
        "logger": "events.log.follower",
        "event": "handling failed",
        "consumer": "gateway.read_model",
        "event_id": "0b6f2ad4e1f94b7f8a1d2c3b4e5f6071",
        "try": 3,
        "error": "KeyError",
    }


def test_a_value_under_a_name_that_is_not_on_the_list_is_dropped_and_counted(said) -> None:
    logger, lines = said("services.x")
    before = withheld()
    logger.warning("opened person=%s consumer=%s", CANARY, "placement")
    assert lines.said[0] | {"timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "process": "placement",
        "logger": "services.x",
        "event": "opened",
        "consumer": "placement",
    }
    assert withheld() == before + 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("error", "no row for Ms Plover"),
        ("error", f"KeyError: '{CANARY}' at home"),
        ("count", "forty-one"),
        ("stream", "side door, left of the clock"),
        ("stream", "x" * 200),
        ("at", "somewhere"),
        ("sqlstate", "23505 Key (callback)"),
        ("partition", "1\n2"),
        ("consumer", ["placement"]),
        ("consumer", None),
    ],
)
@pytest.mark.attack(52)
def test_a_value_that_does_not_look_as_its_name_s_values_do_is_dropped(said, key: str, value: object) -> None:
    logger, lines = said("services.x")
    template = {
        "error": "failed error=%s",
        "count": "failed count=%s",
        "stream": "failed stream=%s",
        "at": "failed at=%s",
        "sqlstate": "failed sqlstate=%s",
        "partition": "failed partition=%s",
        "consumer": "failed consumer=%s",
    }[key]
    before = withheld()
    logger.error(template, value)
    assert lines.said[0]["event"] == "failed"
    assert key not in lines.said[0]
    assert withheld() == before + 1


def test_a_message_put_together_beforehand_is_withheld_and_its_place_said(said) -> None:
    logger, lines = said("services.x")
    logger.error(f"nobody at {CANARY}")  # noqa: G004
    logger.error("nobody at " + CANARY)  # noqa: G003
    logger.error("nobody at %s" % CANARY)  # noqa: G002, UP031
    assert [line["event"] for line in lines.said] == [WITHHELD_TEXT] * 3
    assert all(re.fullmatch(r"tests/operations/test_log_lines\.py:\d+", line["at"]) for line in lines.said)


def test_an_argument_without_a_name_is_left_out_of_the_words(said) -> None:
    logger, lines = said("services.x")
    logger.error("nobody at %s consumer=%s", CANARY, "placement")
    assert lines.said[0]["event"] == "nobody at …"
    assert lines.said[0]["consumer"] == "placement"


def test_too_many_or_too_few_arguments_say_nothing_instead_of_raising(said) -> None:
    logger, lines = said("services.x")
    logger.error("failed consumer=%s", "placement", CANARY)  # noqa: PLE1205
    logger.error("failed consumer=%s error=%s", CANARY)  # noqa: PLE1206
    logger.error("failed consumer=%(consumer)s", {"consumer": CANARY})
    assert [line["event"] for line in lines.said[:2]] == ["failed", "failed"]
    assert CANARY not in json.dumps(lines.said)


def test_of_an_exception_only_its_type_cause_and_place_are_said(said) -> None:
    logger, lines = said("services.x")

    def fail() -> None:
        problem = ValueError(CANARY)
        problem.add_note(CANARY)
        raise problem from KeyError(CANARY)

    try:
        fail()
    except ValueError:
        logger.exception("failed", stack_info=True)
    (line,) = lines.said
    assert (line["error"], line["cause"]) == ("ValueError", "KeyError")
    assert re.fullmatch(r"tests/operations/test_log_lines\.py:\d+", line["at"])
    assert CANARY not in json.dumps(line)


def test_the_place_is_the_last_one_in_our_own_code(said) -> None:
    logger, lines = said("services.x")
    try:
        literals(3)  # type: ignore[arg-type]
    except TypeError:
        logger.exception("failed")
    assert lines.said[0]["at"].startswith("services/operations/logs.py:")


def test_a_failing_statement_says_its_sqlstate_and_not_what_was_written(said) -> None:
    class Refused(Exception):
        sqlstate = "23505"

    class Wrapped(Exception):
        orig = Refused(f"Key (stream)=({CANARY}) already exists.")

    logger, lines = said("services.x")
    logger.error("failed", exc_info=Wrapped(CANARY))
    assert lines.said[0]["sqlstate"] == "23505"
    assert CANARY not in json.dumps(lines.said)


def test_of_a_library_only_the_words_of_its_source_and_numbers_pass(said) -> None:
    logger, lines = said("waitress.queue")
    logger.warning("Task queue depth is %d", 4)
    logger.warning("Exception while serving %s", f"/asks/{CANARY}")
    logger.warning("Exception while serving %s" % f"/asks/{CANARY}")  # noqa: G002, UP031
    logger.warning("request consumer=%s", CANARY)
    assert [line["event"] for line in lines.said] == [
        "Task queue depth is 4",
        "Exception while serving …",
        WITHHELD_TEXT,
        "request …",
    ]
    assert CANARY not in json.dumps(lines.said)


def test_structlog_s_own_loggers_keep_the_same_list(said) -> None:
    _, lines = said("services.native")
    native = structlog.wrap_logger(
        logging.getLogger("services.native"),
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    native.error("failed", consumer="placement", person=CANARY)
    assert lines.said[0]["consumer"] == "placement"
    assert CANARY not in json.dumps(lines.said)


def test_extra_attributes_of_a_record_are_not_said(said) -> None:
    logger, lines = said("services.x")
    logger.error("failed", extra={"consumer": CANARY, "callback": CANARY})
    assert set(lines.said[0]) == ALWAYS


def log_calls() -> list[tuple[str, ast.Call]]:
    """Every call of a logger in the product."""
    found = []
    for package in ("events", "services"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    target = ast.unparse(node.func.value)
                    if target in ("logger", "_HERE", "logging") and node.func.attr in {
                        "debug",
                        "info",
                        "warning",
                        "error",
                        "critical",
                        "exception",
                        "log",
                    }:
                        found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


def test_every_log_call_of_ours_is_one_literal_with_names_from_the_list() -> None:
    wrong = []
    calls = log_calls()
    for place, call in calls:
        template = call.args[0]
        if not (isinstance(template, ast.Constant) and isinstance(template.value, str)):
            wrong.append(f"{place} logs no literal")
            continue
        placeholders = re.findall(r"(\w+=)?%[sd]", template.value)
        names = [RENAMED.get(name[:-1], name[:-1]) for name in placeholders]
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        if not starred and len(names) != len(call.args) - 1:
            wrong.append(f"{place} has other arguments than its template")
        wrong += [f"{place} logs {name or 'a value without a name'}" for name in names if name not in ALLOWED]
    assert len(calls) > 15, "the search has gone blind"
    assert wrong == []


# Everything at once, in a process of its own


PROGRAM = """
import asyncio, contextlib, logging, sys, threading, warnings
import sqlalchemy as sa
from services.operations.logs import configure_logging

old = logging.StreamHandler(sys.stderr)  # a library that brought its own handler
logging.getLogger("mode.worker").addHandler(old)
logging.getLogger("mode.worker").propagate = False
configure_logging("gateway")
CANARY = sys.argv[1]
ours, theirs = logging.getLogger("services.gateway.api"), logging.getLogger("aiokafka.consumer")
ours.error("failed person=%s token=%s", CANARY, CANARY)
ours.error("failed consumer=%s", [CANARY])
ours.error("%s", CANARY)
ours.error(CANARY)
ours.error(Exception(CANARY))
ours.error("failed", extra={"callback": CANARY})
ours.error("failed consumer=%d", CANARY)
ours.info("started count=%d", 1)
theirs.error("Failed to decode %r", CANARY.encode())
theirs.warning("message " + CANARY)
theirs.info("received %s", CANARY)
talkative = logging.getLogger("kafka.admin.client")
talkative.setLevel(logging.DEBUG)
talkative.debug("Starting with configuration: sasl_plain_password")
logging.getLogger("mode.worker").error("crashed %s", CANARY)
logging.getLogger(CANARY + " logger").error("failed")
logging.getLogger("late").addHandler(logging.NullHandler())
warnings.warn("deprecated " + CANARY)
engine = sa.create_engine("sqlite://", echo=False)
with contextlib.suppress(sa.exc.SQLAlchemyError):
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("INSERT INTO nowhere VALUES (:callback)"), {"callback": CANARY})
    except sa.exc.SQLAlchemyError:
        ours.exception("statement failed")
        raise

class Falls:
    def __del__(self):
        raise ValueError(CANARY)

def falls():
    raise ValueError(CANARY)

thread = threading.Thread(target=falls, name=CANARY + " thread")
thread.start()
thread.join()
Falls()

async def main():
    async def task():
        raise ValueError(CANARY)
    running = asyncio.create_task(task(), name=CANARY)
    await asyncio.sleep(0.01)
    del running
    import gc
    gc.collect()
    asyncio.get_running_loop().call_soon(falls)
    await asyncio.sleep(0.01)

asyncio.run(main())
caught = ExceptionGroup(CANARY, [ValueError(CANARY)])
caught.add_note(CANARY)
raise caught from KeyError(CANARY)
"""


@pytest.mark.attack(52)
def test_a_planted_value_comes_out_of_no_path_of_a_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), CANARY],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert CANARY not in done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stderr == "", "everything is said on standard output"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(line) - ALWAYS <= set(ALLOWED) for line in lines)
    events = [line["event"] for line in lines]
    for expected in ("statement failed", "warning", "uncaught", "uncaught in an event loop", "started"):
        assert expected in events, f"{expected!r} is said, without what was in it"
    assert "uncaught where nothing can be raised" in events
    assert {line["logger"].partition(".")[0] for line in lines if line["level"] in ("debug", "info")} == {"services"}
    assert lines[-1] | {"timestamp": "", "at": ""} == {
        "timestamp": "",
        "level": "critical",
        "process": "gateway",
        "logger": "services.operations",
        "event": "uncaught",
        "error": "ExceptionGroup",
        "cause": "KeyError",
        "at": "",
    }
