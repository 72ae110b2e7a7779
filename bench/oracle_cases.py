"""What `bench.oracles` compares: arguments of the layer, rows, and the references that know them.

Every case runs some training steps down `sum(y dy)` and the penalties, with an optimizer or without, and then predicts.
Compared are the outputs, the gradients and the penalty of each step, every weight at the end, and the prediction.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Arrays: TypeAlias = dict[str, Array]

FIRST = "keras1"
SECOND = "keras2"
THIRD = "keras3"
BOTH = (SECOND, THIRD)


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """An alternative that is easily mistaken for the right one: it must not give the reference's numbers."""

    name: str
    of: str
    """The quantity that gives it away."""
    arguments: dict[str, Any] = field(default_factory=dict)
    contiguous: bool = False
    """Ghost batches of neighbouring rows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison, for each of its references."""

    name: str
    references: tuple[str, ...] = BOTH
    arguments: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (5,)
    """Of a row, channels last."""
    batch: int = 8
    steps: int = 2
    optimizer: dict[str, Any] | None = None
    start_given: bool = True
    """Whether the weights start at drawn numbers; otherwise the initializers decide."""
    clips: tuple[tuple[float, float, float], ...] = ()
    """rmin, rmax and dmax of each step, where ours come from a schedule."""
    wrong: Wrong | None = None
    differs: frozenset[str] = frozenset()
    """Quantities in which we differ on purpose."""
    because: str = ""


