"""The same with MLServer, which speaks /v2: mlserver start FOLDER, where the settings in it name this class."""

from __future__ import annotations

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from serve_network import network, scores


class Digits(MLModel):  # type: ignore[misc]
    """In the process of the server (`parallel_workers` is 0)."""

    async def load(self) -> bool:
        """Build the network."""
        self.network = network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Probabilities."""
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        answer = scores(self.network, torch.from_numpy(x)).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", answer)])
