"""Log lines as JSON, one object a line, that can hold nothing about a person.

A list says what may pass, so a value nobody thought of stays out: of a template like `handling failed consumer=%s error=%s`
the words become the event and each argument a key, if its name is on the list and its value looks as that name's values do.
Of an exception only the type and the place are said: its text, its traceback and its notes can quote what somebody wrote.
The words themselves must stand in the source file that logs them: a message put together beforehand is withheld, with its
place given instead. Of a library's message nothing but such words and numbers passes.
"""

import ast
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TextIO

import structlog
from prometheus_client import Counter

WITHHELD = Counter(
    "haven_log_values_withheld",
    "Values kept out of a log line because their name or shape is not on the list",
    registry=None,
)
"""Counts in every process; services/operations/metrics.py puts it on the registry."""

_LOGGER = r"[A-Za-z_][A-Za-z0-9_.]{0,119}"
_NAME = r"[a-z][a-z0-9_./-]{0,119}"
_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,64}"
_STREAM = r"[a-z_]{1,40}-[A-Za-z0-9_.:-]{1,80}"
_NUMBER = r"-?\d{1,19}(\.\d{1,9})?"
_TYPE = r"[A-Za-z_][A-Za-z0-9_.]{0,79}"
_PLACE = r"[A-Za-z0-9_./<>-]{1,100}:\d{1,6}"

ALLOWED: Mapping[str, re.Pattern[str]] = {
    name: re.compile(shape)
    for names, shape in (
        ("channel client consumer group log service source thread topic", _NAME),
        ("dead_letter event_id", _ID),
        ("stream", _STREAM),
        ("count end first offset partition port position seconds status tries try", _NUMBER),
        ("category cause error reason", _TYPE),
        ("sqlstate", r"[0-9A-Z]{5}"),
        ("at", _PLACE),
    )
    for name in names.split()
}
"""Every key a line may have beside those that are always there, and what its values look like. Ids are opaque; a person's,
a token's or a sealed value's name is not here."""

RENAMED = {"event": "event_id", "process": "service"}
"""`event` is what happened and `process` who says it: an event's id and the kind of a worker have keys of their own."""

_ROOT = PurePath(__file__).parents[2]
WITHHELD_TEXT = "withheld"
OURS = ("events", "services", "simulation", "deploy", "bench", "haven")
_LONGEST = 200
_PLACEHOLDER = re.compile(r"(?:\b(?P<name>\w+)=)?%(?:%|[#0\- +]*[\d.]*[a-zA-Z])")


def configure_logging(process: str) -> None:
    """Sends every log line, warning and uncaught exception of this process to standard output as described above.

    Warnings and errors of everybody, and of our own packages what is informative too. May be called again; the last call
    counts."""
    _install(process, sys.stdout)


def _install(process: str, output: TextIO) -> None:
    handler = _QuietHandler(output)
    handler.setFormatter(LineFormatter(process))
    # A library that makes itself talkative later (asked to by a setting of its own) is still not heard.
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or _is_own_logger(record.name))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):  # a library's own handler would write past this one
            logger.handlers[:] = [kept for kept in logger.handlers if isinstance(kept, logging.NullHandler)]
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    for package in OURS:
        logging.getLogger(package).setLevel(logging.INFO)
    logging.raiseExceptions = False  # or a line that cannot be written is shown on standard error, arguments and all
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    warnings.showwarning = _warned


class _QuietHandler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - as logging calls it
        WITHHELD.inc()  # a full disk or a reader that went away: the work goes on


class LineFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._render = structlog.processors.JSONRenderer()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name if re.fullmatch(_LOGGER, record.name) else WITHHELD_TEXT,
            "event": WITHHELD_TEXT,
        }
        said = _said_natively(record) if isinstance(record.msg, dict) else _said(record)
        line |= said
        if record.exc_info and record.exc_info[0] is not None:
            line |= _about(record.exc_info[1], record.exc_info[2])
        if line["event"] == WITHHELD_TEXT:
            line.setdefault("at", _place(record.pathname, record.lineno))
        return str(self._render(None, "", line))


