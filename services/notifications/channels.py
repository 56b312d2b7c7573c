"""One address of an organisation, spoken to through Apprise, in a bounded time.

Apprise is handed one address and one text. What it says of what goes wrong can quote both, so its logger is closed: whether a
message was taken is all that is learned here.
"""

import logging
import threading
from urllib.parse import urlsplit

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat

SEND_SECONDS = 30.0
"""A gateway that has not answered by then counts as one that failed. Beyond Apprise's own limits, which are for one read."""
TITLE = "Haven"
"""Subject of an e-mail; where there is none it stands before the text."""

logging.getLogger("apprise").disabled = True  # of an address it cannot read it prints all
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

_ASSET = AppriseAsset(
    app_id="Haven",
    app_desc="Haven",
    app_url="",
    image_url_mask="",  # no picture from somebody else's server
    image_url_logo="",
    image_path_mask=False,
    async_mode=False,  # one address, one thread: ours
    http_redirects=False,  # a gateway cannot send us elsewhere
    allow_templates=False,
    secure_logging=True,
)


class BadAddress(ValueError):
    """An address that cannot be used; says why and never which."""


class NotTaken(Exception):
    """A message that was not taken over. Of what went wrong only the kind is known."""


class Channel:
    """One address. Sends one message at a time; while one hangs, the next fails at once, so that a dead gateway costs one
    thread and no time."""

    def __init__(self, address: str) -> None:
        """Raises BadAddress."""
        service = Apprise.instantiate(address, asset=_ASSET)
        if not isinstance(service, NotifyBase):
            raise BadAddress("no address that Apprise knows; see https://github.com/caronc/apprise/wiki.")
        if not service.verify_certificate:
            raise BadAddress(
                "verify=no would give what is secret in it to whoever answers; use a certificate that is trusted."
            )
        self._apprise = Apprise(asset=_ASSET)
        self._apprise.add(service)
        self.service = urlsplit(address).scheme.lower()
        """What kind of service it is: all of an address that may be shown."""
        self._busy = threading.Lock()

    def __repr__(self) -> str:
        return f"Channel({self.service})"

    def send(self, text: str, seconds: float = SEND_SECONDS) -> None:
        """Returns when the service has taken the message over. Raises NotTaken."""
        if not self._busy.acquire(blocking=False):
            raise NotTaken("Hangs")
        outcome: list[str] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append(
                    "" if self._apprise.notify(body=text, title=TITLE, body_format=NotifyFormat.TEXT) else "Refused"
                )
            except Exception as failure:  # noqa: BLE001 - a hundred services, each with its own
                outcome.append(type(failure).__name__)
            finally:
                self._busy.release()
                done.set()

        threading.Thread(target=work, name="channel", daemon=True).start()
        if not done.wait(seconds):
            raise NotTaken("Hangs")
        if outcome[0]:
            raise NotTaken(outcome[0])
