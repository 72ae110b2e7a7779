from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gammabeta.cli.admin import free_port
from gammabeta.cli.failures import ProgramEnded
from gammabeta.cli.processes import Program, Programs, stop_signals
from gammabeta.errors import InvalidRequest

SLEEPER = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


def program(code: str, *, log: Path | None = None, name: str = "child") -> Program:
    return Program(name=name, command=[sys.executable, "-S", "-c", code], environment=dict(os.environ), log=log)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_of(child: Program) -> int:
    assert child.process is not None
    return child.process.pid


def test_leaving_the_block_ends_every_program() -> None:
    children = [program(SLEEPER), program(SLEEPER)]
    with Programs(children, say=print, grace=20):
        pids = [pid_of(child) for child in children]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


def test_a_program_that_ignores_the_request_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = program(STUBBORN, log=tmp_path / "log")
    with Programs([child], say=print, grace=0.2) as running:
        running.wait_until(lambda: "deaf" in (tmp_path / "log").read_text(), seconds=20)
    assert child.ended() == "signal SIGKILL"


def test_a_program_that_ends_before_all_is_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    child = program("import sys; print('no such host'); sys.exit(78)", log=tmp_path / "log", name="service")
    with (
        pytest.raises(ProgramEnded, match=r"(?s)service must keep running. Received: exit code 78.*no such host"),
        Programs([child], say=print, grace=20) as running,
    ):
        running.wait_until(lambda: False, seconds=20)


def test_what_is_never_ready_is_given_up() -> None:
    with (
        pytest.raises(ProgramEnded, match="within 0 seconds"),
        Programs([program(SLEEPER)], say=print, grace=20) as running,
    ):
        running.wait_until(lambda: False, seconds=0)


def test_a_killed_program_is_started_again_and_later_each_time() -> None:
    child, said, pids = program(SLEEPER), list[str](), list[int]()
    child.pause = 0.05

    def kill_twice() -> bool:
        if child.process and child.process.poll() is None and pid_of(child) not in pids:
            pids.append(pid_of(child))
            if len(pids) <= 2:
                os.kill(pid_of(child), signal.SIGKILL)
        return len(pids) == 3

    with Programs([child], say=said.append, grace=20) as running:
        running.tend(stopped=kill_twice)
    assert said == [
        "The child ended with signal SIGKILL. It is started again in 0.05 s.",
        "The child ended with signal SIGKILL. It is started again in 0.1 s.",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")
def test_kill_dash_nine_of_the_parent_leaves_no_child(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from gammabeta.cli.processes import Program, Programs\n"
        f"command = [sys.executable, '-S', '-c', {SLEEPER!r}]\n"
        "child = Program(name='child', command=command, environment=dict(os.environ))\n"
        "with Programs([child], say=print, grace=20):\n"
        "    print(child.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    eventually(lambda: not alive(child))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_request_to_stop_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with stop_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_port_zero_is_a_free_one() -> None:
    assert free_port("127.0.0.1", 0) > 0


def test_a_port_in_use_is_refused_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequest, match="--port 0") as caught:
            free_port("127.0.0.1", port)
    assert str(port) in str(caught.value.errors[0].received)