IMAGE, SEQUENCE, VOLUME = (3, 4, 5), (6, 5), (2, 3, 2, 5)
BIASED = Wrong(name="biased", of="moving_variance", arguments={"fused": False})
UNBIASED = Wrong(name="unbiased", of="moving_variance", arguments={"fused": True})
CONTIGUOUS = Wrong(name="contiguous ghosts", of="moving_variance", contiguous=True)
ORDINARY = Wrong(
    name="ordinary batch norm", of="y0", arguments={"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}
)
CLIPS = {"rmin": 0.5, "rmax": 1.5, "dmax": 0.3}
SLOW = {"renorm": True, "momentum": 0.9, "renorm_momentum": 0.8}


def _config(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config}


MAX_NORM = _config("MaxNorm", max_value=0.7, axis=0)
STEEP = {"name": "sgd", "learning_rate": 0.05}

CASES = (
    Case(name="rows", references=(FIRST, *BOTH), steps=3),
    Case(name="sequences", references=(FIRST, *BOTH), shape=SEQUENCE),
    Case(name="images, left open", references=(FIRST, SECOND), shape=IMAGE, wrong=BIASED),
    Case(name="images, fused", references=(SECOND,), arguments={"fused": True}, shape=IMAGE, wrong=BIASED),
    Case(name="images, not fused", arguments={"fused": False}, shape=IMAGE, wrong=UNBIASED),
    Case(name="volumes, left open", references=(SECOND,), shape=VOLUME, wrong=BIASED),
    Case(name="volumes, not fused", arguments={"fused": False}, shape=VOLUME, wrong=UNBIASED),
    Case(name="100 steps", steps=100),
    Case(name="axis 1 of sequences", arguments={"axis": 1}, shape=SEQUENCE),
    Case(name="axis 1 of images, fused", references=(SECOND,), arguments={"axis": 1}, shape=IMAGE, wrong=BIASED),
    Case(name="axis 2 of images", arguments={"axis": 2, "fused": False}, shape=IMAGE),
    Case(name="axis [1, 2]", references=(SECOND,), arguments={"axis": [1, 2]}, shape=IMAGE),
    Case(name="axis [1, 3]", references=(SECOND,), arguments={"axis": [1, 3]}, shape=IMAGE),
    Case(name="axis [-1, 1]", references=(SECOND,), arguments={"axis": [-1, 1]}, shape=SEQUENCE),
    Case(name="no beta", arguments={"center": False}),
    Case(name="no gamma", arguments={"scale": False}),
    Case(name="neither", arguments={"center": False, "scale": False}),
    Case(name="momentum 0", arguments={"momentum": 0.0}),
    Case(name="momentum 1", arguments={"momentum": 1.0}),
    Case(name="epsilon 1e-12", arguments={"epsilon": 1e-12}),
    Case(name="epsilon 10", arguments={"epsilon": 10.0}),
    Case(
        name="initializers",
        arguments={
            "gamma_initializer": _config("Constant", value=1.5),
            "beta_initializer": "ones",
            "moving_mean_initializer": _config("Constant", value=-0.25),
            "moving_variance_initializer": _config("Constant", value=4.0),
        },
        start_given=False,
    ),
    Case(name="virtual batches of 2", references=(SECOND,), arguments={"virtual_batch_size": 2}, wrong=CONTIGUOUS),
    Case(
        name="virtual batches of 4, images",
        references=(SECOND,),
        arguments={"virtual_batch_size": 4},
        shape=IMAGE,
        wrong=CONTIGUOUS,
    ),
    Case(
        name="virtual batches, axis [1, 3]",
        references=(SECOND,),
        arguments={"virtual_batch_size": 4, "axis": [1, 3]},
        shape=IMAGE,
        wrong=CONTIGUOUS,
    ),
    Case(name="renorm", arguments={"renorm": True}, start_given=False, wrong=ORDINARY),
    Case(name="renorm, clipped", arguments={**SLOW, "renorm_clipping": CLIPS}, steps=3, wrong=ORDINARY),
    Case(
        name="renorm, rmin missing",
        arguments={
            **SLOW,
            "renorm_clipping": {"rmax": 1.0, "dmax": 0.0},
            "moving_variance_initializer": _config("Constant", value=40.0),
        },
        start_given=False,
        wrong=Wrong(
            name="rmin = 1/rmax",
            of="y0",
            arguments={"renorm_clipping": {"rmin": "1/rmax", "rmax": 1.0, "dmax": 0.0}},
        ),
    ),
    Case(
        name="renorm, clipping by step",
        arguments={**SLOW, "renorm_clipping": {"rmin": 0.5, "rmax": [[0, 1], [2, 3]], "dmax": [[1, 0], [2, 0.5]]}},
        steps=4,
        clips=((0.5, 1.0, 0.0), (0.5, 2.0, 0.0), (0.5, 3.0, 0.5), (0.5, 3.0, 0.5)),
    ),
    Case(
        name="renorm, initial statistics",
        arguments={
            **SLOW,
            "moving_mean_initializer": _config("Constant", value=4.0),
            "moving_variance_initializer": _config("Constant", value=9.0),
        },
        start_given=False,
        wrong=ORDINARY,
    ),
    Case(name="renorm of images", arguments=SLOW, shape=IMAGE),
    Case(name="renorm along axis 1", arguments={**SLOW, "axis": 1, "renorm_clipping": CLIPS}, shape=SEQUENCE),
    Case(name="renorm, no gamma", arguments={**SLOW, "scale": False, "renorm_clipping": CLIPS}),
    Case(name="renorm, neither", arguments={**SLOW, "center": False, "scale": False}),
    Case(
        name="renorm of virtual batches",
        references=(SECOND,),
        arguments={**SLOW, "virtual_batch_size": 4, "renorm_clipping": CLIPS},
        wrong=CONTIGUOUS,
    ),
    Case(
        name="renorm, axis [1, 2]",
        references=(SECOND,),
        arguments={**SLOW, "axis": [1, 2], "renorm_clipping": CLIPS},
        shape=IMAGE,
    ),
    Case(
        name="adjustment",
        references=(FIRST, SECOND),
        arguments={
            "adjustment": {"kind": "constant", "scale": [1.05, 0.95, 1, 1.2, 0.8], "bias": [0.05, -0.1, 0, 0.2, 0.1]}
        },
    ),
    Case(
        name="adjustment of renorm",
        references=(SECOND,),
        arguments={**SLOW, "renorm_clipping": CLIPS, "adjustment": {"kind": "constant", "scale": 1.1, "bias": -0.2}},
    ),
    Case(name="'l1' and 'l2'", arguments={"gamma_regularizer": "l1", "beta_regularizer": "l2"}, optimizer=STEEP),
    Case(
        name="L1L2",
        arguments={"gamma_regularizer": _config("L1L2", l1=0.02, l2=0.3), "beta_regularizer": _config("L1", l1=0.1)},
        optimizer=STEEP,
    ),
    Case(
        name="max_norm and non_neg",
        arguments={"gamma_constraint": "max_norm", "beta_constraint": "non_neg"},
        optimizer=STEEP,
    ),
    Case(
        name="unit_norm and min_max_norm",
        arguments={
            "gamma_constraint": "unit_norm",
            "beta_constraint": _config("MinMaxNorm", min_value=0.5, max_value=0.8, rate=0.5, axis=0),
        },
        optimizer=STEEP,
    ),
    Case(
        name="max_norm of virtual batches",
        references=(SECOND,),
        arguments={"virtual_batch_size": 4, "gamma_constraint": MAX_NORM},
        optimizer=STEEP,
        wrong=Wrong(
            name="norm of all channels",
            of="gamma",
            arguments={"gamma_constraint": _config("MaxNorm", max_value=0.7, axis=-1)},
        ),
    ),
    Case(
        name="max_norm, axis [1, 3]",
        references=(SECOND,),
        arguments={"axis": [1, 3], "gamma_constraint": MAX_NORM, "beta_constraint": "unit_norm"},
        shape=IMAGE,
        optimizer=STEEP,
    ),
    Case(name="sgd", steps=4, optimizer=STEEP),
    Case(name="sgd, momentum", steps=4, optimizer={**STEEP, "momentum": 0.9}),
    Case(name="sgd, nesterov", steps=4, optimizer={**STEEP, "momentum": 0.9, "nesterov": True}),
    Case(name="adam", steps=4, optimizer={"name": "adam", "learning_rate": 0.01}),
    Case(name="rmsprop", steps=4, optimizer={"name": "rmsprop", "learning_rate": 0.01}),
    Case(name="rmsprop, momentum", steps=4, optimizer={"name": "rmsprop", "learning_rate": 0.01, "momentum": 0.5}),
    Case(name="not trainable", arguments={"trainable": False}, optimizer=STEEP),
    Case(
        name="not trainable",
        references=(FIRST,),
        arguments={"trainable": False},
        differs=frozenset({"y0", "dx0", "y1", "dx1"}),
        because="Keras 2's v1 layer still normalizes with the batch",
    ),
    Case(
        name="one value a channel",
        batch=1,
        differs=frozenset({"moving_variance", "prediction"}),
        because="here no variance moves; in Keras it decays towards 0",
    ),
)


def drawn(case: Case) -> Arrays:
    """The rows, what is asked of the outputs, and the weights to start from; the same at every call."""
    draws = np.random.default_rng(zlib.crc32(case.name.encode()))
    given: Arrays = {}
    for step in range(case.steps):
        given[f"x{step}"] = _rows(draws, case)
        given[f"dy{step}"] = draws.normal(size=(case.batch, *case.shape)).astype(np.float32)
    given["shown"] = _rows(draws, case)
    return given | (_start(draws, case) if case.start_given else {})


def channels(case: Case) -> int:
    """How many statistics the layer of a case keeps."""
    axis = case.arguments.get("axis", -1)
    sizes = (0, *case.shape)
    return int(np.prod([sizes[each] for each in (axis if isinstance(axis, list) else [axis])]))


def _rows(draws: np.random.Generator, case: Case) -> Array:
    """Neighbouring rows are alike, so that it matters which of them form a ghost batch; those of one are not: their
    gradient would be the small difference of large numbers, which float32 does not hold to five digits."""
    drift = np.linspace(-6, 6, case.batch).reshape(-1, *(1 for _ in case.shape))
    return (draws.normal(1.5, 2.0, size=(case.batch, *case.shape)) + drift).astype(np.float32)


def _start(draws: np.random.Generator, case: Case) -> Arrays:
    """Of every name that a layer may have."""
    count = channels(case)
    around = {"gamma": (0.6, 1.6), "beta": (-0.7, 0.9), "moving_mean": (0.5, 2.0), "renorm_mean": (0.5, 2.0)}
    spread = dict.fromkeys(("moving_variance", "moving_stddev", "renorm_stddev"), (1.2, 2.6))
    return {name: draws.uniform(*bounds, size=count).astype(np.float32) for name, bounds in (around | spread).items()}
