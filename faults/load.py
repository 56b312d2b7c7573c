"""People at work through the API, as many at once as wanted, and a journal of everything they were promised.

The workload is open: what is to be done next arrives at a rate of its own, whether or not the answer to what came before is
there yet. Each client repeats its request under the same key until it is answered, at whichever gateway answers; what was
answered is in the journal, on disk, before it counts.
"""

import base64
import http.client
import itertools
import json
import os
import queue
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

Json = dict[str, Any]

PATIENCE_SECONDS = 120.0
"""How long a client repeats what gets no answer; longer than any fault lasts."""
PAUSE_SECONDS = 0.1
ANSWER_SECONDS = 15.0
LOOK_SECONDS = 0.25
AGAIN_SECONDS = 5.0
"""After which somebody tries again to close a request that is still as it was."""
TOKEN_SECONDS = 120.0
"""Tokens live longer; a signature wants somebody who signed in within five minutes."""
MOST_OPEN = 15
"""Requests open at once: beyond it people finish what is there. Each of them asks shelters again and again by itself."""
MOST_BEHIND = 150
"""Events that the read model may be behind: beyond it people wait, since the machine cannot do more."""
TAPPED_TWICE = 0.1
"""Share of the requests that are sent once more under the same key though they were answered."""

# Positions have gaps; the trail has one line for each event.
BEHIND = """
    SELECT (SELECT count(*) FROM gateway.events) + (SELECT count(*) FROM placement.events)
         + (SELECT count(*) FROM capacity.events) - (SELECT count(*) FROM gateway.trail)
"""

COUNTRIES = ("BE", "NL", "LU")
REFERRERS = {"BE": "be-police-antwerp-1", "NL": "nl-police-rotterdam-1", "LU": "lu-police-esch-1"}
COORDINATORS = {country: f"{country.lower()}-coordinator-1" for country in COUNTRIES}
AUDITOR = "be-auditor-1"
OVER = frozenset({"ended", "refused", "withdrawn", "erased"})


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
        """Acknowledged commands, with the key they came under."""
        self.uncertain: Counter[str] = Counter()
        """Streams to which a command may have gone that was never acknowledged: its first answer was lost, and the repeated
        one was a no."""
        self.tapped_twice = 0
        self.answered_otherwise: list[str] = []
        """Keys whose repetition named other commands than the first answer did."""

    def acknowledged(self, intent: Intent, command_ids: Sequence[str]) -> None:
        line = {"key": intent.key, "who": intent.who, "path": intent.path, "command_ids": list(command_ids)}
        with self._guard:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.command_ids |= dict.fromkeys(command_ids, intent.key)

    def may_have_been_taken(self, intent: Intent) -> None:
        with self._guard:
            self.uncertain[intent.stream] += 1

    def repeated(self, intent: Intent, command_ids: Sequence[str]) -> None:
        with self._guard:
            self.tapped_twice += 1
            if any(self.command_ids.get(command_id) != intent.key for command_id in command_ids):
                self.answered_otherwise.append(intent.key)

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


