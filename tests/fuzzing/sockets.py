"""Requests that no HTTP library would send, over plain sockets: what is broken is refused, and nobody else notices.

Random(seed) ──kind──► bytes ──socket──► service ──► an answer that is no 5xx and no hang, or a closed connection
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

SECONDS = 20.0
"""How long the service may take to answer or to close: it says how long it waits, this is longer."""
PATHS = (
    "/v1/jobs",
    "/v1/datasets?name=raw&format=csv&target=y",
    "/v1/models/digits/predict",
    "/v2/models/digits/infer",
    "/v1/keys",
    "/healthz",
    "/nowhere",
)
STATUS = re.compile(rb"^HTTP/1\.1 ([0-9]{3}) ", re.MULTILINE)


@dataclass
class Answers:
    """What came of the requests."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    """Without a word, which a request that is no HTTP may be answered with."""
    wrong: list[str] = field(default_factory=list)
    """5xx and hangs: the kind, the answer and the beginning of the bytes."""

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Writes requests to the service at this host and port, with a key or without."""

    host: str
    port: int
    random: Random
    key: str | None = None

    def head(self, method: str, path: str, *lines: str) -> bytes:
        own = (f"Host: {self.host}:{self.port}", *([f"Authorization: Bearer {self.key}"] if self.key else []))
        return "\r\n".join((f"{method} {path} HTTP/1.1", *own, *lines, "", "")).encode("latin-1")

    def junk(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randint(1, most))

    def path(self) -> str:
        return self.random.choice(PATHS)


def bad_chunks(speaker: Speaker) -> bytes:
    """A size that is none, is too long, negative, or does not fit what follows."""
    size = speaker.random.choice(
        (b"zz", b"-1", b"ffffffffffffffffff", b"5;" + b"x" * 70_000, b"", b"0x5", b" 5", b"5\n")
    )
    return speaker.head("POST", speaker.path(), "Transfer-Encoding: chunked") + size + b"\r\n" + speaker.junk(40)


def both_lengths(speaker: Speaker) -> bytes:
    """Chunks and a length, or two lengths: how requests are smuggled."""
    lines = speaker.random.choice(
        (
            ("Transfer-Encoding: chunked", "Content-Length: 4"),
            ("Content-Length: 4", "Content-Length: 5"),
            ("Content-Length: 4, 5",),
            ("Transfer-Encoding: chunked, identity",),
            ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding:\tchunked", "Transfer-Encoding: identity"),
        )
    )
    return speaker.head("POST", speaker.path(), *lines) + b"0\r\n\r\n" + speaker.junk(20)


def strange_lengths(speaker: Speaker) -> bytes:
    length = speaker.random.choice(("-1", "+5", "1e3", "9" * 30, "0x10", " ", "five", "\xb2", "18446744073709551616"))
    return speaker.head("POST", speaker.path(), f"Content-Length: {length}") + speaker.junk(20)


def large_header(speaker: Speaker) -> bytes:
    """Up to 1 MiB of it, or thousands of small ones."""
    if speaker.random.random() < 0.5:
        return speaker.head("GET", speaker.path(), "X-Large: " + "a" * speaker.random.choice((70_000, 1 << 20)))
    return speaker.head("GET", speaker.path(), *(f"X-{number}: {number}" for number in range(5_000)))


def large_target(speaker: Speaker) -> bytes:
    return speaker.head("GET", speaker.path() + "?a=" + "%41" * speaker.random.choice((1_000, 30_000, 300_000)))


def with_nul(speaker: Speaker) -> bytes:
    """In the target, a name, a value, or the body."""
    path = speaker.path()
    return speaker.random.choice(
        (
            speaker.head("GET", path + "/\0"),
            speaker.head("GET", path + "%00"),
            speaker.head("GET", path, "X-\0: 1"),
            speaker.head("GET", path, "Idempotency-Key: a\0b"),
            speaker.head("POST", path, "Content-Type: application/json", "Content-Length: 9") + b'{"a":"\0"}',
        )
    )


def pipelined(speaker: Speaker) -> bytes:
    """Some requests at once, whole and not."""
    whole = [speaker.head("GET", speaker.path()) for _ in range(speaker.random.randint(2, 12))]
    return b"".join(whole) + speaker.random.choice((b"", speaker.junk(30), speaker.head("GET", "/healthz")[:-9]))


