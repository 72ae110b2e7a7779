"""Learning-rate schedules, each a pure function of the step: nothing to store, nothing to resume.

steps 0 … W-1    lr (step + 1) / W                                  linear warm-up over W steps
constant         lr
cosine           lr (f + (1 - f) (1 + cos(pi t)) / 2)               t from 0 to 1 over the steps after the warm-up
step             lr factor ^ (epoch // every_epochs)
"""

from __future__ import annotations

import math

from gammabeta.schemas.training import AnySchedule, CosineSchedule, StepSchedule


def learning_rate(schedule: AnySchedule, base: float, step: int, steps: int, steps_per_epoch: int) -> float:
    """The rate of the update that follows `step` updates, of `steps` in all; `base` is the optimizer's."""
    if step < schedule.warmup_steps:
        return base * (step + 1) / schedule.warmup_steps
    match schedule:
        case CosineSchedule(final_fraction=floor):
            done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
            return base * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2)
        case StepSchedule(factor=factor, every_epochs=every):
            return base * float(factor ** (step // steps_per_epoch // every))
        case _:
            return base
