"""The same with LitServe: serve_litserve.py PORT."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import torch
from serve_network import network, scores
from torch import Tensor


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One worker, no batching, as it comes."""

    def setup(self, device: str) -> None:
        del device
        self.network = network()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe takes an annotation for a schema
        return torch.tensor(request["instances"], dtype=torch.float32)

    def predict(self, x: Tensor) -> Tensor:
        return scores(self.network, x)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        return {"scores": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
