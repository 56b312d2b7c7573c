"""People at work through the API, as many at once as wanted.

The workload is open: what is to be done next arrives at a rate of its own, whether or not the answer to what came before is
there yet.
"""

import json
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import sqlalchemy as sa

from faults.acts import ending, erasure, next_act, opening, report
from faults.client import Client, Intent, Json, NoAnswer

PAUSE_SECONDS = 0.1
LOOK_SECONDS = 0.25
AGAIN_SECONDS = 5.0
"""After which somebody tries again to close a request that is still as it was."""
MOST_OPEN = 15
"""Requests open at once: beyond it people finish what is there. Each of them asks shelters again and again by itself."""
MOST_BEHIND = 400
"""Events that the read model may be behind: beyond it people wait, since the machine cannot do more."""
TAPPED_TWICE = 0.1
"""Share of the requests that are sent once more under the same key though they were answered."""

# Positions have gaps; the trail has one line for each event.
BEHIND = """
    SELECT (SELECT count(*) FROM gateway.events) + (SELECT count(*) FROM placement.events)
         + (SELECT count(*) FROM capacity.events) - (SELECT count(*) FROM gateway.trail)
"""
OVER = frozenset({"ended", "refused", "withdrawn", "erased"})


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
            for _ in pool.map(self.client.send, [report(self._rng, unit) for unit in self._units]):
                pass

    def open_request(self, *, urgent: bool) -> str:
        """A household for which a bed should be found; returns when it is acknowledged. Raises NoAnswer."""
        answer = self.client.send(opening(self._rng, urgent=urgent))
        if answer.status != 202:
            raise NoAnswer(f"a request was refused: {answer.status}")
        request_id = str(answer.body["request_id"])
        with self._guard:
            self._open[request_id] = None
        return request_id

    def tap_twice(self) -> None:
        """One request, acknowledged and sent again under the same key. Raises NoAnswer."""
        intent = opening(self._rng, urgent=False)
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
                    self.client.send(ending(view))
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
            return report(rng, rng.choice(self._units))
        if luck < 0.22 and self._over:
            return erasure(self._over.pop(rng.randrange(len(self._over))))
        if luck < 0.45 and len(self._open) < MOST_OPEN:
            return opening(rng, urgent=rng.random() < 0.85)
        shown = list(self._requests.values())
        return next_act(rng, rng.choice(shown)) if shown else None