def strange_lines(speaker: Speaker) -> bytes:
    """Lines that do not end as they must, names without a value, a fold, a control."""
    line = speaker.random.choice(
        (b"X : 1", b": 1", b"X\r1", b"X: 1\n\rY: 2", b" folded: 1", b"X: \x01\x7f", b"\xff\xfe: 1", b"Host: other")
    )
    return speaker.head("GET", speaker.path())[:-2] + line + b"\r\n\r\n"


def strange_begin(speaker: Speaker) -> bytes:
    """Another version, method or form of the target."""
    line = speaker.random.choice(
        (
            "GET /healthz HTTP/9.9",
            "GET /healthz",
            "GET  /healthz HTTP/1.1",
            "get /healthz HTTP/1.1",
            "BREW /v1/jobs HTTP/1.1",
            "CONNECT 127.0.0.1:1 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET http://elsewhere/v1/jobs HTTP/1.1",
            "GET //v1/jobs HTTP/1.1",
            "GET /v1/%zz HTTP/1.1",
            "GET /v1/jobs/%ff%fe HTTP/1.1",
            "GET /v1/../../etc/passwd HTTP/1.1",
            "PRI * HTTP/2.0",
        )
    )
    return speaker.head("GET", "/").replace(b"GET / HTTP/1.1", line.encode(), 1)


def upgrades(speaker: Speaker) -> bytes:
    protocol = speaker.random.choice(("websocket", "h2c", "TLS/1.0"))
    return speaker.head("GET", speaker.path(), "Connection: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Key: a")


def unfinished(speaker: Speaker) -> bytes:
    """The body, or the head, ends before it should."""
    whole = speaker.head("POST", speaker.path(), "Content-Length: 1000") + speaker.junk(100)
    return whole[: speaker.random.randint(1, len(whole))]


def noise(speaker: Speaker) -> bytes:
    return speaker.junk(2_000)


def mutated(speaker: Speaker) -> bytes:
    """A good request with some bytes changed, left out or doubled."""
    body = b'{"instances": [[1.0, 2.0]]}'
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    text = bytearray(speaker.head("POST", "/v1/models/digits/predict", *lines) + body)
    for _ in range(speaker.random.randint(1, 8)):
        place = speaker.random.randrange(len(text))
        match speaker.random.randrange(3):
            case 0:
                text[place] = speaker.random.randrange(256)
            case 1:
                del text[place]
            case _:
                text[place:place] = text[place : place + speaker.random.randint(1, 20)]
    return bytes(text)


KINDS: tuple[Callable[[Speaker], bytes], ...] = (
    bad_chunks,
    both_lengths,
    strange_lengths,
    large_header,
    large_target,
    with_nul,
    pipelined,
    strange_lines,
    strange_begin,
    upgrades,
    unfinished,
    noise,
    mutated,
)


def run(speaker: Speaker, count: int) -> Answers:
    """So many connections, each kind as often as any other."""
    answers = Answers()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        sent = kind(speaker)
        _judge(answers, kind.__name__, sent, _answer(speaker, sent))
    return answers


def _judge(answers: Answers, kind: str, sent: bytes, received: bytes | None) -> None:
    answers.requests += 1
    if received is None:
        answers.wrong.append(f"{kind}: no answer within {SECONDS:g} s to {sent[:200]!r}")
        return
    found = [int(status) for status in STATUS.findall(received)]
    answers.statuses.update(found)
    answers.closed += not found
    if any(status >= 500 for status in found):
        answers.wrong.append(f"{kind}: {received[:300]!r} to {sent[:200]!r}")


def _answer(speaker: Speaker, sent: bytes) -> bytes | None:
    """All that comes until the service closes, having heard that no more will come. None: it did not."""
    with socket.create_connection((speaker.host, speaker.port), SECONDS) as connection:
        received = bytearray()
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            for part in _parts(connection):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            return bytes(received)  # it had heard enough
        except TimeoutError:
            return None
        return bytes(received)


def _parts(connection: socket.socket) -> Iterator[bytes]:
    while part := connection.recv(1 << 16):
        yield part
