"""What most people write first: FastAPI, pydantic lists of floats, torch."""

from __future__ import annotations

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from serve_network import network, scores

NETWORK = network()
app = FastAPI()


class Instances(BaseModel):
    """Rows of 784 numbers."""

    instances: list[list[float]]


class Scores(BaseModel):
    """Rows of 10 numbers."""

    scores: list[list[float]]


@app.post("/json")
def predict(body: Instances) -> Scores:
    """Probabilities."""
    return Scores(scores=scores(NETWORK, torch.tensor(body.instances)).tolist())
