"""The tables of metrics on the page of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import Metric

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"


class Told(NamedTuple):
    """A row: what a dashboard relies on."""

    name: str
    type: str
    labels: frozenset[str]


def rows(heading: str) -> set[Told]:
    """Those under a heading that contains these words."""
    (section,) = [each for each in PAGE.read_text().split("\n## ") if heading in each.partition("\n")[0]]
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", section, re.MULTILINE)
    return {Told(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in found}


def exposed(families: Iterable[Metric]) -> set[Told]:
    """What is told, without that of any Python program."""
    return {
        Told(_name(each), each.type, frozenset(each.samples[0].labels) - {"le"})
        for each in families
        if not each.name.startswith("process_")
    }


def _name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
