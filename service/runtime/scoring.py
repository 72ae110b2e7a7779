"""Scores from logits in numpy: what `gammabeta.nets.losses.scores_of` gives, whichever engine the logits come from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.resolution import Task

Logits = NDArray[np.float32]


def scores_of(task: Task, logits: Logits) -> Logits:
    """logits: [B, outputs] -> float32 [B, classes] probabilities (two columns for `binary`), or [B] numbers."""
    match task:
        case "classes":
            return _softmax(logits)
        case "binary":
            return _sigmoid(np.concatenate((-logits, logits), axis=1))
        case "number":
            return logits[:, 0]


def _softmax(logits: Logits) -> Logits:
    powers: Logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _sigmoid(logits: Logits) -> Logits:
    """By the exponential of a negative number alone, which cannot overflow."""
    powers = np.exp(-np.abs(logits))
    scores: Logits = np.where(logits < 0, powers, np.float32(1)) / (1 + powers)
    return scores
