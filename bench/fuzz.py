"""The service is asked what nobody would ask, from its own description and over plain sockets: docs/fuzzing.md.

    scripts/bench fuzz                                  both databases: about twenty minutes on two cores
    scripts/bench fuzz --database sqlite --seed 7       on one of them, with other requests
    scripts/bench fuzz --requests 100000                more of them, in rounds of other seeds

Starts the product with a worker; asks it before there is a key, with a key, and without one though there are some; then
speaks to it as no HTTP library does. Any broken promise ends the command with 1. The rules are in `tests/fuzzing/`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import perf_counter
from urllib.parse import urlsplit

from tests.fuzzing import described, sockets
from tests.fuzzing.described import Tally, Way
from tests.fuzzing.place import Fuzzed, fuzzed
from tests.integration.databases import KINDS, Databases
from tests.postgres import running_cluster

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fuzzing.md"
SEED, REQUESTS, SOCKETS, EXAMPLES = 20_261_122, 10_000, 2_000, 20
AGAIN = ("fuzzing", "stateful")
"""What differs from seed to seed."""
COLUMNS = ("asked", "requests", "5xx", "undocumented", "other failures", "seconds", "MiB before", "after")
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|\n"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table."""

    asked: str
    requests: int
    server_errors: int
    undocumented: int
    failed: Counter[str]
    seconds: float
    before: float
    after: float

    @property
    def broken(self) -> bool:
        return bool(self.server_errors or self.undocumented or self.failed)

    def __str__(self) -> str:
        others = ", ".join(f"{name} {count}" for name, count in self.failed.items()) or "0"
        cells = (
            self.asked,
            f"{self.requests:,}",
            self.server_errors,
            self.undocumented,
            others,
            f"{self.seconds:,.0f}",
            f"{self.before:.0f}",
            f"{self.after:.0f}",
        )
        return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Ask, print, keep."""
    options = _options()
    broken = False
    for kind in options.databases:
        print(f"{NAMES[kind]}, seed {options.seed}\n{HEAD}", end="", flush=True)
        lines = []
        with _place(kind) as place:
            for line in _asked(place, options):
                print(line, flush=True)
                lines.append(line)
            unforeseen = [f"logged: {each}" for each in place.logged_errors()]
            unforeseen += [] if place.alive() else ["the service does not answer /readyz"]
        for each in unforeseen:
            print(f"BROKEN: {each}", flush=True)
        broken |= bool(unforeseen) or any(line.broken for line in lines)
        if options.requests >= REQUESTS and options.keep:
            _keep(kind, lines, options.seed)
    sys.exit(1 if broken else 0)


@contextmanager
def _place(kind: str) -> Iterator[Fuzzed]:
    with ExitStack() as ended:
        folder = Path(ended.enter_context(tempfile.TemporaryDirectory(prefix="gammabeta-fuzz-")))
        (folder / "templates").mkdir()
        settings = {}
        if kind == "postgresql":
            cluster = ended.enter_context(running_cluster())
            settings["database_url"] = Databases(folder / "templates", lambda: cluster).migrated(kind, folder)
        yield ended.enter_context(fuzzed(folder / "home", **settings))


def _asked(place: Fuzzed, options: argparse.Namespace) -> Iterator[Line]:
    total, ways = 0, list[Way]()
    for way in place.ways():
        ways.append(way)
        line = _from_description(place, way, options.seed, described.PHASES)
        total += line.requests
        yield line
    rounds = 0
    while total < options.requests:
        rounds += 1
        line = _from_description(place, ways[1], options.seed + rounds, AGAIN)
        total += line.requests
        yield line
    yield _over_sockets(place, options.seed, ways[1].key)


def _from_description(place: Fuzzed, way: Way, seed: int, phases: tuple[str, ...]) -> Line:
    before, began = place.resident_mib(), perf_counter()
    tally = described.run(place.url, way, seed=seed, examples=EXAMPLES, phases=phases, largest=way.key is not None)
    _tell(tally)
    failed = +tally.failed
    undocumented = failed.pop("status_code_conformance", 0)
    failed.pop("not_a_server_error", 0)
    return Line(
        asked=way.name,
        requests=tally.requests,
        server_errors=tally.server_errors,
        undocumented=undocumented,
        failed=failed,
        seconds=perf_counter() - began,
        before=before,
        after=place.resident_mib(),
    )


def _tell(tally: Tally) -> None:
    for each in tally.told.values():
        print(f"BROKEN: {each}", flush=True)


def _over_sockets(place: Fuzzed, seed: int, key: str | None) -> Line:
    before, began = place.resident_mib(), perf_counter()
    address = urlsplit(place.url)
    speaker = sockets.Speaker(host=address.hostname or "", port=address.port or 0, random=Random(seed), key=key)
    answers = sockets.run(speaker, SOCKETS)
    for each in answers.wrong:
        print(f"BROKEN: {each}", flush=True)
    return Line(
        asked="plain sockets",
        requests=answers.requests,
        server_errors=answers.server_errors,
        undocumented=0,
        failed=+Counter({"wrong": len(answers.wrong)}),
        seconds=perf_counter() - began,
        before=before,
        after=place.resident_mib(),
    )


def _keep(kind: str, lines: list[Line], seed: int) -> None:
    """The table of this database in the page; that of the other stays."""
    text, mark = PAGE.read_text(), f"<!-- {kind} -->\n"
    before, _, rest = text.partition(mark)
    _, end, after = rest.partition("<!-- end -->")
    total = sum(line.requests for line in lines)
    told = (
        f"{NAMES[kind]}, {datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores "
        f"({platform.machine()}), seed {seed}: {total:,} requests.\n\n"
    )
    PAGE.write_text(before + mark + told + HEAD + "".join(f"{line}\n" for line in lines) + end + after)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at least so many from the description")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--database", dest="databases", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True, help=f"write {PAGE.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
