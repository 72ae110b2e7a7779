"""gammabeta: train networks with batch normalization over HTTP; serve them from the moving statistics.

    import gammabeta

    client = gammabeta.Client()
    client.datasets.upload((x, y), name="digits", test_fraction=0.2)
    client.train("digits", "digits", network=gammabeta.MlpPreset(hidden=(64,))).wait(progress=True)
    client.predict("digits", x[:5]).labels

This is the front door: the client, the requests it sends, and the errors it raises. Importing it loads neither torch
nor SQL.
"""

from gammabeta.client.client import Client
from gammabeta.client.predicting import Prediction
from gammabeta.client.waiting import JobHandle
from gammabeta.errors import (
    ArtifactCorrupt,
    Conflict,
    DatasetInvalid,
    DatasetNotFound,
    FieldError,
    GammabetaError,
    IdempotencyConflict,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    MalformedRequest,
    ModelNotFound,
    NameTaken,
    NoSpace,
    NotFound,
    NotReady,
    NotSupported,
    ServiceFault,
    ServiceUnreachable,
    TooLarge,
    UnsupportedMediaType,
    VersionNotFound,
    WrongState,
)
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.datasets import Dataset
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.jobs import DryRun, Event, Job, TrainRequest
from gammabeta.schemas.models import Model, Version
from gammabeta.schemas.networks import (
    Activation,
    Add,
    AveragePool,
    BatchNorm,
    BatchNormOptions,
    CnnPreset,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    LayersNetwork,
    MaxPool,
    MlpPreset,
)
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.training import (
    SGD,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    EarlyStopping,
    RMSprop,
    StepSchedule,
    TrainingSpec,
)

__version__ = "0.1.0"

__all__ = [
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
    "ConstantSchedule",
    "Conv2D",
    "CosineSchedule",
    "Dataset",
    "DatasetInvalid",
    "DatasetNotFound",
    "Dense",
    "Dropout",
    "DryRun",
    "EarlyStopping",
    "Event",
    "FieldError",
    "Flatten",
    "GammabetaError",
    "GlobalAveragePool",
    "IdempotencyConflict",
    "Initializer",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "LayerState",
    "LayersNetwork",
    "MalformedRequest",
    "MaxPool",
    "MlpPreset",
    "Model",
    "ModelNotFound",
    "NameTaken",
    "NoSpace",
    "NotFound",
    "NotReady",
    "NotSupported",
    "Prediction",
    "PreprocessingSpec",
    "RMSprop",
    "ServiceFault",
    "ServiceUnreachable",
    "StepSchedule",
    "TooLarge",
    "TrainRequest",
    "TrainingSpec",
    "UnsupportedMediaType",
    "Version",
    "VersionNotFound",
    "WrongState",
    "__version__",
]
