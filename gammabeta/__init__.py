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
    Forbidden,
    GammabetaError,
    IdempotencyConflict,
    InvalidRequest,
    JobFailed,
    JobNotFound,
    KeyNotFound,
    MalformedRequest,
    ModelNotFound,
    NameTaken,
    NoSpace,
    NotAcceptable,
    NotFound,
    NotReady,
    NotSupported,
    Overloaded,
    ProjectFull,
    QueueFull,
    QuotaExceeded,
    ServiceFault,
    ServiceUnreachable,
    TooLarge,
    TooLargeToServe,
    TooOften,
    TooSlow,
    Unauthorized,
    UnsupportedMediaType,
    VersionNotFound,
    WrongState,
)
from gammabeta.schemas.adjustments import ConstantAdjustment, NormalAdjustment, UniformAdjustment
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.datasets import Dataset
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.jobs import DryRun, Event, Job, PredictDatasetRequest, PredictDryRun, TrainRequest
from gammabeta.schemas.layers import (
    Activation,
    Add,
    AveragePool,
    Concatenate,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
)
from gammabeta.schemas.models import Model, Version
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.presets import BatchNormOptions, CnnPreset, MlpPreset, ResnetPreset
from gammabeta.schemas.regularizers import Regularizer
from gammabeta.schemas.renorm import RenormClipping
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
from gammabeta.schemas.usage import Usage
from gammabeta.schemas.workers import Worker

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
