"""What the command line reads from the environment, and gives to the programs that it starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.problems import invalid

SLACK_SECONDS = 5.0
"""To end after the last thing was done."""


class UpSettings(BaseSettings):
    """Where `gammabeta up` serves, unless its options say otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="GAMMABETA_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """The port to listen on; 0 takes a free one."""
    home: Path = Path("~/.gammabeta")
    """The folder of everything that has no other place."""
    cancel_grace_seconds: float = Field(default=10, ge=0)
    """The worker's setting of the same name."""
    leave_seconds: float = Field(default=15, ge=0)
    """The worker's setting of the same name."""

    @property
    def folder(self) -> Path:
        """The home without `~`."""
        return self.home.expanduser().absolute()

    @property
    def grace_seconds(self) -> float:
        """How long its programs may take to end: longer than the worker needs at the most to leave by itself."""
        return self.cancel_grace_seconds + self.leave_seconds + SLACK_SECONDS


def from_environment() -> UpSettings:
    """The settings. Raises InvalidRequest, with the name of the variable, where one is wrong."""
    try:
        return UpSettings()
    except ValidationError as exc:
        wrong = invalid(exc).errors
        raise InvalidRequest(errors=tuple(replace(e, field=f"GAMMABETA_{e.field.upper()}") for e in wrong)) from exc


def environment(*, home: Path | None = None, host: str | None = None, port: int | None = None) -> dict[str, str]:
    """This environment, with what the options of a command say about it."""
    said = {"GAMMABETA_HOME": home, "GAMMABETA_HOST": host, "GAMMABETA_PORT": port}
    return {**os.environ, **{key: str(value) for key, value in said.items() if value is not None}}


def beside_worker(variables: dict[str, str]) -> dict[str, str]:
    """The environment of a service that shares it with a worker: the port of metrics is the worker's then, and the
    service tells its own at `/metrics` of `GAMMABETA_PORT`."""
    return {name: value for name, value in variables.items() if name != "GAMMABETA_METRICS_PORT"}
