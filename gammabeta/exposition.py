"""Metrics as text, in the form that whoever scrapes asks for. Only programs import this."""

from __future__ import annotations

from prometheus_client import exposition
from prometheus_client.registry import Collector


def written(metrics: Collector, accept: str | None) -> tuple[bytes, str]:
    """The text, and its media type: OpenMetrics where `accept` names it, the text format of Prometheus elsewhere."""
    try:
        write, media_type = exposition.choose_encoder(accept or "")
    except TypeError:  # a version that is no number
        write, media_type = exposition.choose_encoder("")
    return write(metrics), media_type
