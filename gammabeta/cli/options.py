"""Options that many commands share, and the client that they describe."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from gammabeta.client.client import Client

Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", help="The service. Default: GAMMABETA_URL, or http://127.0.0.1:8000.", show_default=False),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", min=1, help="How many to list, newest first.")]


class ListByDefault(TyperGroup):
    """Commands of which `list` is meant where none is named: `gammabeta jobs --json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] == "--help" or not args[0].startswith("-"))
        return super().parse_args(ctx, args if named else ["list", *args])


def connect(url: str | None) -> Client:
    """The client of a command. Its key comes from GAMMABETA_API_KEY, so that no process list shows it."""
    return Client(url)
