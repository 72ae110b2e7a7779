"""docs/settings.md, written from the declarations: python -m tests.unit.settings_page > docs/settings.md"""

from __future__ import annotations

from pydantic_settings import BaseSettings

from gammabeta.client.settings import ClientSettings
from gammabeta.store.settings import StoreSettings
from service.settings import ServiceSettings
from worker.settings import WorkerSettings

HEAD = """# Settings

Each is an environment variable. Service and worker read those of the store, so that both find the same data.
This page is written from the declarations: `.venv/bin/python -m tests.unit.settings_page > docs/settings.md`.
"""
SECTIONS: tuple[tuple[str, type[BaseSettings], type[BaseSettings] | None], ...] = (
    ("The store: service, worker and `gammabeta db`", StoreSettings, None),
    ("The service", ServiceSettings, StoreSettings),
    ("The worker", WorkerSettings, StoreSettings),
    ("The client and the command line", ClientSettings, None),
)


def page() -> str:
    return "\n".join([HEAD, *(_section(title, kind, base) for title, kind, base in SECTIONS)])


def _section(title: str, kind: type[BaseSettings], base: type[BaseSettings] | None) -> str:
    inherited = base.model_fields if base else {}
    rows = [f"## {title}\n", "| variable | default | |", "| --- | --- | --- |"]
    for name, field in kind.model_fields.items():
        if name not in inherited:
            default = "" if field.default_factory or field.default in (None, ()) else f"`{field.default}`"
            rows.append(f"| `GAMMABETA_{name.upper()}` | {default} | {' '.join((field.description or '').split())} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