class Load:
    """Everybody at once: referrers, shelters, focal points, an auditor. What they do follows from what they are shown (the read
    model), and from a seed."""

    def __init__(self, client: Client, database: sa.Engine, *, seed: int, rate: float, people: int = 16) -> None:
        self.client = client
        self.rate = rate
        self._database = database
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._people = people
        self._stop = threading.Event()
        self._arrivals: queue.Queue[Intent | None] = queue.Queue(people)
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._open: dict[str, None] = {}
        self._over: list[str] = []
        self._requests: dict[str, Json] = {}
        self._units: list[Json] = []
        self.shed = 0
        """Arrivals that did not become a request: nobody was free, or too much was under way."""
        self._behind = 0
        self.failures: list[str] = []
        """What must not happen to a client: no answer, or a type of exception."""

    def start(self) -> None:
        self._stop.clear()
        work = [self._look, self._arrive, *[self._work] * self._people]
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when everybody has the answer to what was under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def report_every_bed(self) -> None:
        """Shelters report what they have, so that there is something to hold."""
        self._see()
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(self.client.send, [_report(self._rng, unit) for unit in self._units]):
                pass

    def open_request(self, *, urgent: bool) -> str:
        """A household for which a bed should be found; returns when it is acknowledged. Raises NoAnswer."""
        answer = self.client.send(self._open_intent(self._rng, urgent=urgent))
        if answer.status != 202:
            raise NoAnswer(f"a request was refused: {answer.status}")
        request_id = str(answer.body["request_id"])
        with self._guard:
            self._open[request_id] = None
        return request_id

    def tap_twice(self) -> None:
        """One request, acknowledged and sent again under the same key. Raises NoAnswer."""
        intent = self._open_intent(self._rng, urgent=False)
        answer = self.client.send(intent)
        with self._guard:
            self._open[answer.body["request_id"]] = None
        self.client.tap_again(intent)

    def close_everything(self, seconds: float) -> None:
        """People finish: whoever is on the way arrives, whoever has a bed leaves it, the rest is withdrawn. Raises NoAnswer when
        something stays open."""
        ends, told = time.monotonic() + seconds, dict[tuple[str, str], float]()
        while self._open:
            now = time.monotonic()
            if now > ends:
                raise NoAnswer(f"{len(self._open)} requests are still open after {seconds:.0f} s")
            self._see()
            for request_id, view in self._requests.items():
                step = request_id, view["stage"]
                if told.get(step, 0.0) < now - AGAIN_SECONDS:
                    told[step] = now
                    self.client.send(_ending(view))
            time.sleep(PAUSE_SECONDS)

    def _arrive(self) -> None:
        while not self._stop.wait(self._rng.expovariate(self.rate)):
            intent = self._next()
            if intent is None:
                continue
            if self._behind > MOST_BEHIND:
                self.shed += 1
                continue
            try:
                self._arrivals.put_nowait(intent)
            except queue.Full:
                self.shed += 1
        for _ in range(self._people):
            self._arrivals.put(None)

    def _work(self) -> None:
        while intent := self._arrivals.get():
            try:
                answer = self.client.send(intent)
                if answer.status == 202 and "request_id" in answer.body and not intent.stream:
                    with self._guard:
                        self._open[answer.body["request_id"]] = None
                if answer.status == 202 and intent.method == "POST" and self._rng.random() < TAPPED_TWICE:
                    self.client.tap_again(intent)
            except Exception as failure:  # noqa: BLE001 - the others go on, and it is counted
                self.failures.append(f"{type(failure).__name__}: {failure}")

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with suppress(sa.exc.SQLAlchemyError):  # they look again when it is back
                self._see()

    def _see(self) -> None:
        with self._guard:
            wanted = list(self._open)
        with self._database.connect() as connection:
            shown = connection.execute(
                sa.text("SELECT view::jsonb - 'shortlist' FROM gateway.requests WHERE request_id = ANY(:wanted)"),
                {"wanted": wanted},
            )
            requests = {view["request_id"]: view for (view,) in shown}
            units = [json.loads(view) for (view,) in connection.exec_driver_sql("SELECT view FROM gateway.units")]
            self._behind = int(connection.exec_driver_sql(BEHIND).scalar_one())
        over = [request_id for request_id, view in requests.items() if view["stage"] in OVER]
        with self._guard:
            for request_id in over:
                self._open.pop(request_id, None)
                del requests[request_id]
            self._over += over
            self._requests, self._units = requests, units

    def _next(self) -> Intent | None:
        rng = self._rng
        luck = rng.random()
        if luck < 0.2 and self._units:
            return _report(rng, rng.choice(self._units))
        if luck < 0.22 and self._over:
            return _erasure(self._over.pop(rng.randrange(len(self._over))))
        if luck < 0.45 and len(self._open) < MOST_OPEN:
            return self._open_intent(rng, urgent=rng.random() < 0.85)
        shown = list(self._requests.values())
        return _act(rng, rng.choice(shown)) if shown else None

    @staticmethod
    def _open_intent(rng: random.Random, *, urgent: bool) -> Intent:
        danger = rng.choice(COUNTRIES)
        household = rng.choice([{"women": 1}, {"men": 1}, {"women": 1}, {"women": 1, "children_under_6": 1}])
        body = {
            "urgency": "urgent" if urgent else "standard",
            "danger_country": danger,
            "household": household,
            "languages": ["en"],
            "consented_countries": [country for country in COUNTRIES if country != danger],
            "callback": "synthetic callback, code KESTREL",
        }
        return Intent(REFERRERS[danger], "POST", "/relocation-requests", body)


