"""What an optional extra brings, asked without loading it."""

from __future__ import annotations

from importlib.util import find_spec


def has_onnx() -> bool:
    """Whether ONNX Runtime is installed, and what writes its graphs: `pip install 'gammabeta[onnx]'`."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))
