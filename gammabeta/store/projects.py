"""Projects: what one has, another does not see. Each data set, job, model and key belongs to one."""

from __future__ import annotations

from sqlalchemy import literal
from sqlalchemy.orm import Session

from gammabeta.store.tables import ProjectRow, core, now_ms
from gammabeta.store.together import inserting_if_absent

_ADD = inserting_if_absent(core(ProjectRow), created_ms=now_ms(), revision=literal(0))


def ensure(session: Session, name: str) -> str:
    """The id of the project with this name, which is made where there is none."""
    _ADD(session, {"id": name, "name": name})
    return name
