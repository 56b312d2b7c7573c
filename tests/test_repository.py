"""What has to stay true of the repository itself: how it is installed, run, built and written down."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("bench", "events", "reference", "services", "simulation")
LOCKS = ("requirements.lock", "requirements-dev.lock")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PYTHON_TARGETS = ("run", "demo", "demo-real", "test", "check", "catalogues", "pictures", "bench", "faults")


def package_name(requirement: str) -> str:
    """The name before any extra, version or marker, as PEP 503 normalizes it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def runtime_dependencies() -> list[str]:
    return PROJECT["project"]["dependencies"]


def development_dependencies() -> list[str]:
    return [*PROJECT["dependency-groups"]["build"], *PROJECT["dependency-groups"]["dev"]]


def locked(lock: str) -> dict[str, tuple[str, int]]:
    """Name to (version, number of hashes) of every requirement in a lock."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            version = re.match(r"\S+==([^\s;]+)", line)
            assert version, f"{lock} does not pin: {line[:60]}"
            found[package_name(line)] = (version[1], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)))
    return found


def project_files(*suffixes: str) -> Iterator[Path]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and (not suffixes or path.suffix in suffixes):
                yield path


def make_targets() -> dict[str, str | None]:
    """Every phony target of the Makefile and its help text."""
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    assert phony
    helps = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE))
    return {target: helps.get(target) for target in phony[1].split()}


# Dependencies


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_pinned_and_hashed(lock: str) -> None:
    assert [name for name, (_, hashes) in locked(lock).items() if hashes == 0] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text)


@pytest.mark.parametrize("dependency", [*runtime_dependencies(), PROJECT["build-system"]["requires"][0]])
def test_what_runs_is_in_both_locks(dependency: str) -> None:
    assert all(package_name(dependency) in locked(lock) for lock in LOCKS)


@pytest.mark.parametrize("dependency", development_dependencies())
def test_what_developers_use_is_in_their_lock(dependency: str) -> None:
    assert package_name(dependency) in locked("requirements-dev.lock")


def test_tests_run_on_the_very_versions_that_are_deployed() -> None:
    developed = locked("requirements-dev.lock")
    assert {name: developed.get(name) for name in locked("requirements.lock")} == locked("requirements.lock")


def test_the_build_backend_is_the_locked_one() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert re.fullmatch(r"setuptools==[\d.]+", backend)
    assert PROJECT["dependency-groups"]["build"] == [backend]


@pytest.mark.parametrize("dependency", [*runtime_dependencies(), *development_dependencies()])
def test_an_exact_pin_and_its_lock_agree(dependency: str) -> None:
    exact = re.search(r"==([0-9][^,;\s]*)", dependency)
    assert exact is None or locked("requirements-dev.lock")[package_name(dependency)][0] == exact[1]


def test_faust_is_pinned_exactly_because_its_commit_behaviour_is_part_of_our_promises() -> None:
    assert "faust-streaming==0.15.3" in runtime_dependencies()


def test_every_direct_dependency_and_nothing_else_is_explained() -> None:
    installed, front_end, vendored = (ROOT / "docs/dependencies.md").read_text().partition("\n## Front end")
    assert front_end
    row = re.compile(r"^\| `([^`]+)` \|(.+)\|$", re.MULTILINE)
    assert sorted(package_name(name) for name, _ in row.findall(installed)) == sorted(
        {package_name(name) for name in [*runtime_dependencies(), *development_dependencies()]}
    )
    packages = json.loads((ROOT / "frontend/package.json").read_text())
    assert sorted(name for name, _ in row.findall(vendored)) == sorted(
        packages["dependencies"] | packages["devDependencies"]
    )
    rows = row.findall(installed) + row.findall(vendored)
    assert [name for name, cells in rows if not all(cell.strip() for cell in cells.split("|"))] == []


def test_the_lock_of_the_front_end_is_pinned_and_hashed_and_names_no_host() -> None:
    packages = json.loads((ROOT / "frontend/package.json").read_text())
    lock = json.loads((ROOT / "frontend/package-lock.json").read_text())["packages"]
    pinned = packages["dependencies"] | packages["devDependencies"]
    assert {name: lock[f"node_modules/{name}"]["version"] for name in pinned} == pinned
    assert [name for name, entry in lock.items() if name and not entry["integrity"].startswith("sha512-")] == []
    assert [name for name, entry in lock.items() if "resolved" in entry] == []
    assert "ignore-scripts=true" in (ROOT / "frontend/.npmrc").read_text().splitlines()


# Installing and running


def test_every_make_target_says_what_it_does() -> None:
    assert [target for target, text in make_targets().items() if not text] == []


def test_make_offers_what_the_documentation_promises() -> None:
    assert set(make_targets()) == {"help", *PYTHON_TARGETS, "frontend", "frontend-check", "up", "down", "lock"}


def test_make_alone_prints_the_help() -> None:
    printed = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True, timeout=30).stdout
    assert [target for target in make_targets() if f"make {target} " not in printed] == []


@pytest.mark.parametrize("target", PYTHON_TARGETS)
def test_a_fresh_clone_needs_one_command(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    plan = subprocess.run(
        ["make", "-C", tmp_path, "--dry-run", target], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert "-m venv" in plan
    assert "--require-hashes" in plan
    assert "--editable ." in plan


def test_an_old_python_is_refused_in_words(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    answer = subprocess.run(
        ["make", "-C", tmp_path, "test", f"PYTHON={old}"], capture_output=True, text=True, check=False, timeout=30
    )
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer" in answer.stderr
    assert "Python 3.9.18" in answer.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_everything_and_closes_with_the_tests() -> None:
    script = ROOT / ".ci/run"
    lines = [line.strip() for line in script.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert os.access(script, os.X_OK)
    assert lines[0] == "set -euo pipefail"
    assert [line for line in lines if line.startswith("make ")] == [
        "make check",
        "make frontend-check",
        "make demo",
        "make demo-real",
        "make test",
    ]
    assert lines[-1] == "make test"
    subprocess.run(["bash", "-n", script], check=True, timeout=30)


@pytest.mark.slow
def test_the_wheel_holds_every_file_its_packages_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in project_files()}


# Containers


def test_the_image_is_built_from_exact_versions_and_hashes_and_is_not_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])
    assert "--require-hashes --only-binary :all: --requirement requirements.lock" in dockerfile
    users = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)
    assert users == [COMPOSE["services"]["node"]["user"]]


def test_the_image_is_made_of_the_packages_and_their_lock_only() -> None:
    admitted = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {*admitted} == {*PACKAGES, "LICENSE", "README.md", "pyproject.toml", "requirements.lock"}


# Code and prose


def test_no_module_has_a_name_that_says_nothing() -> None:
    forbidden = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
    assert [path for path in project_files(".py") if forbidden & {path.stem, *path.relative_to(ROOT).parts[:-1]}] == []


def test_no_module_of_the_product_outgrows_one_concept() -> None:
    product = ("events/", "services/", "reference/")
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in project_files(".py")}
    # Contracts only grow: a released event is never removed, and one context's events belong on one page.
    contracts = {f"events/{context}.py" for context in ("capacity", "gateway", "placement")}
    assert {p: n for p, n in lengths.items() if n > 430 and p.startswith(product) and p not in contracts} == {}


def test_the_changelog_keeps_a_place_for_security() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    unreleased = re.search(r"^## \[Unreleased\]\n(.+?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    assert unreleased
    headings = re.findall(r"^### (.+)$", unreleased[1], re.MULTILINE)
    assert "Security" in headings
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_licence_that_is_declared_is_the_one_that_is_shipped() -> None:
    assert PROJECT["project"]["license"] == "EUPL-1.2"
    assert (ROOT / "LICENSE").read_text().startswith("EUROPEAN UNION PUBLIC LICENCE v. 1.2\n")
