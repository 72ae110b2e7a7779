from __future__ import annotations

import pytest

from gammabeta.errors import TooOften
from service.throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def taken(throttle: Throttle, owner: str = "a", *, at_most: int = 1_000) -> int:
    """How many in a row."""
    for count in range(at_most):
        try:
            throttle.take("default", owner)
        except TooOften:
            return count
    return at_most


def test_ten_seconds_worth_may_come_at_once_and_then_as_many_as_there_are_seconds() -> None:
    clock = Clock()
    throttle = Throttle(2.0, clock=clock)
    assert taken(throttle) == 20
    clock.now += 3
    assert taken(throttle) == 6
    clock.now += 1_000_000
    assert taken(throttle) == 20


def test_each_owner_has_a_bucket_in_each_project() -> None:
    throttle = Throttle(1.0, clock=Clock())
    assert [taken(throttle, "a"), taken(throttle, "a"), taken(throttle, "b")] == [10, 0, 10]
    throttle.take("elsewhere", "a")


@pytest.mark.parametrize("rate", [0.01, 0.4, 1.0, 3.0])
def test_after_the_time_that_it_tells_there_is_a_token(rate: float) -> None:
    clock = Clock()
    throttle = Throttle(rate, clock=clock)
    taken(throttle)
    with pytest.raises(TooOften, match=f"{rate:g} times a second") as refused:
        throttle.take("default", "a")
    assert refused.value.retry_after == int(refused.value.retry_after) >= 1
    clock.now += refused.value.retry_after
    assert taken(throttle) >= 1


def test_without_a_rate_nobody_is_held_back() -> None:
    assert taken(Throttle(None)) == 1_000
