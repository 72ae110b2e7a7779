"""Row 20: what clients write, in logs and metrics: no line of its own, no colour, no label of its own."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gammabeta import logs
from tests.threats.conftest import Stocked

HOSTILE = [
    "\n",
    "\r",
    "\r\n",
    "\x1b[31m",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\x00",
    "\x7f",
    "\u2028",
    "\u202e",
    "\x85",
    "\x08",
]
TEXTS = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), max_size=8).map("".join)
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
FORGED = '\n{"event": "forged", "level": "info"}'


class Terminal(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def restored() -> Iterator[None]:
    """The logging of the process as it was."""
    root, alembic = logging.getLogger(), logging.getLogger("alembic")
    kept = root.handlers[:], root.level, alembic.level, structlog.get_config()
    yield
    root.handlers[:], alembic.level = kept[0], kept[2]
    root.setLevel(kept[1])
    structlog.configure(**kept[3])


def written(text: str, *, is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a program would write of it: in the event, in a value, in the name of a file, and by another library."""
    with monkeypatch.context() as patched:
        terminal = Terminal(is_terminal=is_terminal)
        patched.setattr(sys, "stderr", terminal)
        structlog.reset_defaults()
        logs.set_up(level="info")
        ours = structlog.stdlib.get_logger("ours")
        ours.info("said", model=text, path=[text], error=repr(text))
        ours.info(text)
        logging.getLogger("theirs").info("%s", text)
        return terminal.getvalue()


@given(text=TEXTS)
@example(text=FORGED)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_of_json_is_one_object_and_plain_ascii(restored: None, monkeypatch: Any, text: str) -> None:
    lines = written(text, is_terminal=False, monkeypatch=monkeypatch).splitlines()
    assert len(lines) == 3
    assert all(each.isascii() and each.isprintable() for each in lines)
    first, *others = map(json.loads, lines)
    assert (first["event"], first["model"], first["path"]) == ("said", text, [text])
    assert [each["event"] for each in others] == [text, text]


@given(text=TEXTS)
@example(text=FORGED)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_terminal_is_told_nothing_that_it_obeys(restored: None, monkeypatch: Any, text: str) -> None:
    said = written(text, is_terminal=True, monkeypatch=monkeypatch)
    assert said.count("\n") == 3
    assert CONTROLS.findall(COLOURS.sub("", said).replace("\n", "")) == []
    ours = set(COLOURS.findall(written("x", is_terminal=True, monkeypatch=monkeypatch)))
    assert set(COLOURS.findall(said)) <= ours


WORDS = ["zzz-nobody", "a\nb", "\x1b[31m", 'x"} 1', "%0aforged", "x" * 5_000, "\u2028"]


def _labels(stocked: Stocked) -> set[str]:
    """Each series that there is, without its value."""
    lines = stocked.ask("GET", "/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_no_word_of_a_client_is_a_label(stocked: Stocked) -> None:
    for known in ("GET", "POST", "DELETE"):
        stocked.ask(known, "/v1/models/nothing")
    _asked(stocked, "once")
    _labels(stocked)
    before = _labels(stocked)
    for word in WORDS:
        _asked(stocked, word)
    assert _labels(stocked) == before
    assert not [line for line in before if "nobody" in line]


def _asked(stocked: Stocked, word: str) -> None:
    safe = "".join(f"%{each:02x}" for each in word.encode())
    stocked.ask("GET", f"/v1/models/{safe}")
    stocked.ask("GET", f"/{safe}")
    stocked.ask("POST", f"/v1/models/{safe}/predict", json={"instances": [[1]]})
    stocked.ask("POST", f"/v2/models/{safe}/infer", json={"inputs": []})
    stocked.ask("GET", "/v1/jobs", params={"model": word, "kind": word, f"metadata[{word}]": word})
    stocked.ask("GET", "/v1/jobs", headers={"X-Request-Id": re.sub(r"[^ -~]", "", word)})
    stocked.ask("GET", f"/v1/jobs/{safe}", key=f"gb_{re.sub(r'[^ -~]', '', word)}")


@pytest.mark.parametrize("method", ["BREW", "X" * 20, "PROPFIND", "M-SEARCH"])
def test_no_method_of_a_client_is_a_label(stocked: Stocked, method: str) -> None:
    stocked.service.http.request(method, "/v1/models")
    assert not [line for line in _labels(stocked) if method in line]
