"""Predictions a second: gammabeta beside its peers, batching on and off, and twice as much as it can do.

    scripts/bench serve [peers] [batching] [overload] [engines] [--n 3] [--seconds 5]
                        [--litserve PYTHON] [--bentoml PYTHON] [--mlserver PYTHON]

peers      Dense(64) + batch norm + ReLU + Dense(10) on 784 inputs, one process each, driven by `wrk -t1 -c16` in turn:
           1 and 16 rows a request as JSON, 16 as binary. A ratio compares two services that were driven one after the
           other. LitServe, BentoML and MLServer run in interpreters of their own, where they are named:
           `python3 -m venv .venv-litserve && .venv-litserve/bin/pip install litserve torch`.
batching   the `cnn` preset on 28 x 28 images, one image a request, sixteen clients, with batches and without.
overload   ResNet-18 on 96 x 96 pictures, so that the network and not the driver is what is busy: a quarter of what
           sixteen connections get done, then twice as much, at its own pace: latency of those accepted, how many were
           refused, and the memory of the service; with the default line and with a short one (`--queued-ms`).
engines    ResNet-18 on 224 x 224 pictures, one and eight a call, without HTTP: torch with the network as it is stored,
           torch folded, ONNX Runtime folded.

Needs wrk (`scripts/packages` installs it).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from bench import engines, peers
from bench.driving import CONNECTIONS, Driven, Offered, at_rate, driven
from bench.peers import FEATURES, Body, Peer
from gammabeta.schemas.preprocessing import FittedArray, FittedImage
from gammabeta.schemas.presets import CnnPreset, MlpPreset, ResnetPreset
from gammabeta.store import migrations
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from tests.integration.service.shelf import Shelf

CLASSES = tuple("0123456789")
PIXELS, PICTURE = (28, 28), (96, 96, 3)
UNBATCHED = {"GAMMABETA_MAX_BATCH_ROWS": "1"}
CASES = ("1 row, JSON", "16 rows, JSON", "16 rows, binary")


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="gammabeta-serve-") as name:
        folder = Path(name)
        home = shelved(folder / "home")
        for part in options.parts:
            _PARTS[part](options, home, folder)


def shelved(home: Path) -> Path:
    """A home with the models, of random weights: their values do not matter to their speed."""
    home.mkdir()
    url = f"sqlite:///{home / 'gammabeta.db'}"
    migrations.upgrade(url)
    database = Database(url)
    shelf = Shelf(database=database, blobs=FolderBlobs(home / "blobs"), scratch=home)
    shelf.version(
        "dense",
        FittedArray(shape=(FEATURES,), mean=(0.0,) * FEATURES, std=(1.0,) * FEATURES),
        classes=CLASSES,
        network=MlpPreset(hidden=(64,)),
    )
    shelf.version("cnn", FittedImage(shape=PIXELS, scale=255.0), classes=CLASSES, network=CnnPreset())
    shelf.version("resnet", FittedImage(shape=PICTURE, scale=255.0), classes=CLASSES, network=ResnetPreset(depth=18))
    database.dispose()
    return home


def ours(home: Path, model: str, *, ready: Body | None = None, **environment: str) -> Peer:
    """The service, with its guards, counters and batches as they are by default."""
    return Peer(
        name="gammabeta",
        command=lambda port, _: ["env", f"GAMMABETA_PORT={port}", sys.executable, "-P", "-m", "service"],
        json=peers.instances(f"/v1/models/{model}/predict"),
        binary=peers.v2_binary(f"/v2/models/{model}/infer"),
        environment={"GAMMABETA_HOME": str(home), "GAMMABETA_PREDICT_THREADS": "1"} | environment,
        ready=ready,
    )


# ── beside its peers ──


def against_peers(options: argparse.Namespace, home: Path, folder: Path) -> None:
    """All services stay up; they are driven in turn, so that a busy minute of the machine meets all of them."""
    made = {"litserve": peers.litserve, "bentoml": peers.bentoml, "mlserver": peers.mlserver}
    others = [make(getattr(options, key)) for key, make in made.items() if getattr(options, key)]
    every = [peers.BARE, ours(home, "dense"), peers.PLAIN, *others]
    with ExitStack() as ended:
        urls = {each.name: ended.enter_context(peers.started(each, folder / each.name)) for each in every}
        for case in CASES:
            seen = {each.name: [] for each in every if _body(each, case) is not None}
            for _ in range(options.n):
                for each in every:
                    body = _body(each, case)
                    if body is not None:
                        seen[each.name].append(_driven(urls[each.name], body, folder, options))
            _print_case(case, seen)


def _body(peer: Peer, case: str) -> Body | None:
    x = peers.rows(1 if case == CASES[0] else 16)
    if case == CASES[2]:
        return peer.binary(x) if peer.binary else None
    return peer.json(x)


def _driven(url: str, body: Body, folder: Path, options: argparse.Namespace) -> Driven:
    seen = driven(url, body, folder, seconds=options.seconds)
    if seen.refused or seen.broken:
        raise SystemExit(f"every request must be answered. Received: {seen}")
    return seen


def _print_case(case: str, seen: dict[str, list[Driven]]) -> None:
    print(f"\n{case}, {CONNECTIONS} connections, n={len(next(iter(seen.values())))}")
    bare = [each.rate for each in seen[peers.BARE.name]]
    for name, turns in seen.items():
        ratios = [turn.rate / beside for turn, beside in zip(turns, bare, strict=True)]
        rate, p50, p99 = (median(getattr(turn, key) for turn in turns) for key in ("rate", "p50_ms", "p99_ms"))
        print(
            f"  {name:24} {rate:7,.0f} requests/s   p50 {p50:6.2f} ms   p99 {p99:7.2f} ms   "
            f"x bare {median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


# ── batching ──


def with_and_without_batches(options: argparse.Namespace, home: Path, folder: Path) -> None:
    """The same service twice."""
    on, off = ours(home, "cnn"), ours(home, "cnn", **UNBATCHED)
    body = _image("/v2/models/cnn/infer", PIXELS)
    with peers.started(on, folder / "on") as url_on, peers.started(off, folder / "off") as url_off:
        ratios = []
        for turn in range(1, options.n + 1):
            batched, alone = (_driven(url, body, folder, options) for url in (url_on, url_off))
            ratios.append(batched.rate / alone.rate)
            print(
                f"{turn}: cnn, one image a request: {batched.rate:,.0f} requests/s in batches (p99 "
                f"{batched.p99_ms:.1f} ms), {alone.rate:,.0f} without (p99 {alone.p99_ms:.1f} ms), "
                f"ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(
        f"in batches / without: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)} "
        f"(target >= 1.5), {os.cpu_count()} cores"
    )


def _image(path: str, shape: tuple[int, ...]) -> Body:
    pixels = np.random.default_rng(0).integers(0, 256, size=(1, *shape)).astype(np.float32)
    return peers.v2_binary(path)(pixels)


# ── overload ──


def overloaded(options: argparse.Namespace, home: Path, folder: Path) -> None:
    """Twice its capacity, with the line as it is by default and with one so short that latency stays low."""
    body = _image("/v2/models/resnet/infer", PICTURE)
    with peers.started(ours(home, "resnet", ready=body), folder / "capacity") as url:
        capacity = _driven(url, body, folder, options).rate
    for name, limits in (("default", {}), ("short", {"GAMMABETA_MAX_QUEUED_MS": str(options.queued_ms)})):
        print(f"line: {name} {' '.join(limits.values())}")
        with peers.started(ours(home, "resnet", ready=body, **limits), folder / name) as url:
            _flood(url, body, capacity, options)


def _flood(url: str, body: Body, capacity: float, options: argparse.Namespace) -> None:
    pid = _listener(url)
    with _memory(pid) as before:
        calm = at_rate(url, body, rate=capacity / 4, seconds=options.seconds)
    with _memory(pid) as during:
        flooded = at_rate(url, body, rate=2 * capacity, seconds=2 * options.seconds)
    with _memory(pid) as afterwards:
        after = at_rate(url, body, rate=capacity / 4, seconds=options.seconds)
    _print_offered(f"a quarter of the capacity of {capacity:,.0f}/s", calm, before())
    _print_offered("twice the capacity", flooded, during())
    _print_offered("a quarter again", after, afterwards())
    print(f"p99 of those accepted, twice the capacity / a quarter: {flooded.p99 / calm.p99:.2f} (target <= 3)")


def _print_offered(what: str, offered: Offered, megabytes: float) -> None:
    print(
        f"{what}: {offered.rate:,.0f} accepted/s, p50 {1_000 * median(offered.accepted):.1f} ms, p99 "
        f"{1_000 * offered.p99:.1f} ms, {offered.refused:,} answered 429, {len(offered.broken)} broken"
        f"{' ' + offered.broken[0] if offered.broken else ''}, most memory {megabytes:,.0f} MB",
        flush=True,
    )


def _listener(url: str) -> int:
    """The process that listens there."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inode = next(f[9] for f in map(str.split, lines) if f[1].endswith(f":{port}") and f[3] == "0A")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    raise RuntimeError(f"a process of this user must listen on {url}. Received: none")


