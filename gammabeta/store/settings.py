"""Where gammabeta keeps its data."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """What service, worker and `gammabeta db` read from the environment, as GAMMABETA_HOME and so on."""

    model_config = SettingsConfigDict(env_prefix="GAMMABETA_", frozen=True, use_attribute_docstrings=True)

    home: Path = Path("~/.gammabeta")
    """The folder of everything that has no other place."""

    database_url: str | None = None
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; by default `gammabeta.db` in the home folder."""

    blobs: str | None = None
    """Where weights, data sets and checkpoints are: a folder, by default `blobs` in the home folder; or a bucket, as
    `s3://BUCKET/PREFIX`, `gs://…` or `az://…`, which needs the extra `objects` and takes its credentials from the
    variables that the tools of those clouds read, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL."""

    cache_bytes: int = Field(default=20 << 30, ge=0)
    """How many bytes of a bucket are kept in `cache` in the home folder, at most; what was used longest ago goes first,
    and nothing that was used within the last ten minutes."""

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
