"""The batch-norm layer of a network: every argument of the classic Keras signature, by its name.

    {"type": "batch_norm", "momentum": 0.9, "renorm": true, "renorm_clipping": "paper"}

What each means here, and where Keras 2, Keras 3 and torch differ: docs/batchnorm.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from gammabeta.schemas.adjustments import Adjustment
from gammabeta.schemas.base import Count, Epsilon, Flag, Number, wrong
from gammabeta.schemas.constraints import Axes, Constraint, check_distinct
from gammabeta.schemas.initializers import Initializer, VectorInitializer
from gammabeta.schemas.layers import ZEROS, Layer
from gammabeta.schemas.regularizers import Regularizer
from gammabeta.schemas.renorm import NO_CLIPPING, RenormClipping

ONES = Initializer(name="ones")
DEFAULT_RENORM_MOMENTUM = 0.99

VarianceEstimator: TypeAlias = Literal["biased", "unbiased", "renorm"]
"""What the moving variance is made of: the batch variance v, v n / (n - 1), or the square of renorm's moving standard
deviation."""


_OF_OTHERS = {
    "synchronized": "this version trains on one device. Leave it out.",
    "eps": "it is 'epsilon', as in Keras. Write that.",
    "affine": "'scale' says whether there is a gamma, 'center' whether there is a beta. Write these.",
    "num_features": "the input says how many channels there are. Leave it out.",
    "track_running_stats": "moving statistics are always kept, and predictions use them. Leave it out.",
}
"""Of Keras 3, and of torch."""


class BatchNorm(Layer):
    """Batch normalization over every axis but `axis`.

    Training: `y = gamma (x - mu) / sqrt(v + epsilon) + beta`, v the biased batch variance, and
    `moving <- momentum * moving + (1 - momentum) * batch`. Prediction: the moving statistics stand in for mu and v.
    """

    FOREIGN: ClassVar[Mapping[str, str]] = {**Layer.FOREIGN, **_OF_OTHERS}
    LISTED_IN: ClassVar[str] = "docs/batchnorm.md"

    type: Literal["batch_norm"] = "batch_norm"
    axis: Axes = -1
    """The axis that keeps its own statistics, or several, in API layout; axis 0 is the batch and is refused. Of
    several, each combination has its own."""
    momentum: Number = Field(default=0.99, ge=0, le=1)
    """The weight of the OLD moving value, as in Keras. torch's momentum is one minus this."""
    epsilon: Epsilon = 1e-3
    """Added to the variance, inside the square root."""
    center: Flag = True
    """Whether there is a beta."""
    scale: Flag = True
    """Whether there is a gamma."""
    beta_initializer: VectorInitializer = ZEROS
    gamma_initializer: VectorInitializer = ONES
    moving_mean_initializer: VectorInitializer = ZEROS
    moving_variance_initializer: VectorInitializer = ONES
    beta_regularizer: Regularizer | None = None
    gamma_regularizer: Regularizer | None = None
    beta_constraint: Constraint | None = None
    gamma_constraint: Constraint | None = None
    renorm: Flag = False
    """Batch renormalization: training too normalizes with moving averages, as far as the clipping lets it."""
    renorm_clipping: RenormClipping | None = None
    renorm_momentum: Number = Field(default=DEFAULT_RENORM_MOMENTUM, ge=0, le=1)
    """The weight of the old value in renorm's own averages."""
    fused: Flag | None = None
    """True: the moving variance takes the unbiased batch variance, as in Keras 2's fused kernel and in torch; False:
    the biased one. None: as Keras 2 does, unbiased for images (axis 1 or 3) and volumes (axis 1 or 4)."""
    trainable: Flag = True
    """False: normalize with the moving statistics in training too, and change nothing."""
    virtual_batch_size: Count | None = Field(default=None, ge=1, le=1_000_000)
    """Ghost batches of so many rows, each normalized by itself; must divide the batch size."""
    adjustment: Adjustment | None = None
    """Scale and bias of the normalized values in training, drawn or given."""

    @field_validator("axis")
    @classmethod
    def _check_axis(cls, axis: Axes) -> Axes:
        axes = axis if isinstance(axis, tuple) else (axis,)
        if 0 in axes:
            raise wrong("axis", "must not be 0: that is the batch. Write -1 for the channels.")
        return axes[0] if len(axes) == 1 else check_distinct(axis)

    @model_validator(mode="after")
    def _check_variance(self) -> BatchNorm:
        lowest = self.moving_variance_initializer.lowest()
        if lowest is None or lowest < 0:
            raise wrong(
                "moving_variance_initializer",
                'must not give a negative variance. Write "ones", a constant >= 0, a random_uniform with minval >= 0 '
                "or a truncated_normal with mean >= 2 stddev.",
            )
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> BatchNorm:
        if not self.renorm:
            for key, given in self._renorm_arguments():
                if given:
                    raise wrong(key, 'needs "renorm": true, and does nothing without it')
        for key, present in (("center", self.center), ("scale", self.scale)):
            self._refuse_without_parameter("beta" if key == "center" else "gamma", key, present)
        if self.adjustment is not None and self.virtual_batch_size is not None:
            raise wrong("adjustment", "must not come together with virtual_batch_size. Leave one of them out.")
        if self.fused:
            for key in self.never_fused:
                raise wrong(
                    "fused",
                    "must not be true together with {other}: no fused kernel does that. Write false, or leave it out.",
                    other=key,
                )
        return self

    def _renorm_arguments(self) -> tuple[tuple[str, bool], ...]:
        return (
            ("renorm_clipping", self.renorm_clipping is not None),
            ("renorm_momentum", self.renorm_momentum != DEFAULT_RENORM_MOMENTUM),
        )

    def _refuse_without_parameter(self, parameter: str, switch: str, present: bool) -> None:
        for key in (f"{parameter}_regularizer", f"{parameter}_constraint"):
            if not present and getattr(self, key) is not None:
                raise wrong(key, 'needs {parameter}, and "{switch}" is false', parameter=parameter, switch=switch)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that keep their own statistics."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    @property
    def clipping(self) -> RenormClipping:
        """Of renorm; without bounds by default, as in TensorFlow."""
        return self.renorm_clipping or NO_CLIPPING

    @property
    def variance_estimator(self) -> VarianceEstimator:
        """Of a settled layer, whose `fused` is decided."""
        if self.renorm:
            return "renorm"
        return "unbiased" if self.fused else "biased"

    @property
    def makes_bias_redundant(self) -> bool:
        """Whether a trained beta does the work of a bias right before this layer."""
        return self.center and self.trainable

    @property
    def never_fused(self) -> tuple[str, ...]:
        """The arguments given that Keras 2's fused kernel cannot do."""
        given: dict[str, Any] = {
            "renorm": self.renorm or None,
            "virtual_batch_size": self.virtual_batch_size,
            "adjustment": self.adjustment,
            "several axes": True if len(self.axes) > 1 else None,
        }
        return tuple(key for key, value in given.items() if value is not None)


BATCH_NORM_ARGUMENTS = frozenset(BatchNorm.model_fields) - {"type", "inputs"}
"""The classic signature."""
