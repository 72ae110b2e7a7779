"""Learning rates as a function of the step."""

from __future__ import annotations

import pytest

from gammabeta.schemas.training import AnySchedule, ConstantSchedule, CosineSchedule, StepSchedule
from worker.schedules import learning_rate


def rates(schedule: AnySchedule, steps: int = 8) -> list[float]:
    return [learning_rate(schedule, 0.8, step, steps, 2) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ConstantSchedule(), [0.8] * 8),
        (ConstantSchedule(warmup_steps=4), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]),
        (StepSchedule(every_epochs=2, factor=0.5), [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4]),
        (StepSchedule(every_epochs=1, factor=0.5, warmup_steps=2), [0.4, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]),
    ],
)
def test_schedule_gives_the_rates_of_its_formula(schedule: AnySchedule, expected: list[float]) -> None:
    assert rates(schedule) == pytest.approx(expected)


def test_cosine_begins_at_the_rate_and_falls_to_its_final_fraction() -> None:
    schedule = CosineSchedule(final_fraction=0.25)
    falling = rates(schedule)
    assert falling[0] == pytest.approx(0.8)
    assert falling[4] == pytest.approx(0.8 * 0.625)
    assert falling == sorted(falling, reverse=True)
    assert learning_rate(schedule, 0.8, 8, 8, 2) == pytest.approx(0.2)


def test_cosine_falls_over_the_steps_after_the_warm_up() -> None:
    warmed = rates(CosineSchedule(warmup_steps=4))
    assert warmed[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert warmed[6] == pytest.approx(0.4)
