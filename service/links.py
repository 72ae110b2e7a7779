"""Where an answer leads, for the description: whatever an answer names may be asked for by the operations that take it.

POST /v1/jobs ──202, `id`──► GET /v1/jobs/{job_id}, POST /v1/jobs/{job_id}/cancel, GET /v1/jobs/{job_id}/events …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SOURCES: Mapping[str, Mapping[str, str]] = {
    "upload_dataset": {"dataset": "id"},
    "list_datasets": {"dataset": "first_id"},
    "submit_job": {"job_id": "id"},
    "list_jobs": {"job_id": "first_id"},
    "create_key": {"key": "id"},
    "list_models": {"name": "first_id"},
    "get_model": {"name": "name", "version": "versions/0/version"},
    "set_alias": {"name": "model", "alias": "alias"},
}
"""Of the answer to a route of this name: what stands in the address of others, and where it stands in the answer."""
MADE = ("201", "202", "200")
"""The first of these that a route has is what it answers when all went well."""


def add(paths: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Write the links into the answers of the document."""
    takers: dict[frozenset[str], list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for path, operations in paths.items():
        for operation in operations.values():
            found[operation["operationId"]] = operation
            takers.setdefault(frozenset(re.findall(r"\{(\w+)\}", path)), []).append(operation["operationId"])
    for name, named in SOURCES.items():
        responses = found[name]["responses"]
        answer = responses[next(status for status in MADE if status in responses)]
        parameters = {parameter: f"$response.body#/{place}" for parameter, place in named.items()}
        answer["links"] = {
            taker: {"operationId": taker, "parameters": parameters}
            for taker in takers[frozenset(named)]
            if taker != name
        }