@contextmanager
def _memory(pid: int) -> Iterator[Callable[[], float]]:
    """The most resident memory of a process in the block, in MB: the kernel keeps it, and forgets it at the start."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    most = [float("nan")]
    yield lambda: most[0]
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    most[0] = int(status["VmHWM"].split()[0]) / 1_000


_PARTS: dict[str, Callable[[argparse.Namespace, Path, Path], None]] = {
    "peers": against_peers,
    "batching": with_and_without_batches,
    "overload": overloaded,
    "engines": lambda options, *_: engines.side_by_side(options.engine_turns),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []], help="by default all")
    parser.add_argument("--n", type=int, help=f"how many turns: if not given, 3, and {engines.TURNS} of engines")
    parser.add_argument("--seconds", type=float, default=5, help="how long each is driven")
    parser.add_argument(
        "--queued-ms", type=int, default=10, help="how much work may wait in the short line of overload"
    )
    for name in ("litserve", "bentoml", "mlserver"):
        parser.add_argument(f"--{name}", type=Path, help="an interpreter that has it")
    options = parser.parse_args()
    options.parts = options.parts or list(_PARTS)
    options.engine_turns = engines.TURNS if options.n is None else options.n
    options.n = 3 if options.n is None else options.n
    return options


if __name__ == "__main__":
    main()
