"""`haven` as a real process on a port and a data directory of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

HAVEN = (sys.executable, "-c", "from services.cli import main; main()")


def environment(**settings: object) -> dict[str, str]:
    """The surroundings of a node: ours without any Haven setting, and `settings`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HAVEN_")}
    return ours | {f"HAVEN_{name.upper()}": str(value) for name, value in settings.items()}


def haven(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """One command that ends by itself."""
    settings = {"scene": "none", **settings}
    return subprocess.run(
        [*HAVEN, *arguments], env=environment(**settings), capture_output=True, text=True, check=False, timeout=100
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningNode:
    """`haven run`; what it says goes to a file outside its data directory."""

    def __init__(self, folder: Path, speed: int = 600, scene: str = "none") -> None:
        self.data_dir = folder / "data"
        self.output = folder / "output.txt"
        self.port = free_port()
        self.speed = speed
        self.scene = scene
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def logins(self) -> Path:
        return self.data_dir / "demo-logins.json"

    @property
    def settings(self) -> dict[str, object]:
        return {
            "data_dir": self.data_dir,
            "port": self.port,
            "exercise_speed": self.speed,
            "scene": self.scene,
        }

    def start(self) -> Self:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*HAVEN, "run"], env=environment(**self.settings), stdout=output, stderr=subprocess.STDOUT
            )
        # Making a scene is seconds of work, and many on a machine that is busy with other tests.
        self.wait_until_ready(30.0 if self.scene == "none" else 100.0)
        return self

    def wait_until_ready(self, patience: float = 30.0) -> None:
        ends = time.monotonic() + patience
        while time.monotonic() < ends:
            assert self.process is not None
            assert self.process.poll() is None, self.output.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise AssertionError(f"the node is not ready: {self.output.read_text()}")

    def kill(self) -> None:
        """No farewell: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()
