"""`scripts/test-compose`: the whole deployment, from nothing to nothing, and what must hold in between.

build ─► up ─► first key ─► upload, train, predict ─► what the containers may do
     ─► kill -9 a worker ─► restart the database ─► take replicas of the service away ─► 500 half-open sockets ─► down
"""

from __future__ import annotations

import platform
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from gammabeta.cli import demo
from gammabeta.client.client import Client
from gammabeta.client.waiting import JobHandle
from gammabeta.schemas.training import TrainingSpec
from tests.compose.engine import KEY, Container, Project, docker, inside, project
from tests.compose.load import closed, half_open, predicting
from tests.integration import workshop

PATIENCE = 300
until = partial(workshop.until, seconds=PATIENCE, every=0.2)
HALF_OPEN = 500
ENOUGH = 1_000
"""Predictions that show that something holds."""
LONG = TrainingSpec(epochs=500, batch_size=32)
"""20,000 steps, which take a quarter of a minute where nothing else is to be done."""
SOME_STEPS = 2_000
"""Those after which something is done to it."""


def main() -> int:
    """The exit status."""
    begun = time.monotonic()
    say(f"{platform.machine()}, {platform.system()}; {docker('version', '--format', '{{.Server.Version}}').strip()}")
    with project(free_port()) as deployed:
        build(deployed)
        key = bring_up(deployed)
        with Client(deployed.url, api_key=key) as client:
            key = client.keys.create("test", ["read", "train", "predict"]).key or ""
        with Client(deployed.url, api_key=key) as client:
            train_and_predict(client)
            look_inside(deployed)
            kill_a_worker(deployed, client)
            restart_the_database(deployed, client, key)
            take_away(deployed, key, "kill")
            take_away(deployed, key, "stop")
            hold_sockets_open(deployed)
            upgrade(deployed, client, key)
    remains = deployed.remains()
    assert not remains, f"after it was taken down nothing of it must be left. Received: {remains}"
    say(f"down: no container, volume or network of it is left. {time.monotonic() - begun:.0f} s in all")
    return 0


def build(deployed: Project) -> None:
    timed("build", lambda: deployed.compose("build", "service", "worker"))
    for each in ("service", "worker"):
        say(f"image of the {each}: {deployed.image_bytes(each) / 1e6:,.0f} MB")


def bring_up(deployed: Project) -> str:
    """The first key."""
    begun = time.monotonic()
    deployed.compose("up", "--detach", "--scale", "service=2", "--scale", "worker=2")
    until_healthy(deployed)
    say(f"up: 2 services, 2 workers, database and proxy healthy after {time.monotonic() - begun:.0f} s")
    once = deployed.containers("password", "migrate", "first-key")
    assert [each.exit_code for each in once if not each.running] == [0, 0, 0]
    deployed.compose("up", "--detach", "--no-recreate", "first-key")  # as each `up` does
    until(lambda: not any(each.running for each in deployed.containers("first-key")), "first-key ends again")
    printed = KEY.findall(deployed.compose("logs", "--no-color", "first-key"))
    assert len(printed) == 1, f"the first key must be printed once. Received: {len(printed)} times"
    assert httpx.get(f"{deployed.url}/v1/jobs").status_code == 401
    say("the first key was printed once; without it 401")
    return printed[0]


def train_and_predict(client: Client) -> None:
    arrays = demo.digits()
    begun = time.monotonic()
    client.datasets.upload(arrays, name="digits")
    handle = client.train(
        "digits", "digits", network=demo.NETWORK, preprocessing=demo.PREPROCESSING, training=demo.TRAINING
    )
    job = handle.wait(timeout=PATIENCE)
    say(f"upload, training of 30 epochs and its version took {time.monotonic() - begun:.1f} s")
    demo.compare(client, str(job.version), arrays)


def look_inside(deployed: Project) -> None:
    """Who the programs are there, and what they may."""
    for container in deployed.containers("service", "worker", "nginx"):
        name = container.service
        assert inside(container, "id", "-u").strip() != "0", f"{name} must not be root"
        for place in ("/", "/venv", "/etc") if name != "nginx" else ("/", "/etc"):
            told = inside(container, "touch", f"{place}/probe", options=("--user", "0:0"))
            assert "Read-only file system" in told, f"{name} must not be able to write {place}. Received: {told}"
        status = inside(container, "cat", "/proc/self/status")
        assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE), f"{name} must have no capabilities"
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE), f"{name} must get no privileges"
    say("service, worker and nginx: not root, no capabilities, no new privileges; writing to /, /etc, /venv: EROFS")