def _about(who: str, view: Json, what: str, body: Json) -> Intent:
    request_id = view["request_id"]
    path = f"/relocation-requests/{request_id}/{what}"
    return Intent(who, "POST", path, body, f"relocation_request-{request_id}")


def _act(rng: random.Random, view: Json) -> Intent | None:
    """What somebody does next about a request that is open; None when they let it wait."""
    origin = COORDINATORS[view["danger_country"]]
    proposal = view["proposal"]
    if rng.random() < 0.04:
        return _withdrawal(view)
    match view["stage"]:
        case "asked" | "offered":
            return _answer_or_propose(rng, view)
        case "proposed" if proposal:
            host = COORDINATORS[proposal["host_country"]]
            refusal = {"refusal": "papers_missing"} if rng.random() < 0.1 else {}
            return _about(host, view, "countersignature", {"proposal_hash": proposal["hash"], **refusal})
        case "confirmed" if not view["journey"]:
            due = datetime.fromisoformat(view["changed_at"]) + timedelta(hours=96)
            escort = f"synthetic.{view['danger_country'].lower()}-escort-1"
            steps = "synthetic steps, code OSPREY"
            return _about(origin, view, "journey", {"escort": escort, "arrival_due": due.isoformat(), "steps": steps})
        case "confirmed" if not view["consents"].get(f"transport/{view['host_country']}/household"):
            consent = {"scope": "transport", "country": view["host_country"], "given": True, "by": "household"}
            return _about(origin, view, "consent", consent)
        case "confirmed":
            return _about(origin, view, "departure", {})
        case "departed" | "arrived" | "astray":
            return _ending(view)
        case "unmet_need" | "opened" if rng.random() < 0.3:
            return _withdrawal(view)
    return None


def _answer_or_propose(rng: random.Random, view: Json) -> Intent | None:
    asks = [ask for ask in view["asks"].values() if ask["state"] in ("open", "accepted")]
    luck = rng.random()
    if not asks or luck < 0.1:  # the hold runs out
        return None
    ask = rng.choice(asks)
    if ask["state"] == "accepted":
        body = {"ask_id": ask["ask_id"], "override": "household_preference"}
        return _about(COORDINATORS[view["danger_country"]], view, "proposal", body)
    said: Json = {"accept": True, "rendezvous": "synthetic place, code HERON"}
    if luck < 0.4:
        said = {"accept": False, "decline": "not_staffed"}
    stream = f"relocation_request-{view['request_id']}"
    return Intent(f"{ask['shelter_id']}-staff", "POST", f"/asks/{ask['ask_id']}/answer", said, stream)


def _ending(view: Json) -> Intent:
    if view["stage"] in ("departed", "astray"):
        return _about(f"{view['proposal']['shelter_id']}-staff", view, "arrival", {"outcome": "arrived"})
    if view["stage"] == "arrived":
        return _about(f"{view['proposal']['shelter_id']}-staff", view, "end", {"reason": "moved_on"})
    return _withdrawal(view)


def _withdrawal(view: Json) -> Intent:
    return _about(COORDINATORS[view["danger_country"]], view, "withdrawal", {"reason": "danger_passed"})


def _erasure(request_id: str) -> Intent:
    return Intent(AUDITOR, "POST", "/erasures", {"request_id": request_id}, f"relocation_request-{request_id}")


def _report(rng: random.Random, unit: Json) -> Intent:
    """Every bed that Haven has given to nobody is free, but for one now and then."""
    free = unit["beds"] - unit["held"] - unit["occupied"]
    body = {"beds": unit["beds"], "free": max(0, free - (rng.random() < 0.1))}
    path = f"/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"
    return Intent(
        f"{unit['shelter_id']}-staff", "PUT", path, body, f"unit-{unit['unit_id']}", revision=unit["revision"]
    )
