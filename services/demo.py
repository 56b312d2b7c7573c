"""One cross-border relocation, played through the HTTP API alone, as its people would.

It shows what must not go wrong: a shelter that declines, a hold that runs out before anybody signs and is asked for again
by itself, and a second signature by the same person, refused. Everything and everybody in it is synthetic. The player
keeps its idempotency keys and simply repeats what got no answer, so the node may be killed at any moment of the story.
"""

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from services.api_client import PATIENCE, Answer, Client, Json, NodeUnreachable, SenderKey, SignIn

Say = Callable[[str], None]

EXERCISE_SPEED = 600
"""Two hours of hold pass in twelve seconds."""

POLICE, ORIGIN, HOST, SAME_PERSON, ESCORT, AUDITOR = (
    "be-police-antwerp-1",
    "be-coordinator-1",
    "nl-coordinator-1",
    "be-coordinator-1-for-nl",
    "be-escort-1",
    "be-auditor-1",
)

CALLBACK = "synthetic callback: ask the desk for code KESTREL-41"
RENDEZVOUS = "synthetic rendezvous: under the clock, code HERON-77"
STEPS = "synthetic steps: leave by the side door, code OSPREY-13, change cars once"


class DemoFailed(Exception):
    """The story did not end as it should; the message says where."""


@dataclass
class Story:
    """The people of the demo and where they are in it."""

    client: Client
    say: Say
    request_id: str = ""

    def api(self, who: str, method: str, path: str, body: Json | None = None, **headers: str) -> Answer:
        return self.client.send(who, method, f"/api/v1{path}", body, Prefer="wait=10", **headers)

    def act(self, who: str, what: str, body: Json) -> Answer:
        return self.api(who, "POST", f"/relocation-requests/{self.request_id}/{what}", body)

    def view(self, who: str = ORIGIN) -> Json:
        answer = self.api(who, "GET", f"/relocation-requests/{self.request_id}")
        if answer.status != 200:
            raise DemoFailed(f"{who} cannot read the request: {answer.body.get('title')}")
        return answer.body

    def tell(self, text: str) -> None:
        self.say(f"- {text}")

    def until(self, what: str, condition: Callable[[Json], bool]) -> Json:
        """Waits for something Haven does by itself, looking only when the live stream says that something moved."""
        view: Json = {"stage": "unknown"}
        for _ in self.client.moves(ORIGIN, self.request_id):
            view = self.view()
            if condition(view):
                return view
        raise DemoFailed(f"waited in vain until {what}; the request is {view['stage']}")


def demo_client(url: str, logins_file: Path, sign_in: SignIn | None = None, stream_url: str = "") -> Client:
    """The people of the story, each with a login of their own."""
    # The police's token is bound to a key, as a program's must be: stolen, it would be worth nothing.
    return Client(
        url, json.loads(logins_file.read_text()), keys={POLICE: SenderKey()}, sign_in=sign_in, stream_url=stream_url
    )


def play(client: Client, say: Say) -> None:
    """Plays the whole story through the API that the client speaks to. Raises DemoFailed."""
    try:
        _play(client, say)
    except NodeUnreachable as away:
        raise DemoFailed(str(away)) from None


def _play(client: Client, say: Say) -> None:
    _wait_for_node(client.url)
    story = Story(client, say)
    say("Haven demo. Every person, shelter and place in it is synthetic.\n")
    _shelters_report(story)
    _police_open(story)
    _one_shelter_declines(story)
    _a_hold_runs_out(story)
    _both_countries_sign(story)
    _the_household_travels(story)
    _show_timeline(story)


def play_on_own_node(say: Say) -> None:
    """Starts an embedded node in an empty directory with fast time, plays the story, and stops it."""
    with tempfile.TemporaryDirectory(prefix="haven-demo-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = {
            "HAVEN_DATA_DIR": folder,
            "HAVEN_PORT": str(port),
            "HAVEN_EXERCISE_SPEED": str(EXERCISE_SPEED),
            "HAVEN_SCENE": "none",  # the story has people of its own
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HAVEN_")}
        node = subprocess.Popen(
            [sys.executable, "-c", "from services.cli import main; main()", "run"],
            env={**kept, **settings},
            stdout=subprocess.DEVNULL,
        )
        try:
            url, logins_file = f"http://127.0.0.1:{port}", Path(folder) / "demo-logins.json"
            _wait_for_node(url)  # it makes the logins
            play(demo_client(url, logins_file), say)
        finally:
            node.terminate()
            node.wait(timeout=20)


def _wait_for_node(url: str) -> None:
    place = urlsplit(url)
    ends = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.1)
    raise DemoFailed(f"no node is ready at {url}")