def kill_a_worker(deployed: Project, client: Client) -> None:
    handle = long_training(client)
    assert next(iter(handle.events())).type, "events must come while the job runs"
    assert handle.refresh().status == "running"
    victim = worker_of(deployed, client, handle)
    look_for_secrets(deployed, victim)
    step = progress(handle)
    begun = time.monotonic()
    docker("kill", "--signal", "KILL", victim.id)
    until(lambda: handle.refresh().attempt == 2 and handle.job.status == "running", "the job is repeated")
    again = time.monotonic() - begun
    assert worker_of(deployed, client, handle) != victim
    until(lambda: progress(handle) > step, "it gets further than it was")
    further = time.monotonic() - begun
    job = handle.wait(timeout=2 * PATIENCE)
    assert job.attempt == 2
    say(
        f"kill -9 of a worker's container at step {step:,}: the other had the job after {again:.0f} s, was further "
        f"than that after {further:.0f} s, and ended it at step {progress(handle):,}"
    )
    deployed.compose("up", "--detach", "--no-recreate", "--scale", "service=2", "--scale", "worker=2")
    until_healthy(deployed)


def look_for_secrets(deployed: Project, worker: Container) -> None:
    """In what a trainer has inherited."""
    password = inside(worker, "cat", "/run/secrets/database_password").strip()
    assert len(password) == 64
    trainers = inside(worker, "sh", "-c", "grep -la [f]orkserver /proc/[0-9]*/cmdline").split()
    assert trainers, "a training must be a process of its own"
    of_trainers = [inside(worker, "cat", f"{Path(each).parent}/environ") for each in trainers]
    assert all("PATH=" in each and "GAMMABETA" not in each for each in of_trainers)
    every = inside(worker, "sh", "-c", "cat /proc/[0-9]*/environ", options=("--privileged", "--user", "0:0"))
    assert password not in every
    assert not KEY.search(every)
    say(
        "no password and no key in the environment of any process of a worker's container; in those of "
        f"{len(trainers)} trainers not even an address"
    )


def restart_the_database(deployed: Project, client: Client, key: str) -> None:
    handle = long_training(client)
    with predicting(deployed.url, key, model="digits", rows=rows()) as seen:
        begun = time.monotonic()
        deployed.compose("restart", "database")
        until(lambda: ready(deployed), "the database is there again")
        back = time.monotonic() - begun
        step = progress(handle)
        until(lambda: progress(handle) > step or handle.job.status == "succeeded", "the job goes on")
        on = time.monotonic() - begun
    assert handle.wait(timeout=2 * PATIENCE).attempt == 1
    say(
        f"PostgreSQL restarted: ready again after {back:.1f} s, progress of the training after {on:.1f} s, same attempt"
    )
    say(f"  meanwhile: {seen.told()}")
    assert not seen.failed


def take_away(deployed: Project, key: str, verb: str) -> None:
    """A replica of the service, by a command of Docker's."""
    gone, *_ = before = deployed.containers("service")
    with predicting(deployed.url, key, model="digits", rows=rows()) as seen:
        until(lambda: seen.answered > ENOUGH, "it is under load")
        docker(verb, gone.id)
        until(lambda: seen.answered > 2 * ENOUGH, "the other one carries it")
        docker("rm", "--force", gone.id)
        deployed.compose("up", "--detach", "--no-recreate", "--scale", "service=2", "--scale", "worker=2")
        until_healthy(deployed)
        (new,) = (each for each in deployed.containers("service") if each not in before)
        until(lambda: is_asked(deployed, new), "the new one is asked")
    say(f"docker {verb} of a replica under load, and a new one in its place: {seen.told()}")
    assert not seen.failed


