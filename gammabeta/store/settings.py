"""Where gammabeta keeps its data."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError


class StoreSettings(BaseSettings):
    """What service, worker and `gammabeta db` read from the environment, as GAMMABETA_HOME and so on."""

    model_config = SettingsConfigDict(env_prefix="GAMMABETA_", frozen=True, use_attribute_docstrings=True)

    home: Path = Path("~/.gammabeta")
    """The folder of everything that has no other place."""

    database_url: str | None = None
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; by default `gammabeta.db` in the home folder."""

    database_password_file: Path | None = None
    """A file with the password that `GAMMABETA_DATABASE_URL` then leaves out, so that no environment has it: in
    containers, a secret. Spaces and line breaks around it do not count."""

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

    @cached_property
    def resolved_database_url(self) -> str:
        """With the password.

        Raises:
            ValueError: the file of the password cannot be read, or nothing in it is a password of this address.
        """
        url = self.database_url or f"sqlite:///{self.home / 'gammabeta.db'}"
        return url if self.database_password_file is None else _with_password(url, self.database_password_file)

    @property
    def resolved_blobs(self) -> str:
        return self.blobs or str(self.home / "blobs")


def _with_password(url: str, file: Path) -> str:
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "something that is no text"
        raise ValueError(
            f"GAMMABETA_DATABASE_PASSWORD_FILE must name a file that can be read. Received: {file}: {reason}."
        ) from exc
    if not password:
        raise ValueError(f"GAMMABETA_DATABASE_PASSWORD_FILE must name a file with a password in it. Received: {file}.")
    try:
        address = make_url(url)
    except ArgumentError:
        return url  # who opens it says what is wrong with it
    if address.get_backend_name() == "sqlite" or address.password is not None:
        raise ValueError(
            "GAMMABETA_DATABASE_PASSWORD_FILE belongs to an address such as postgresql://USER@HOST/NAME, without a "
            f"password. Received: {address.render_as_string()}. Set GAMMABETA_DATABASE_URL so, or leave the file out."
        )
    return address.set(password=password).render_as_string(hide_password=False)
