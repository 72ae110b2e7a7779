"""What goes into a version and comes out of it, as the protocol tells of tensors.

array, image    x       FP32 [-1, …feature shape]
table           COLUMN  FP32 [-1], or BYTES [-1] for categories     one input per column
classes         scores  FP32 [-1, classes]   and   label  BYTES [-1]
a number        value   FP32 [-1]
"""

from __future__ import annotations

from typing import NamedTuple

from gammabeta.schemas.inference import ConfigTensor, ModelConfig, ModelMetadata, TensorMetadata
from gammabeta.schemas.models import Version
from gammabeta.schemas.preprocessing import FittedPreprocessing, FittedTable, NumericColumn

PLATFORM = "gammabeta_safetensors"
X = "x"
SCORES, LABEL, VALUE = "scores", "label", "value"


class TensorSpec(NamedTuple):
    """An input or an output of a version; made anew for each request, which a pydantic value would make slow."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs_of(preprocessing: FittedPreprocessing) -> tuple[TensorSpec, ...]:
    """Raw values go in: the model carries its preprocessing."""
    if not isinstance(preprocessing, FittedTable):
        return (TensorSpec(X, "FP32", (-1, *preprocessing.shape)),)
    return tuple(
        TensorSpec(each.name, "FP32" if isinstance(each, NumericColumn) else "BYTES", (-1,))
        for each in preprocessing.columns
    )


def outputs_of(classes: tuple[str, ...] | None) -> tuple[TensorSpec, ...]:
    """In the order in which they are answered."""
    if classes is None:
        return (TensorSpec(VALUE, "FP32", (-1,)),)
    return TensorSpec(SCORES, "FP32", (-1, len(classes))), TensorSpec(LABEL, "BYTES", (-1,))


def metadata(version: Version, versions: tuple[str, ...]) -> ModelMetadata:
    """What a client asks first."""
    return ModelMetadata(
        name=version.model,
        versions=versions,
        platform=PLATFORM,
        inputs=tuple(map(_told, inputs_of(version.preprocessing))),
        outputs=tuple(map(_told, outputs_of(version.classes))),
    )


def config(version: Version) -> ModelConfig:
    """The same in the words of Triton's model configuration."""
    return ModelConfig(
        name=version.model,
        platform=PLATFORM,
        input=tuple(map(_config_tensor, inputs_of(version.preprocessing))),
        output=tuple(map(_config_tensor, outputs_of(version.classes))),
    )


def _told(tensor: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _config_tensor(tensor: TensorSpec) -> ConfigTensor:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return ConfigTensor(name=tensor.name, data_type=f"TYPE_{kind}", dims=tensor.shape)