def upgrade(deployed: Project, client: Client, key: str) -> None:
    """As docs/deploy.md says: the new ones beside the old ones, then the old ones go."""
    old = deployed.containers("service", "worker")
    handle = long_training(client)
    deployed.take_next_images()
    with predicting(deployed.url, key, model="digits", rows=rows()) as seen:
        begun = time.monotonic()
        deployed.compose("run", "--rm", "migrate")
        beside = ("--scale", "service=4", "--scale", "worker=4", "service", "worker")
        deployed.compose("up", "--detach", "--no-deps", "--no-recreate", *beside)
        until_healthy(deployed, replicas=4)
        for each in old:
            docker("stop", each.id)
            docker("rm", each.id)
        deployed.compose("up", "--detach", "--no-recreate", "--scale", "service=2", "--scale", "worker=2")
        until_healthy(deployed)
        took = time.monotonic() - begun
    assert {each.image[-5:] for each in deployed.containers("service", "worker")} == {"-next"}
    assert not seen.failed
    job = handle.wait(timeout=2 * PATIENCE)
    say(f"upgrade under load in {took:.0f} s, a training went on in its attempt {job.attempt}: {seen.told()}")


def hold_sockets_open(deployed: Project) -> None:
    """Row 14 of THREATS.md: slow headers. It is measured for as long as all of them are open."""
    begun, seconds = time.monotonic(), []
    with half_open(deployed.url, HALF_OPEN) as sockets:
        while not closed(sockets):
            seconds.append(asked(deployed))
        until(lambda: closed(sockets) == HALF_OPEN, "nginx closes them")
        gone = time.monotonic() - begun
    p99 = sorted(seconds)[int(0.99 * len(seconds))]
    say(
        f"{HALF_OPEN} half-open sockets: /healthz beside them, {len(seconds)} times, p99 {p99 * 1_000:.0f} ms; "
        f"all of them closed after {gone:.0f} s"
    )
    assert len(seconds) >= 30
    assert p99 < 1


# ── what is asked for again and again ──


def long_training(client: Client) -> JobHandle:
    """A training that has come some way."""
    handle = client.train("digits", "digits", network=demo.NETWORK, preprocessing=demo.PREPROCESSING, training=LONG)
    until(lambda: progress(handle) > SOME_STEPS, "it trains")
    assert handle.job.status == "running"
    return handle


def progress(handle: JobHandle) -> int:
    """The step that it has come to."""
    job = handle.refresh()
    return job.progress.step if job.progress else 0


def worker_of(deployed: Project, client: Client, handle: JobHandle) -> Container:
    """The one that says with its heartbeats that it runs the job."""

    def found() -> list[Container]:
        hosts = {each.hostname for each in client.workers() if handle.id in [slot.job for slot in each.slots]}
        return [each for each in deployed.containers("worker") if each.hostname in hosts and each.running]

    return until(found, "a worker says that it has the job")[0]


def is_asked(deployed: Project, replica: Container) -> bool:
    """Whether nginx hands requests to it."""
    (proxy,) = deployed.containers("nginx")
    logged = docker("logs", "--tail", "200", proxy.id)
    return any(f'"replica":"{address}:8000"' in logged for address in replica.addresses)


def rows() -> list[list[float]]:
    """Some rows to predict."""
    return demo.digits()["x_test"][:8].tolist()


def asked(deployed: Project) -> float:
    """Seconds until /healthz answered on a connection of its own."""
    begun = time.monotonic()
    httpx.get(f"{deployed.url}/healthz", timeout=30).raise_for_status()
    return time.monotonic() - begun


def ready(deployed: Project) -> bool:
    return httpx.get(f"{deployed.url}/readyz", timeout=30).status_code == 200


def until_healthy(deployed: Project, *, replicas: int = 2) -> None:
    """All that is to run runs, and says that it is well."""
    names = sorted(["database", "nginx", *replicas * ["service", "worker"]])

    def healthy() -> bool:
        found = deployed.containers(*names)
        return sorted(each.service for each in found if each.running and each.healthy) == names

    until(healthy, "all are healthy")
    until(lambda: ready(deployed), "the proxy finds a replica")


def timed(what: str, act: Callable[[], object]) -> None:
    begun = time.monotonic()
    act()
    say(f"{what}: {time.monotonic() - begun:.0f} s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
