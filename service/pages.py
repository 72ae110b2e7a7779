"""Lists over HTTP: a page of things, and the cursor to the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from pydantic import Field

from gammabeta.schemas.base import Answer, Name, Request

T = TypeVar("T")


class Page(Answer, Generic[T]):
    """A part of a list. The next part begins `?after=` its `last_id`."""

    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PageQuery(Request):
    """Which part of a list."""

    limit: int = Field(default=20, ge=1, le=100)
    after: Name | None = None
    """The last id of the page before."""
    order: Literal["asc", "desc"] = "desc"
    """desc: the newest first."""

    @property
    def ascending(self) -> bool:
        return self.order == "asc"

    @property
    def one_more(self) -> int:
        """How many to ask for, so that one knows whether there are more."""
        return self.limit + 1

    def page(self, found: Sequence[T], id_of: Callable[[T], str]) -> Page[T]:
        """The page of what was found when asked for `one_more`."""
        return page_of(found, self.limit, id_of)


def page_of(found: Sequence[T], limit: int, id_of: Callable[[T], str]) -> Page[T]:
    """The first `limit` of what was found; anything beyond says that there is more."""
    data = list(found[:limit])
    ids = [id_of(each) for each in data]
    return Page(
        data=data,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=len(found) > limit,
    )
