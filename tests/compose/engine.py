"""docker/compose.yaml as a project of its own: up, down, and what a person does to it meanwhile by Docker's commands.

Both programs will do: `docker compose`, and the older `docker-compose`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "docker/compose.yaml"
TAG = "test"
KEY = re.compile(r"gb_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")


@dataclass(frozen=True)
class Container:
    """One that runs, or has run."""

    id: str
    service: str
    running: bool
    healthy: bool
    exit_code: int
    image: str
    addresses: frozenset[str]

    @property
    def hostname(self) -> str:
        return self.id[:12]


class Project:
    """One of its own on this machine: name, port and images are not those of any other."""

    def __init__(self, port: int) -> None:
        self.name = f"gammabeta-test-{secrets.token_hex(3)}"
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**os.environ, "PUBLISH": f"127.0.0.1:{port}", "TAG": TAG}
        self._compose = [*_program(), "-p", self.name, "-f", str(FILE)]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What it wrote to its standard output.

        Raises:
            RuntimeError: it failed; with what it wrote to both.
        """
        return _ran([*self._compose, *arguments], self._environment, check=check)

    def containers(self, *services: str) -> list[Container]:
        """Those of these services, or all."""
        ids = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", self._label).split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        return [each for each in map(_container, found) if each.service in services or not services]

    def image_bytes(self, service: str) -> int:
        """Of all its layers."""
        (described,) = json.loads(docker("image", "inspect", f"gammabeta-{service}:{TAG}"))
        return int(described["Size"])

    def take_next_images(self) -> None:
        """From now on others than before, as after a build of a newer version."""
        self._environment["TAG"] = f"{TAG}-next"
        for each in ("service", "worker"):
            docker("tag", f"gammabeta-{each}:{TAG}", f"gammabeta-{each}:{TAG}-next")

    def remains(self) -> list[str]:
        """Containers, volumes and networks that are still there."""
        kinds = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
        return [each for kind in kinds for each in docker(*kind, "--quiet", "--filter", self._label).split()]

    @property
    def _label(self) -> str:
        return f"label=com.docker.compose.project={self.name}"


@contextmanager
def project(port: int) -> Iterator[Project]:
    """A project that is taken down at the end, however that comes about; where it failed, its logs are shown first."""
    running = Project(port)
    try:
        yield running
    except BaseException:
        print(running.compose("logs", "--no-color", "--tail", "25", check=False), file=sys.stderr)
        raise
    finally:
        running.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
        if left := running.remains():
            print(f"{running.name} is not all down. Left: {' '.join(left)}", file=sys.stderr)


def docker(*arguments: str) -> str:
    """What it wrote to its standard output.

    Raises:
        RuntimeError: it failed.
    """
    return _ran(["docker", *arguments], dict(os.environ))


def inside(container: Container, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a command in the container wrote to both outputs, whatever came of it."""
    ran = subprocess.run(
        ["docker", "exec", *options, container.id, *command], capture_output=True, text=True, check=False
    )
    return ran.stdout + ran.stderr


def _program() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    if plugin:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise RuntimeError("Docker must be installed, with `docker compose` or `docker-compose`.")


def _ran(command: list[str], environment: dict[str, str], *, check: bool = True) -> str:
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if check and ran.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ran.returncode}: {ran.stdout[-4_000:]}{ran.stderr[-4_000:]}"
        )
    return ran.stdout


def _container(described: dict[str, Any]) -> Container:
    state = described["State"]
    return Container(
        id=described["Id"],
        service=described["Config"]["Labels"]["com.docker.compose.service"],
        running=state["Running"],
        healthy=state.get("Health", {}).get("Status") == "healthy",
        exit_code=state["ExitCode"],
        image=described["Config"]["Image"],
        addresses=frozenset(each["IPAddress"] for each in described["NetworkSettings"]["Networks"].values()),
    )
