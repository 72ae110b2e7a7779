"""How a network is refused: by the schemas, or by the plan."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.networks import NetworkSpec
from gammabeta.schemas.plans import NetworkPlan, plan_network
from gammabeta.schemas.problems import invalid

NETWORK: TypeAdapter[Any] = TypeAdapter(NetworkSpec)


def plan(spec: dict[str, Any], shape: tuple[int, ...], outputs: int | None = 10) -> NetworkPlan:
    """The plan of a network written as JSON.

    Raises:
        InvalidRequest: it is refused.
    """
    try:
        network = NETWORK.validate_python(spec)
    except ValidationError as exc:
        raise invalid(exc, within="network") from exc
    return plan_network(network, input_shape=shape, outputs=outputs)


def plan_of_layer(layer: dict[str, Any], shape: tuple[int, ...]) -> NetworkPlan:
    """The plan of a network of one layer, flattened."""
    return plan({"layers": [layer, {"type": "flatten"}]}, shape, outputs=None)


def refused_fields(spec: dict[str, Any], shape: tuple[int, ...]) -> dict[str, str]:
    """Each wrong field of a network that must be refused, and what is said of it."""
    with pytest.raises(InvalidRequest) as caught:
        plan(spec, shape)
    return {each.field: each.message for each in caught.value.errors}


def refused(layer: dict[str, Any], shape: tuple[int, ...]) -> dict[str, str]:
    """Each wrong field of a layer that must be refused, and what is said of it."""
    found = refused_fields({"layers": [layer, {"type": "flatten"}, {"type": "dense", "units": "classes"}]}, shape)
    return {field.removeprefix("network.layers[0]").removeprefix("."): message for field, message in found.items()}
