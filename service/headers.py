"""One header of a request, past the objects that know how to do more with all of them.

Five or six are looked up for each prediction: 0.2 µs each here, 0.75 µs and the making of the object there.
"""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first one of this name, which is written in lower case. None: there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
