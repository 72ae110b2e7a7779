"""The address of the database, with a password from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from gammabeta.store.settings import StoreSettings

ADDRESS = "postgresql://gammabeta@database/gammabeta"


def test_password_comes_from_a_file_whatever_is_in_it(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(" p@ss:/?#[ä]\n")
    settings = StoreSettings(database_url=ADDRESS, database_password_file=password)
    address = make_url(settings.resolved_database_url)
    assert address.set(password="hers").render_as_string(hide_password=False) == ADDRESS.replace("@", ":hers@")
    assert address.password == "p@ss:/?#[ä]"
    assert "p@ss" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "content", "told"),
    [
        (ADDRESS, None, "a file that can be read. Received: /.*password: No such file or directory"),
        (ADDRESS, b"\xff", "a file that can be read. Received: /.*password: something that is no text"),
        (ADDRESS, b" \n", "a file with a password in it"),
        (None, b"secret", "without a password. Received: sqlite:"),
        ("postgresql://gammabeta:hidden@database/gammabeta", b"secret", r"Received: postgresql://gammabeta:\*\*\*@"),
    ],
    ids=["missing", "no text", "empty", "sqlite", "two passwords"],
)
def test_a_password_that_cannot_be_used_is_refused(
    tmp_path: Path, url: str | None, content: bytes | None, told: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=told) as refused:
        _ = StoreSettings(home=tmp_path, database_url=url, database_password_file=file).resolved_database_url
    assert "hidden" not in str(refused.value)
    assert "GAMMABETA_DATABASE_PASSWORD_FILE" in str(refused.value)