def _shelters_report(story: Story) -> None:
    """Three Dutch shelters put their capacity right: the demo must not hang on what the synthetic inventory drew."""
    reported = 0
    for staff in sorted(name for name in story.client.logins if name.startswith("nl-shelter")):
        shelter = staff.removesuffix("-staff")
        for unit in story.api(staff, "GET", f"/shelters/{shelter}/units").body["units"]:
            if reported < 3 and _suits(unit):
                _report_free_bed(story, staff, unit)
                reported += 1
                break
    story.tell(f"{reported} shelters reported a free bed each, as absolute values on the revision they had seen.")


def _suits(unit: Json) -> bool:
    return (
        unit["track"] == "adult"
        and "women" in unit["accepts"]
        and unit["open_at_night"]
        and not unit["held"]
        and not unit["occupied"]
    )


def _report_free_bed(story: Story, staff: str, unit: Json) -> None:
    path = f"/shelters/{unit['shelter_id']}/units/{unit['unit_id']}/capacity"
    while True:
        seen = story.api(staff, "GET", path)
        report = {"beds": seen.body["beds"], "free": max(1, seen.body["free"])}
        answer = story.api(staff, "PUT", path, report, If_Match=seen.headers["etag"])
        if answer.status == 200:
            return
        if answer.status != 412:
            raise DemoFailed(f"a report was refused: {answer.body.get('title')}")


def _police_open(story: Story) -> None:
    answer = story.api(
        POLICE,
        "POST",
        "/relocation-requests",
        {
            "urgency": "urgent",
            "danger_country": "BE",
            "danger_zones": [{"code": "BE21", "with_neighbours": True}],
            "household": {"women": 1},
            "languages": ["en"],
            "consented_countries": ["NL"],
            "callback": CALLBACK,
        },
    )
    if answer.status not in (201, 202):
        raise DemoFailed(f"the request was not accepted: {answer.body.get('title')} {answer.body.get('field', '')}")
    story.request_id = answer.body["request_id"]
    story.tell(f"Belgian police opened an urgent request; Haven answered {answer.status} with id {story.request_id}.")
    view = story.until("a shelter is asked", lambda view: bool(view["asks"]))
    listed = len(view["shortlist"]["candidates"])
    story.tell(
        f"Haven ranked {listed} units by written rules, held beds and asked {len(view['asks'])} shelters at once."
    )


def _answer(story: Story, ask: Json, body: Json) -> Answer:
    return story.api(f"{ask['shelter_id']}-staff", "POST", f"/asks/{ask['ask_id']}/answer", body)


def _open_asks(view: Json) -> list[Json]:
    return [ask for ask in view["asks"].values() if ask["state"] == "open"]


def _one_shelter_declines(story: Story) -> None:
    while True:
        view = story.until("a shelter is asked", lambda view: bool(_open_asks(view)))
        ask = _open_asks(view)[0]
        if _answer(story, ask, {"accept": False, "decline": "not_staffed"}).status == 200:
            declined = story.view()["asks"][ask["ask_id"]]
            if declined["state"] == "declined":
                story.tell(
                    "One shelter declined: not staffed tonight. Its bed is free again; Haven asks the next by itself."
                )
                return


def _get_offer(story: Story) -> Json:
    """Shelters answer until one Dutch yes stands."""
    while True:
        view = story.until("a shelter is asked", lambda view: bool(_open_asks(view)) or view["stage"] == "offered")
        for ask in view["asks"].values():
            if ask["state"] == "accepted":
                return dict(ask)
        for ask in _open_asks(view):
            if ask["country"] != "NL":
                _answer(story, ask, {"accept": False, "decline": "no_space"})
            elif _answer(story, ask, {"accept": True, "rendezvous": RENDEZVOUS}).status == 200:
                break


def _a_hold_runs_out(story: Story) -> None:
    offer = _get_offer(story)
    story.tell("A Dutch shelter said yes and gave a hand-over place, sealed before it was kept.")
    story.tell("Nobody signs. The hold runs out by itself ...")
    story.until("the hold runs out", lambda view: view["asks"][offer["ask_id"]]["state"] != "accepted")
    story.tell("... its bed is free again, and Haven asks again by itself.")


