"""`make demo-real`: the demo's story on real parts, from nothing, twice: signed in at the gateway's own demo sign-in, and at
Keycloak. Fetches, starts, plays, stops.
"""

import shutil
import sys
import tempfile

from deploy.artifacts import PartUnavailable
from deploy.process import PartFailed
from deploy.stack import Stack
from services.demo import AUDITOR, ESCORT, HOST, ORIGIN, POLICE, SAME_PERSON, DemoFailed, demo_client, play

SPEED = 300
"""Two hours of hold pass in 24 seconds: long enough for everybody to sign in at a page."""
PEOPLE = (POLICE, ORIGIN, HOST, SAME_PERSON, ESCORT, AUDITOR)


def main() -> int:
    """The exit status."""
    folder = tempfile.mkdtemp(
        prefix="haven-demo-"
    )  # not below a private folder: under root PostgreSQL is somebody else
    try:
        _say("Starting Kafka, PostgreSQL, Keycloak and six processes of Haven, in " + folder)
        with Stack(folder, keycloak=True, more={"HAVEN_EXERCISE_SPEED": str(SPEED)}) as stack:
            logins = stack.data / "demo-logins.json"
            _say("\n1. PostgreSQL, Apache Kafka, Faust workers; the gateway's own demo sign-in\n")
            play(demo_client(stack.url, logins, stream_url=stack.stream_url), _say)
            _say("\n2. The same with Keycloak: everybody signs in at its page\n")
            client = demo_client(stack.url, logins, stack.sign_in_at_keycloak(), stack.stream_url)
            for who in PEOPLE:
                client.sign_in_now(who)
            play(client, _say)
            stack.settle()
        _say("\nEverything is stopped; nothing is left behind.")
    except (PartUnavailable, PartFailed, DemoFailed) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
