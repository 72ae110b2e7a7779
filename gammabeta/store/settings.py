"""Where gammabeta keeps its data."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """What service, worker and `gammabeta db` read from the environment, as GAMMABETA_HOME and so on."""

    model_config = SettingsConfigDict(env_prefix="GAMMABETA_", frozen=True, use_attribute_docstrings=True)

    home: Path = Path("~/.gammabeta")
    """The folder of everything that has no other place."""

    database_url: str | None = None
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; by default `gammabeta.db` in the home folder."""

    blobs: str | None = None
    """The folder of weights, data sets and checkpoints; by default `blobs` in the home folder."""

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'gammabeta.db'}"

    @property
    def resolved_blobs(self) -> str:
        return self.blobs or str(self.home / "blobs")
