from __future__ import annotations

import threading

from worker import leaving

PATIENCE = 30


def test_a_worker_that_is_held_up_after_it_was_told_to_stop_leaves() -> None:
    told, left = threading.Event(), threading.Event()
    with leaving.in_time(told, seconds=0, leave=left.set):
        told.set()
        assert left.wait(PATIENCE)


def test_a_worker_that_was_not_told_to_stop_stays() -> None:
    told, left = threading.Event(), threading.Event()
    with leaving.in_time(told, seconds=0, leave=left.set):
        assert not left.wait(0.05)


def test_a_worker_that_ends_in_time_does_not_leave() -> None:
    told, left = threading.Event(), threading.Event()
    before = set(threading.enumerate())
    with leaving.in_time(told, seconds=PATIENCE, leave=left.set):
        (watching,) = set(threading.enumerate()) - before
        told.set()
    watching.join(PATIENCE)
    assert not watching.is_alive()
    assert not left.is_set()
