"""One client of the API who repeats until answered, at whichever gateway answers, and the journal of what was promised: on disk
before it counts."""

import base64
import http.client
import itertools
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

PATIENCE_SECONDS = 120.0
"""How long a client repeats what gets no answer; longer than any fault lasts."""
PAUSE_SECONDS = 0.1
ANSWER_SECONDS = 15.0
TOKEN_SECONDS = 120.0
"""Tokens live longer; a signature wants somebody who signed in within five minutes."""


@dataclass(frozen=True)
class Intent:
    """One thing somebody wants, under its own key. `stream` is the one its command goes to; empty while nobody knows."""

    who: str
    method: str
    path: str
    body: Json
    stream: str = ""
    revision: int | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(18))


@dataclass(frozen=True)
class Answer:
    status: int
    body: Json


class NoAnswer(Exception):
    """Nobody answered for as long as the client's patience lasts."""


class Journal:
    """What clients were promised. A line is on disk before `acknowledged` returns."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab")
        self._guard = threading.Lock()
        self.command_ids: dict[str, str] = {}
        """Acknowledged commands, with the key they last came under."""
        self._named: dict[str, frozenset[str]] = {}
        """What the first answer to each key named. Two keys may name one command: the same report of the same unit."""
        self.uncertain: Counter[str] = Counter()
        """Streams to which a command may have gone that was never acknowledged: its first answer was lost, and the repeated
        one was a no."""
        self.tapped_twice = 0
        self.answered_otherwise: list[str] = []
        """What was repeated and named other commands than the first answer did."""

    def acknowledged(self, intent: Intent, command_ids: Sequence[str]) -> None:
        line = {"key": intent.key, "who": intent.who, "path": intent.path, "command_ids": list(command_ids)}
        with self._guard:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.command_ids |= dict.fromkeys(command_ids, intent.key)
            self._named[intent.key] = frozenset(command_ids)

    def may_have_been_taken(self, intent: Intent) -> None:
        with self._guard:
            self.uncertain[intent.stream] += 1

    def repeated(self, intent: Intent, command_ids: Sequence[str]) -> None:
        with self._guard:
            self.tapped_twice += 1
            if self._named.get(intent.key) != frozenset(command_ids):
                self.answered_otherwise.append(f"{intent.method} {intent.path} under {intent.key}")

    def close(self) -> None:
        self._file.close()


class Client:
    """Sends intents to any of several gateways, each again until it is answered."""

    def __init__(self, urls: Callable[[], Sequence[str]], logins: Mapping[str, str], journal: Journal) -> None:
        self._urls = urls
        self._logins = logins
        self._journal = journal
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._turn = itertools.count()
        self.counts: Counter[str] = Counter()

    def send(self, intent: Intent) -> Answer:
        """The answer, journalled if it is a promise. Raises NoAnswer."""
        answer = self._send(intent)
        if answer.status == 202:
            self._journal.acknowledged(intent, answer.body["command_ids"])
            self.counts["acknowledged"] += 1
        else:
            self.counts["refused"] += 1
        return answer

    def tap_again(self, intent: Intent) -> None:
        """Sends once more what was acknowledged: the answer must name the same commands, unless whoever asks may not know of it
        any more. That the key was used for something else is not true."""
        answer = self._send(intent)
        if answer.status in (202, 422):
            self._journal.repeated(intent, answer.body.get("command_ids", [""]))

    def _send(self, intent: Intent) -> Answer:
        headers = {"Content-Type": "application/json", "Idempotency-Key": intent.key}
        if intent.revision is not None:
            headers["If-Match"] = f'"{intent.revision}"'
        ends, tries = time.monotonic() + PATIENCE_SECONDS, 0
        while time.monotonic() < ends:
            urls = self._urls()
            url = urls[next(self._turn) % len(urls)]
            with suppress(OSError, http.client.HTTPException, ValueError):
                token = self._token(url, intent.who)
                tries += 1
                status, body = _once(url, intent, headers | {"Authorization": f"Bearer {token}"})
                self.counts["answers"] += 1
                if status == 401:
                    self._tokens.pop((url, intent.who), None)
                elif status < 500:
                    if status != 202 and tries > 1:
                        self._journal.may_have_been_taken(intent)
                    return Answer(status, body)
                self.counts[f"status {status}"] += 1
            time.sleep(PAUSE_SECONDS)
        self._journal.may_have_been_taken(intent)
        raise NoAnswer(f"no answer to {intent.method} {intent.path} within {PATIENCE_SECONDS:.0f} s")

    def _token(self, url: str, who: str) -> str:
        known, until = self._tokens.get((url, who), ("", 0.0))
        if time.monotonic() < until:
            return known
        basic = base64.b64encode(f"{who}:{self._logins[who]}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        status, body = _request(url, "POST", "/oauth/token", b"grant_type=client_credentials", headers)
        if status != 200:
            raise ValueError(f"{who} cannot sign in")
        self._tokens[url, who] = (body["access_token"], time.monotonic() + TOKEN_SECONDS)
        return str(body["access_token"])


def _once(url: str, intent: Intent, headers: Mapping[str, str]) -> tuple[int, Json]:
    return _request(url, intent.method, f"/api/v1{intent.path}", json.dumps(intent.body).encode(), headers)


def _request(url: str, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, Json]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, content, dict(headers))
        response = connection.getresponse()
        raw = response.read()
        return response.status, json.loads(raw) if raw else {}
    finally:
        connection.close()
