"""How a network is trained: optimizer, loss, schedule, stopping."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from gammabeta.schemas.base import HELD, Count, Epsilon, Flag, Number, Request, refuse_not_yet, wrong

LearningRate: TypeAlias = Annotated[Number, Field(gt=0, le=1_000)]
Fraction: TypeAlias = Annotated[Number, Field(ge=0, lt=1)]
WeightDecay: TypeAlias = Annotated[Number, Field(ge=0, le=1e6)]


class Adam(Request):
    """Kingma & Ba 2015."""

    name: Literal["adam"] = "adam"
    learning_rate: LearningRate = 1e-3
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Epsilon = 1e-7
    """Keras' default; torch's is 1e-8."""
    weight_decay: WeightDecay = 0.0
    """Added to the gradient; not applied to gamma, beta and biases."""


class AdamW(Request):
    """Adam with decoupled weight decay, Loshchilov & Hutter 2019."""

    name: Literal["adamw"] = "adamw"
    learning_rate: LearningRate = 1e-3
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Epsilon = 1e-7
    weight_decay: WeightDecay = 0.004
    """Not applied to gamma, beta and biases. Keras' default."""


class RMSprop(Request):
    """Hinton's lecture 6e."""

    name: Literal["rmsprop"] = "rmsprop"
    learning_rate: LearningRate = 1e-3
    rho: Fraction = 0.9
    """The weight of the old mean square (torch: alpha)."""
    momentum: Fraction = 0.0
    epsilon: Epsilon = 1e-7
    weight_decay: WeightDecay = 0.0


class SGD(Request):
    """Stochastic gradient descent, with momentum where asked for."""

    name: Literal["sgd"] = "sgd"
    learning_rate: LearningRate = 1e-2
    momentum: Fraction = 0.0
    nesterov: Flag = False
    weight_decay: WeightDecay = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise wrong("nesterov", 'needs momentum > 0. Write "momentum": 0.9, for instance.')
        return self


Optimizer: TypeAlias = Annotated[Adam | AdamW | RMSprop | SGD, Field(discriminator="name")]


class Schedule(Request):
    """What every schedule has: a linear warm-up from 0 over the first steps."""

    warmup_steps: Count = Field(default=0, ge=0, le=10_000_000)


class ConstantSchedule(Schedule):
    """The optimizer's learning rate throughout."""

    name: Literal["constant"] = "constant"


class CosineSchedule(Schedule):
    """From the learning rate down to `final_fraction` of it along half a cosine, over the steps after the warm-up."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Number = Field(default=0.0, ge=0, le=1)


class StepSchedule(Schedule):
    """The learning rate times `factor` each `every_epochs` epochs."""

    name: Literal["step"] = "step"
    every_epochs: Count = Field(ge=1, le=100_000)
    factor: Number = Field(default=0.1, gt=0, le=1)


AnySchedule: TypeAlias = Annotated[ConstantSchedule | CosineSchedule | StepSchedule, Field(discriminator="name")]

StoppingMetric: TypeAlias = Literal["val_loss", "val_accuracy", "val_mae", "val_rmse"]


class EarlyStopping(Request):
    """Stop when the metric has not improved by more than `min_delta` for `patience` epochs; the best weights and
    batch-norm state are what is published."""

    metric: StoppingMetric = "val_loss"
    patience: Count = Field(default=5, ge=1, le=10_000)
    min_delta: Number = Field(default=0.0, ge=0)

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "val_accuracy"


LossName: TypeAlias = Literal[
    "sparse_categorical_crossentropy", "binary_crossentropy", "mean_squared_error", "mean_absolute_error", "huber"
]
CLASS_LOSSES = frozenset({"sparse_categorical_crossentropy", "binary_crossentropy"})


LastBatch: TypeAlias = Literal["merge", "drop", "keep"]


class TrainingSpec(Request):
    """The run: how long, with which batches, optimizer and loss."""

    epochs: Count = Field(default=10, ge=1, le=100_000)
    max_steps: Count | None = Field(default=None, ge=1, le=1_000_000_000)
    """End exactly after this many optimizer steps, if `epochs` have not ended before."""
    batch_size: Count = Field(default=32, ge=1, le=1_000_000)
    last_batch: LastBatch = "merge"
    """What becomes of the rows that are left over at the end of an epoch: they join the batch before them, are dropped
    (other ones in each epoch, as each has an order of its own), or are a batch by themselves."""
    optimizer: Optimizer = Adam()
    loss: LossName | Literal["auto"] = "auto"
    """auto: classes: sparse_categorical_crossentropy, or binary_crossentropy where the last layer gives one number;
    numbers: mean_squared_error."""
    seed: Count = Field(default=0, ge=0, lt=2**63)
    validation_fraction: Number = Field(default=0.1, ge=0, le=0.5)
    """Of the training rows, drawn by the seed; 0: none."""
    early_stopping: EarlyStopping | None = None
    schedule: AnySchedule = ConstantSchedule()
    clip_norm: Annotated[Number, Field(gt=0, le=1e38), HELD] | None = None
    """The largest global norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; parameters and batch-norm state stay float32."""

    NOT_YET: ClassVar[frozenset[str]] = frozenset({"recalibrate", "batch_norm_sync", "class_weights"})

    @model_validator(mode="before")
    @classmethod
    def _refuse_not_yet(cls, value: Any) -> Any:
        return refuse_not_yet(value, cls.NOT_YET, "training")

    @model_validator(mode="after")
    def _stopping_needs_validation(self) -> TrainingSpec:
        if self.early_stopping is not None and self.validation_fraction == 0:
            raise wrong("early_stopping", "needs validation_fraction > 0. Write 0.1, for instance, or leave it out.")
        return self