def _both_countries_sign(story: Story) -> None:
    refused = False
    for _ in range(20):
        offer = _get_offer(story)
        proposed = story.act(ORIGIN, "proposal", {"ask_id": offer["ask_id"], "override": "household_preference"})
        if proposed.status != 200:
            continue  # the offer ran out a moment ago: the next one comes by itself
        shown = story.view()["proposal"]
        if shown is None:
            continue
        signature = {"proposal_hash": shown["hash"]}
        if not refused:
            same = story.act(SAME_PERSON, "countersignature", signature)
            if same.status != 403:
                raise DemoFailed(f"one person could sign twice ({same.status})")
            refused = True
            story.tell(f"The same person tried to sign for the Netherlands too: {same.status}, {same.body['title']}")
        if story.act(HOST, "countersignature", signature).status == 200:
            view = story.until(
                "the placement is confirmed", lambda view: view["stage"] in ("confirmed", "asked", "offered")
            )
            if view["stage"] == "confirmed":
                story.tell(
                    "Both countries signed exactly what was shown; capacity made the hold firm; it is confirmed."
                )
                return
    raise DemoFailed("twenty offers ran out before both countries had signed")


def _the_household_travels(story: Story) -> None:
    now = datetime.fromisoformat(story.view()["changed_at"])
    due = (now + timedelta(hours=48)).isoformat()
    _expect(story.act(ORIGIN, "journey", {"escort": "synthetic.be-escort-1", "arrival_due": due, "steps": STEPS}))
    consent = {"scope": "transport", "country": "NL", "given": True, "by": "household"}
    _expect(story.act(POLICE, "consent", consent))
    story.tell("The journey is planned; the household said yes again, to the journey itself.")
    read = story.act(
        ESCORT,
        "disclosures",
        {"field": "rendezvous", "reason": "drive_journey", "recipient": "synthetic.be-escort-1"},
    )
    _expect(read)
    if read.body["value"] != RENDEZVOUS:
        raise DemoFailed("the escort was shown something else than what the shelter gave")
    story.tell(f"The escort, and nobody else, read the hand-over place; gone at {read.body['expires_at'][:16]}.")
    _expect(story.act(ESCORT, "departure", {}))
    story.tell("Departed.")
    proposal = story.view()["proposal"]
    _expect(story.act(f"{proposal['shelter_id']}-staff", "arrival", {"outcome": "arrived"}))
    view = story.until("the household has arrived", lambda view: view["stage"] == "arrived")
    story.tell(f"Arrived in {view['host_country']}. The bed is occupied.\n")


def _expect(answer: Answer) -> None:
    if answer.status not in (200, 202):
        raise DemoFailed(f"refused: {answer.body.get('title')} ({answer.status})")


def _show_timeline(story: Story) -> None:
    events = story.api(ORIGIN, "GET", f"/relocation-requests/{story.request_id}/timeline").body["events"]
    story.say("Timeline, as the Belgian coordinator reads it:")
    told = [_line(event) for event in events if event["type"] not in _NOT_TOLD]
    for what, same in itertools.groupby(told, key=lambda line: line[13:]):
        moments = list(same)
        story.say("  " + moments[0][:13] + what + (f"  (x{len(moments)})" if len(moments) > 1 else ""))
    trail = story.api(
        AUDITOR, "GET", f"/audit/events?case={story.request_id}&verb=disclosure", Haven_Purpose="lawfulness_check"
    )
    _expect(trail)
    opened = [e for e in trail.body["events"] if e["type"] == "gateway.sealed_field.disclosed.v1"]
    story.say(f"\nThe auditor sees {len(opened)} sealed field opened, by whom and why, and not what it said.")


_NOT_TOLD = ("placement.relocation_request.next_step_set.v1", "capacity.unit.standing_changed.v1")
_TOLD = ("stage", "reason", "decline", "outcome", "scope", "country", "field", "step", "resource", "unit_id")


def _line(event: Json) -> str:
    what = event["type"].rsplit(".", 1)[0].replace("_", " ").replace(".", ": ", 1).replace(".", " ")
    told = ", ".join(f"{name} {event['detail'][name]}" for name in _TOLD if isinstance(event["detail"].get(name), str))
    actor = event["actor"]
    who = "by itself" if actor["role"] == "system" else f"{actor['role']} {actor['country']}"
    return f"{event['time'][5:16].replace('T', ' ')}  {what:52} {who:18} {told}"