def _said(record: logging.LogRecord) -> dict[str, Any]:
    """A template and its arguments, as the event and its keys."""
    template = str(record.msg)
    if template not in literals(record.pathname):
        WITHHELD.inc()
        return {"event": "uncaught in an event loop" if record.name == "asyncio" else WITHHELD_TEXT}
    placeholders = [found for found in _PLACEHOLDER.finditer(template) if found[0] != "%%"]
    arguments = record.args if isinstance(record.args, tuple) else ()
    if len(arguments) != len(placeholders):
        arguments = (None,) * len(placeholders)  # nobody can tell which is which
    ours = _is_own_logger(record.name)
    said: dict[str, Any] = {}
    words, read_to = "", 0
    for placeholder, argument in zip(placeholders, arguments, strict=True):
        words += template[read_to : placeholder.start()]
        read_to = placeholder.end()
        if ours and placeholder["name"]:
            said |= dict(_allowed(placeholder["name"], argument))
        elif not ours and type(argument) in (int, float):
            words += f"{placeholder['name'] or ''}{'=' if placeholder['name'] else ''}{argument}"
        else:
            words += "…"
            WITHHELD.inc()
    words = " ".join((words + template[read_to:]).replace("%%", "%").split())
    return {"event": words[:_LONGEST] if re.search(r"[a-z]{3}", words) else WITHHELD_TEXT, **said}


def _said_natively(record: logging.LogRecord) -> dict[str, Any]:
    """What was said through structlog's own loggers: keys already."""
    assert isinstance(record.msg, dict)
    given = {name: value for name, value in record.msg.items() if name not in ("event", "exc_info")}
    said = dict(pair for name, value in given.items() for pair in _allowed(name, value))
    event = record.msg.get("event")
    if event not in literals(record.pathname):
        WITHHELD.inc()
        return said
    return {"event": event, **said}


def _is_own_logger(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _allowed(name: str, value: object) -> Iterator[tuple[str, Any]]:
    name = RENAMED.get(name, name)
    shape = ALLOWED.get(name)
    if shape and isinstance(value, str | int | float) and shape.fullmatch(str(value)):
        yield name, value if type(value) in (int, float) else str(value)
    else:
        WITHHELD.inc()


def _about(failure: BaseException | None, traceback: TracebackType | None) -> dict[str, Any]:
    """Of an exception its type, what caused it, and the last place in our own code it went through."""
    if failure is None:
        return {}
    said = {"error": type(failure).__name__}
    if cause := failure.__cause__ or failure.__context__:
        said["cause"] = type(cause).__name__
    state = getattr(getattr(failure, "orig", failure), "sqlstate", None)
    if isinstance(state, str) and ALLOWED["sqlstate"].fullmatch(state):
        said["sqlstate"] = state
    places = []
    while traceback is not None:
        places.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    own = [place for place in places if _is_ours(PurePath(place[0]))]
    if places:
        said["at"] = _place(*(own or places)[-1])
    return said


def _is_ours(path: PurePath) -> bool:
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in OURS


def _place(path: str, line: int) -> str:
    found = PurePath(path)
    parts = found.relative_to(_ROOT).parts if found.is_relative_to(_ROOT) else found.parts
    place = f"{'/'.join(parts[-3:])}:{line}".lstrip("/")
    return place if ALLOWED["at"].fullmatch(place) else "?"


@lru_cache(maxsize=256)
def literals(path: str) -> frozenset[str]:
    """Every text that stands in a source file as one literal; none if there is no such file."""
    try:
        with warnings.catch_warnings():  # about an escape in somebody's source
            warnings.simplefilter("ignore")
            tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    parts = {id(part) for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in text.values}
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    )


_HERE = logging.getLogger("services.operations")


def _uncaught(kind: type[BaseException], failure: BaseException, traceback: TracebackType | None) -> None:
    _HERE.critical("uncaught", exc_info=(kind, failure, traceback))


def _uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_type is not SystemExit:
        exc_info = (uncaught.exc_type, uncaught.exc_value or uncaught.exc_type(), uncaught.exc_traceback)
        _HERE.critical("uncaught thread=%s", uncaught.thread.name if uncaught.thread else "?", exc_info=exc_info)


def _unraisable(uncaught: Any) -> None:
    failure = uncaught.exc_value or uncaught.exc_type()
    _HERE.error("uncaught where nothing can be raised", exc_info=(uncaught.exc_type, failure, uncaught.exc_traceback))


def _warned(
    message: Warning | str,  # noqa: ARG001 - as warnings calls it; a warning can quote what somebody wrote
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _HERE.warning("warning category=%s at=%s", category.__name__, _place(filename, lineno))
