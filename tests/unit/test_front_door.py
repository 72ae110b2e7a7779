from __future__ import annotations

import subprocess
import sys

import gammabeta
from gammabeta import errors


def test_the_front_door_offers_exactly_this() -> None:
    assert gammabeta.__all__ == [
        "SGD",
        "Activation",
        "Adam",
        "AdamW",
        "Add",
        "ArtifactCorrupt",
        "AveragePool",
        "BatchNorm",
        "BatchNormOptions",
        "BatchNormState",
        "Client",
        "CnnPreset",
        "Concatenate",
        "Conflict",
        "ConstantAdjustment",
        "ConstantSchedule",
        "Constraint",
        "Conv1D",
        "Conv2D",
        "CosineSchedule",
        "Dataset",
        "DatasetInvalid",
        "DatasetNotFound",
        "Dense",
        "DepthwiseConv2D",
        "Dropout",
        "DryRun",
        "EarlyStopping",
        "Event",
        "FieldError",
        "Flatten",
        "Forbidden",
        "GammabetaError",
        "GlobalAveragePool",
        "IdempotencyConflict",
        "Initializer",
        "InvalidRequest",
        "Job",
        "JobFailed",
        "JobHandle",
        "JobNotFound",
        "KeyNotFound",
        "LayerState",
        "LayersNetwork",
        "MalformedRequest",
        "MaxPool",
        "MlpPreset",
        "Model",
        "ModelNotFound",
        "NameTaken",
        "NoSpace",
        "NormalAdjustment",
        "NotAcceptable",
        "NotFound",
        "NotReady",
        "NotSupported",
        "Overloaded",
        "PredictDatasetRequest",
        "PredictDryRun",
        "Prediction",
        "PreprocessingSpec",
        "ProjectFull",
        "QueueFull",
        "QuotaExceeded",
        "RMSprop",
        "Regularizer",
        "RenormClipping",
        "ResnetPreset",
        "ServiceFault",
        "ServiceUnreachable",
        "StepSchedule",
        "TooLarge",
        "TooLargeToServe",
        "TooOften",
        "TooSlow",
        "TrainRequest",
        "TrainingSpec",
        "Unauthorized",
        "UniformAdjustment",
        "UnsupportedMediaType",
        "Usage",
        "Version",
        "VersionNotFound",
        "Worker",
        "WrongState",
        "__version__",
    ]
    assert all(hasattr(gammabeta, name) for name in gammabeta.__all__)


def test_every_error_is_at_the_front_door() -> None:
    assert {cls.__name__ for cls in errors.classes()} <= set(gammabeta.__all__)


def test_importing_the_client_loads_neither_torch_nor_sql_nor_polars() -> None:
    loaded = _in_a_fresh_process(
        "import gammabeta, sys; print(*[m for m in ('torch', 'sqlalchemy', 'polars', 'alembic', 'fastapi') "
        "if m in sys.modules])"
    )
    assert loaded == ""


def test_importing_the_client_is_quick() -> None:
    # In processor time, which a busy machine does not stretch; about 0.4 s where it was written.
    seconds = float(_in_a_fresh_process("import time, gammabeta; print(time.process_time())"))
    assert seconds < 2.0


def _in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
