"""Networks that can be asked for by name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from gammabeta.schemas.base import Answer
from gammabeta.schemas.presets import PRESETS

router = APIRouter(prefix="/v1/networks", tags=["networks"])


class PresetAnswer(Answer):
    """A preset and the arguments it takes."""

    name: str
    description: str
    json_schema: dict[str, Any] = Field(serialization_alias="schema")


class Presets(Answer):
    """All presets."""

    data: list[PresetAnswer]


@router.get("/presets")
async def list_presets() -> Presets:
    """The presets, each with the JSON schema of its arguments."""
    return Presets(
        data=[
            PresetAnswer(name=name, description=(preset.__doc__ or "").strip(), json_schema=preset.model_json_schema())
            for name, preset in PRESETS.items()
        ]
    )
