"""The same with BentoML: bentoml serve serve_bentoml:Digits --port PORT."""

from __future__ import annotations

import bentoml
import numpy as np
import torch
from numpy.typing import NDArray
from serve_network import network, scores


@bentoml.service(workers=1)
class Digits:
    """One worker, arrays in and out, as it comes."""

    def __init__(self) -> None:
        self.network = network()

    @bentoml.api
    def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities."""
        return scores(self.network, torch.from_numpy(np.asarray(instances, dtype=np.float32))).numpy()
