"""Where the service is, and by which key it knows the caller."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ClientSettings(BaseSettings):
    """Settings of the client; each is read from the environment as GAMMABETA_ and its name."""

    model_config = SettingsConfigDict(
        env_prefix="GAMMABETA_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    url: str = "http://127.0.0.1:8000"
    """The address of the service."""
    api_key: SecretStr | None = None
    """The key that is sent with every request. A service on loopback without keys needs none."""
