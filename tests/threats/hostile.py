"""Files that do something when they are loaded by a pickle: they make a folder, the canary."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class Bomb:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._canary),)


def files(canary: Path) -> dict[str, bytes]:
    """By the endings of their names."""
    bomb = pickle.dumps(Bomb(canary))
    return {
        "pkl": bomb,
        "pt": _zip({"archive/data.pkl": bomb, "archive/version": b"3\n", "archive/byteorder": b"little"}),
        "pth": _zip({"model/data.pkl": bomb, "model/version": b"3\n"}),
        "pt2": _zip({"archive_format": b"pt2", "data/weights/model.pt": bomb, "models/model.json": b"{}"}),
        "joblib": b"\x80\x04" + bomb[2:],
        "npy": npy(canary),
        "npz": npz(canary),
    }


def npy(canary: Path) -> bytes:
    """An array of objects, which is a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def npz(canary: Path) -> bytes:
    """Such an array as x, beside a good y."""
    labels = io.BytesIO()
    np.save(labels, np.array([0]))
    return _zip({"x.npy": npy(canary), "y.npy": labels.getvalue()})


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
