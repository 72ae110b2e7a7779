"""Every argument of batch norm: what is taken, what is refused, and that the refusal names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm
from gammabeta.schemas.regularizers import Regularizer
from gammabeta.schemas.renorm import RenormClipping
from tests.unit.schemas.refusals import plan, plan_of_layer, refused, refused_fields

IMAGE = (8, 8, 4)
L1L2 = {"class_name": "L1L2", "config": {"l1": 0.01, "l2": 0.02}}
UNIFORM = {"kind": "uniform", "scale": [0.93, 1.07], "bias": [-0.1, 0.1]}


def config(class_name: str, **given: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": given}


def clipping(**given: Any) -> dict[str, Any]:
    return {"renorm": True, "renorm_clipping": given}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"momentum": 1.5}, "momentum", "less than or equal to 1"),
    ({"momentum": -0.1}, "momentum", "greater than or equal to 0"),
    ({"momentum": True}, "momentum", "must be a number"),
    ({"epsilon": 0}, "epsilon", "greater than 0"),
    ({"epsilon": -1}, "epsilon", "greater than 0"),
    ({"epsilon": 1e-60}, "epsilon", "at least 1e-37"),
    ({"renorm": True, "renorm_momentum": 1.01}, "renorm_momentum", "less than or equal to 1"),
    ({"momentun": 0.9}, "momentun", "is not a field here. Did you mean 'momentum'?"),
    ({"gama_initializer": "ones"}, "gama_initializer", "Did you mean 'gamma_initializer'?"),
    ({"colour": 1}, "colour", "look at docs/batchnorm.md for the fields there are"),
    ({"eps": 1e-5}, "eps", "is not a field here: it is 'epsilon', as in Keras"),
    ({"num_features": 4}, "num_features", "the input says how many channels"),
    ({"affine": True}, "affine", "'center' whether there is a beta"),
    ({"track_running_stats": True}, "track_running_stats", "moving statistics are always kept"),
    ({"dtype": "float32"}, "dtype", "is not a field here: parameters and statistics are float32 always. Leave it out."),
    ({"synchronized": False}, "synchronized", "is not a field here: this version trains on one device. Leave it out."),
    ({"build_config": {"input_shape": [None, 4]}}, "build_config", "what shape the input has. Leave it out."),
    ({"config": {"momentum": 0.9}}, "config", "its keys belong here"),
    ({"name": "a/b"}, "name", "letters, digits"),
    ({"fused": "perhaps"}, "fused", "must be true or false"),
    ({"trainable": 3}, "trainable", "must be true or false"),
    ({"virtual_batch_size": 0}, "virtual_batch_size", "greater than or equal to 1"),
    ({"virtual_batch_size": True}, "virtual_batch_size", "must be a whole number"),
    ({"momentum": "0.9"}, "momentum", "must be a number"),
    ({"epsilon": "1e-3"}, "epsilon", "must be a number"),
    ({"center": "off"}, "center", "must be true or false"),
    ({"scale": 0.0}, "scale", "must be true or false"),
    ({"fused": "no"}, "fused", "must be true or false"),
    ({"virtual_batch_size": "4"}, "virtual_batch_size", "must be a whole number"),
    ({"virtual_batch_size": 4.0}, "virtual_batch_size", "must be a whole number"),
    # axis
    ({"axis": 0}, "axis", "that is the batch"),
    ({"axis": [0, 1]}, "axis", "that is the batch"),
    ({"axis": [1, 1]}, "axis", "each axis once"),
    ({"axis": [-1, 3]}, "axis", "each axis once; -1 is the last"),
    ({"axis": 4}, "axis", "must be between 1 and 3, or between -3 and -1, for an input of shape [8, 8, 4]"),
    ({"axis": -4}, "axis", "between 1 and 3, or between -3 and -1"),
    ({"axis": [1, 7]}, "axis", "between 1 and 3"),
    ({"axis": 1.0}, "axis", "must be a whole number"),
    ({"axis": True}, "axis", "must be a whole number"),
    ({"axis": [1, 2.5]}, "axis[1]", "must be a whole number"),
    ({"axis": []}, "axis", "at least 1 entry"),
    ({"axis": list(range(1, 20))}, "axis", "at most 8 entries"),
    # initializers
    ({"gamma_initializer": "identity"}, "gamma_initializer", "must be one of zeros, ones"),
    ({"beta_initializer": "orthogonal"}, "beta_initializer", "this parameter has one"),
    ({"gamma_initializer": 3}, "gamma_initializer", '{"class_name": …, "config": {…}}'),
    ({"gamma_initializer": "constant"}, "gamma_initializer", "needs config.value"),
    ({"gamma_initializer": [1, 2]}, "gamma_initializer", "a list of 4"),
    ({"moving_mean_initializer": config("Constant", value=[1])}, "moving_mean_initializer", "a list of 4"),
    ({"gamma_initializer": []}, "gamma_initializer", "at least 1 entry"),
    ({"gamma_initializer": [1, 2, "x", 4]}, "gamma_initializer[2]", "must be a number"),
    ({"gamma_initializer": config("RandomNormal", std=1)}, "gamma_initializer", "does not take std. It takes mean"),
    (
        {"gamma_initializer": config("RandomNormal", stddev=-1)},
        "gamma_initializer.config.stddev",
        "greater than or equal to 0",
    ),
    (
        {"gamma_initializer": config("RandomUniform", minval=1)},
        "gamma_initializer.config.minval",
        "not be greater than maxval",
    ),
    ({"gamma_initializer": {"name": "zeros", "stddev": 1}}, "gamma_initializer", "It takes nothing"),
    ({"gamma_initializer": {"class_name": "Zeros", "stddev": 1}}, "gamma_initializer", "into its config"),
    ({"gamma_initializer": config("VarianceScaling", scale=0)}, "gamma_initializer.config.scale", "greater than 0"),
    (
        {"gamma_initializer": config("VarianceScaling", mode="in")},
        "gamma_initializer.config.mode",
        "'fan_in', 'fan_out'",
    ),
    ({"moving_variance_initializer": "he_normal"}, "moving_variance_initializer", "negative variance"),
    ({"moving_variance_initializer": [1, 1, -1, 1]}, "moving_variance_initializer", "negative variance"),
    ({"moving_variance_initializer": config("Constant", value=-1)}, "moving_variance_initializer", "negative variance"),
    (
        {"moving_variance_initializer": config("TruncatedNormal", mean=1, stddev=0.6)},
        "moving_variance_initializer",
        "negative variance",
    ),
    ({"gamma_initializer": [True, 1, 1, 1]}, "gamma_initializer[0]", "must be a number"),
    ({"gamma_initializer": config("Constant", value=True)}, "gamma_initializer.config.value", "must be a number"),
    ({"gamma_initializer": config("Constant", value=[1, "x"])}, "gamma_initializer.config.value[1]", "a number"),
    ({"gamma_initializer": config("Ones", seed=1)}, "gamma_initializer", "It takes nothing"),
    ({"gamma_initializer": config("RandomNormal", seed=True)}, "gamma_initializer.config.seed", "a whole number"),
    ({"gamma_initializer": config("RandomNormal", stddev=1e38)}, "gamma_initializer.config.stddev", "equal to 1000000"),
    ({"gamma_initializer": config("Constant", value=1e13)}, "gamma_initializer.config.value", "equal to 1000000000000"),
    ({"gamma_initializer": {"name": "random_normal", "stddev": -1}}, "gamma_initializer.stddev", "equal to 0"),
    *(
        ({"gamma_initializer": {"class_name": "Ones", "config": given}}, "gamma_initializer", "'config' must be an")
        for given in ([], 0, False, "")
    ),
    # regularizers
    ({"gamma_regularizer": "l1l2"}, "gamma_regularizer", 'Write {"class_name": "L1L2", "config": {"l1": 0.01'),
    ({"gamma_regularizer": "L1L2"}, "gamma_regularizer", "must say both numbers"),
    ({"gamma_regularizer": "l1_l2"}, "gamma_regularizer", "must say both numbers"),
    ({"gamma_regularizer": config("L1L2", l1=0.1)}, "gamma_regularizer", "must say both numbers"),
    ({"gamma_regularizer": "l3"}, "gamma_regularizer", "must be l1, l2, or L1L2 with both numbers: {"),
    ({"gamma_regularizer": config("L3")}, "gamma_regularizer", "must be l1, l2, or L1L2 with both numbers: {"),
    ({"gamma_regularizer": {}}, "gamma_regularizer", "must be the name of a regularizer"),
    ({"gamma_regularizer": "orthogonal_regularizer"}, "gamma_regularizer", "is not supported"),
    ({"gamma_regularizer": config("L2", l1=1)}, "gamma_regularizer", "l2 does not take l1"),
    ({"gamma_regularizer": {"name": "l2", "l1": 1}}, "gamma_regularizer", "l2 does not take l1"),
    ({"beta_regularizer": config("L2", l2=-1)}, "beta_regularizer.config.l2", "greater than or equal to 0"),
    ({"beta_regularizer": config("L2", l2=float("inf"))}, "beta_regularizer.config.l2", "finite"),
    ({"beta_regularizer": "l2", "center": False}, "beta_regularizer", 'needs beta, and "center" is false'),
    ({"gamma_regularizer": "l2", "scale": False}, "gamma_regularizer", 'needs gamma, and "scale" is false'),
    ({"gamma_regularizer": {"l1": True}}, "gamma_regularizer.l1", "must be a number"),
    ({"gamma_regularizer": config("L1", l1=True)}, "gamma_regularizer.config.l1", "must be a number"),
    # constraints
    ({"gamma_constraint": "maxnorm"}, "gamma_constraint", "Keras 2 alone. Write max_norm"),
    ({"gamma_constraint": "nonneg"}, "gamma_constraint", "Keras 2 alone. Write non_neg"),
    ({"gamma_constraint": "radial_constraint"}, "gamma_constraint", "is not supported"),
    ({"gamma_constraint": "positive"}, "gamma_constraint", "must be one of max_norm"),
    ({"gamma_constraint": config("MaxNorm", max=1)}, "gamma_constraint", "max_norm does not take max"),
    ({"gamma_constraint": config("MaxNorm", max_value=-1)}, "gamma_constraint.config.max_value", "equal to 0"),
    (
        {"gamma_constraint": config("MaxNorm", max_value=1e300)},
        "gamma_constraint.config.max_value",
        "less than or equal to",
    ),
    (
        {"gamma_constraint": config("MinMaxNorm", min_value=3)},
        "gamma_constraint.config.min_value",
        "not be greater than max_value",
    ),
    ({"gamma_constraint": config("MinMaxNorm", rate=3)}, "gamma_constraint.config.rate", "less than or equal to 1"),
    ({"gamma_constraint": {"name": "unit_norm", "rate": 1}}, "gamma_constraint", "does not take rate"),
    (
        {"gamma_constraint": config("UnitNorm", axis=1)},
        "gamma_constraint.config.axis",
        "between -1 and 0: the shape is [4]",
    ),
    ({"gamma_constraint": config("UnitNorm", axis=[0, 0])}, "gamma_constraint.config.axis", "each axis once"),
    ({"gamma_constraint": config("UnitNorm", axis=[0, -1])}, "gamma_constraint.config.axis", "each axis once; -1"),
    ({"gamma_constraint": config("UnitNorm", axis=0.0)}, "gamma_constraint.config.axis", "must be a whole number"),
    (
        {"beta_constraint": config("UnitNorm", axis=5), "virtual_batch_size": 2},
        "beta_constraint.config.axis",
        "between -5 and 4: the shape is [1, 1, 1, 1, 4]",
    ),
    ({"beta_constraint": "non_neg", "center": False}, "beta_constraint", "needs beta"),
    ({"gamma_constraint": "non_neg", "scale": False}, "gamma_constraint", "needs gamma"),
    ({"gamma_constraint": config("MaxNorm", max_value=True)}, "gamma_constraint.config.max_value", "must be a number"),
    ({"gamma_constraint": config("MinMaxNorm", min_value=1e7)}, "gamma_constraint.config.min_value", "less than or"),
    ({"gamma_constraint": config("UnitNorm", axis=[0, True])}, "gamma_constraint.config.axis[1]", "a whole number"),
    # renorm
    ({"renorm_clipping": "paper"}, "renorm_clipping", 'needs "renorm": true'),
    ({"renorm_momentum": 0.9}, "renorm_momentum", 'needs "renorm": true'),
    ({"renorm": True, "renorm_clipping": "papers"}, "renorm_clipping", 'or "paper" for the schedules'),
    ({"renorm": True, "renorm_clipping": 3}, "renorm_clipping", "must be an object"),
    (clipping(rmx=1), "renorm_clipping.rmx", "not a field"),
    (clipping(rmax=1, rmin=2), "renorm_clipping.rmin", "at step 0 they are 2.0 and 1.0"),
    (clipping(rmax=0.5, rmin="1/rmax"), "renorm_clipping.rmin", "at step 0 they are 2.0 and 0.5"),
    (
        clipping(rmax=[[0, 1], [10, 3]], rmin=[[0, 0.5], [5, 2.5]]),
        "renorm_clipping.rmin",
        "at step 5 they are 2.5 and 2.0",
    ),
    (clipping(rmax=[[0, 3], [10, 1]], rmin=2), "renorm_clipping.rmin", "at step 10 they are 2.0 and 1.0"),
    (clipping(rmin="1/rmax"), "renorm_clipping.rmin", "needs rmax"),
    (clipping(rmax=3, rmin="2/rmax"), "renorm_clipping.rmin", "must be '1/rmax'"),
    (clipping(rmin=[[0, "x"]]), "renorm_clipping.rmin[0][1]", "must be a number"),
    (clipping(rmax=0), "renorm_clipping.rmax", "greater than 0"),
    (clipping(rmax=-1), "renorm_clipping.rmax", "greater than or equal to 0"),
    (clipping(rmax="x"), "renorm_clipping.rmax", "must be a number"),
    (clipping(rmax=True), "renorm_clipping.rmax", "must be a number"),
    (clipping(rmax="3"), "renorm_clipping.rmax", "must be a number"),
    (clipping(rmax=[[True, 1]]), "renorm_clipping.rmax[0][0]", "must be a whole number"),
    (clipping(rmax=[]), "renorm_clipping.rmax", "at least 1 entry"),
    (clipping(rmax=[[0, -1]]), "renorm_clipping.rmax[0][1]", "greater than or equal to 0"),
    (clipping(rmax=[[5, 1], [5, 2]]), "renorm_clipping.rmax", "must rise"),
    (clipping(rmax=[[1]]), "renorm_clipping.rmax[0][1]", "is required"),
    (clipping(rmax=[1, 2]), "renorm_clipping.rmax[0]", "must be a list"),
    (clipping(dmax=-1), "renorm_clipping.dmax", "greater than or equal to 0"),
    (clipping(dmax=[[-1, 1]]), "renorm_clipping.dmax[0][0]", "greater than or equal to 0"),
    # adjustment
    ({"adjustment": {}}, "adjustment", '{"kind": "uniform", …} for an adjustment'),
    (
        {"adjustment": "uniform"},
        "adjustment",
        "must be an object, {…}, with the fields that docs/batchnorm.md and /docs",
    ),
    *(
        ({"adjustment": {"kind": kind}}, "adjustment", "must change something: give scale or bias")
        for kind in ("uniform", "normal", "constant")
    ),
    ({"adjustment": {"kind": "uniform", "per": "layer"}}, "adjustment", "must change something"),
    ({"adjustment": {"kind": "cauchy"}}, "adjustment.kind", "'uniform', 'normal', 'constant'"),
    ({"adjustment": {"kind": "uniform", "scale": [2, 1]}}, "adjustment.scale", "low <= high"),
    ({"adjustment": {"kind": "uniform", "bias": [2, 1]}}, "adjustment.bias", "low <= high"),
    ({"adjustment": {"kind": "uniform", "scale": [1]}}, "adjustment.scale[1]", "is required"),
    ({"adjustment": {"kind": "uniform", "scale": 1}}, "adjustment.scale", "must be a list"),
    ({"adjustment": {"kind": "uniform", "per": "row"}}, "adjustment.per", "'feature' or 'layer'"),
    ({"adjustment": {"kind": "uniform", "seed": -1}}, "adjustment.seed", "greater than or equal to 0"),
    ({"adjustment": {"kind": "uniform", "width": 1}}, "adjustment.width", "not a field"),
    ({"adjustment": {"kind": "normal", "scale": {"mean": 1, "std": -1}}}, "adjustment.scale.std", "equal to 0"),
    ({"adjustment": {"kind": "normal", "bias": {"std": 1}}}, "adjustment.bias.mean", "is required"),
    ({"adjustment": {"kind": "constant", "scale": [1, 2]}}, "adjustment.scale", "a list of 4"),
    ({"adjustment": {"kind": "constant", "bias": [1, "x"]}}, "adjustment.bias[1]", "must be a number"),
    ({"adjustment": {"kind": "constant", "per": "layer"}}, "adjustment.per", "not a field"),
    ({"adjustment": {"kind": "uniform", "scale": [True, True]}}, "adjustment.scale[0]", "must be a number"),
    # together
    ({"adjustment": UNIFORM, "fused": True}, "fused", "together with adjustment"),
    ({"adjustment": UNIFORM, "virtual_batch_size": 2}, "adjustment", "together with virtual_batch_size"),
    ({"renorm": True, "fused": True}, "fused", "together with renorm"),
    ({"virtual_batch_size": 2, "fused": True}, "fused", "together with virtual_batch_size"),
    ({"axis": [1, 2], "fused": True}, "fused", "together with several axes"),
    ({"axis": 2, "fused": True}, "fused", "only for images normalized over axis 1 or 3"),
]


@pytest.mark.parametrize(("given", "field", "message"), REFUSED, ids=[str(each[0]) for each in REFUSED])
def test_refusal_names_the_field(given: dict[str, Any], field: str, message: str) -> None:
    found = refused({"type": "batch_norm", **given}, IMAGE)
    assert next(iter(found)) == field, found
    assert message in found[field]


def test_list_of_another_length_is_repeated() -> None:
    spec = {"layers": [{"type": "batch_norm", "gamma_initializer": [1, 2, 3]}, {"type": "flatten"}]}
    with pytest.raises(InvalidRequest) as caught:
        plan(spec, IMAGE)
    assert caught.value.errors[0].received == [1.0, 2.0, 3.0]
    assert caught.value.errors[0].message.endswith("a list of 4, one for each channel; this has 3")


def test_long_list_is_refused_at_its_first_wrong_number() -> None:
    given = {"layers": [{"type": "batch_norm", "gamma_initializer": [1, *["x"] * 1_000]}]}
    assert list(refused_fields(given, IMAGE)) == ["network.layers[0].gamma_initializer[1]"]


def test_whole_config_of_keras_3_is_told_of_each_key_that_is_too_many() -> None:
    given = {"type": "batch_norm", "name": "batch_normalization", "trainable": True, "axis": -1, "momentum": 2}
    found = refused({**given, "dtype": {"class_name": "DTypePolicy"}, "synchronized": False}, IMAGE)
    assert list(found) == ["momentum", "dtype", "synchronized"]
    assert found["momentum"].endswith("less than or equal to 1")


def test_axis_of_rows_is_1() -> None:
    found = refused({"type": "batch_norm", "axis": 2}, (4,))
    assert found["axis"] == "must be 1 or -1 for an input of shape [4]"


def test_adjustment_that_says_that_it_changes_nothing_is_taken() -> None:
    still = BatchNorm.model_validate({"adjustment": {"kind": "uniform", "scale": [1, 1]}})
    assert BatchNorm.model_validate_json(still.model_dump_json()) == still


@pytest.mark.parametrize("shape", [(5,), (7, 5)])
def test_rows_and_sequences_have_no_fused_kernel(shape: tuple[int, ...]) -> None:
    spec = {"layers": [{"type": "batch_norm", "fused": True}, {"type": "flatten"}]}
    assert "only for images" in refused_fields(spec, shape)["network.layers[0].fused"]


def test_arguments_of_a_preset_are_named_as_those_of_the_layer() -> None:
    options = {
        "momentum": 2,
        "renorm_clipping": {"rmax": [[0, -1]]},
        "adjustment": {"kind": "uniform", "scale": [2, 1]},
    }
    assert list(refused_fields({"preset": "mlp", "batch_norm": options}, (4,))) == [
        "network.batch_norm.momentum",
        "network.batch_norm.renorm_clipping.rmax[0][1]",
        "network.batch_norm.adjustment.scale",
    ]


TAKEN: list[dict[str, Any]] = [
    {},
    {"axis": 3},
    {"axis": [1, 3]},
    {"axis": [-1]},
    {"momentum": 0, "epsilon": 1e-12},
    {"momentum": 1},
    {"center": False, "scale": False},
    {"beta_initializer": "Zeros", "gamma_initializer": config("Constant", value=0.5)},
    {"beta_initializer": [1, 2, 3, 4], "gamma_initializer": config("RandomNormal", stddev=0.01, seed=3)},
    {"moving_mean_initializer": config("RandomUniform", minval=-1, maxval=1)},
    {"moving_variance_initializer": config("TruncatedNormal", mean=1, stddev=0.1)},
    {"gamma_initializer": config("VarianceScaling", scale=2, mode="fan_avg", distribution="uniform")},
    {"gamma_initializer": {"class_name": "Ones", "config": None}},
    {"gamma_initializer": {"module": "keras.initializers", "registered_name": None, **config("Ones")}},
    {"beta_regularizer": "l1", "gamma_regularizer": L1L2},
    {"beta_regularizer": {"l1": 0.5}, "gamma_regularizer": config("L2", l2=0.1)},
    {"beta_constraint": "max_norm", "gamma_constraint": config("MinMaxNorm", min_value=0.5, max_value=2, rate=0.5)},
    {"beta_constraint": "NonNeg", "gamma_constraint": "UnitNorm"},
    {"virtual_batch_size": 4, "gamma_constraint": config("MaxNorm", max_value=2, axis=[0, -1])},
    {"renorm": True},
    {"renorm": True, "renorm_clipping": "paper", "renorm_momentum": 0.9},
    clipping(rmax=3, rmin="1/rmax", dmax=5),
    clipping(rmax=[[0, 1], [100, 3]], rmin=[[0, 1], [100, 0.3]], dmax=[[0, 0]]),
    {"renorm": True, "virtual_batch_size": 4},
    {"renorm": True, "adjustment": UNIFORM},
    {"fused": True},
    {"fused": False},
    {"trainable": False},
    {"adjustment": {**UNIFORM, "per": "layer", "seed": 7}},
    {"adjustment": {"kind": "normal", "scale": {"mean": 1, "std": 0.03}, "bias": {"mean": 0, "std": 0.05}}},
    {"adjustment": {"kind": "constant", "scale": [1, 2, 3, 4], "bias": 0.5}},
    {"name": "norm.1"},
]


@pytest.mark.parametrize("given", TAKEN, ids=str)
def test_arguments_come_back_from_json_as_they_were(given: dict[str, Any]) -> None:
    spec = TypeAdapter(BatchNorm).validate_python(given)
    text = json.dumps(spec.model_dump(mode="json"), allow_nan=False)
    assert BatchNorm.model_validate(json.loads(text)) == spec
    planned = plan_of_layer({"type": "batch_norm", **given}, IMAGE)
    assert plan_of_layer(planned.layers[0].spec.model_dump(mode="json"), IMAGE).layers[0] == planned.layers[0]


def test_each_argument_of_the_signature_is_taken() -> None:
    signature = (
        "axis momentum epsilon center scale beta_initializer gamma_initializer moving_mean_initializer "
        "moving_variance_initializer beta_regularizer gamma_regularizer beta_constraint gamma_constraint renorm "
        "renorm_clipping renorm_momentum fused trainable virtual_batch_size adjustment name"
    )
    assert set(signature.split()) == BATCH_NORM_ARGUMENTS
    told = {key for given in TAKEN for key in given}
    assert told == BATCH_NORM_ARGUMENTS


@pytest.mark.parametrize(
    ("given", "shape", "fused"),
    [
        ({}, (8, 8, 4), True),
        ({"axis": 1}, (8, 8, 4), True),
        ({"axis": 2}, (8, 8, 4), False),
        ({"axis": [1, 3]}, (8, 8, 4), False),
        ({"fused": False}, (8, 8, 4), False),
        ({"renorm": True}, (8, 8, 4), False),
        ({"virtual_batch_size": 2}, (8, 8, 4), False),
        ({"adjustment": UNIFORM}, (8, 8, 4), False),
        ({}, (8, 4), False),
        ({}, (4,), False),
        ({}, (4, 4, 4, 2), True),
        ({"axis": 2}, (4, 4, 4, 2), False),
    ],
)
def test_plan_decides_whether_the_kernel_is_fused(given: dict[str, Any], shape: tuple[int, ...], fused: bool) -> None:
    spec = plan_of_layer({"type": "batch_norm", **given}, shape).layers[0].spec
    assert isinstance(spec, BatchNorm)
    assert spec.fused is fused


def test_plan_counts_axes_from_the_front_in_order() -> None:
    planned = plan_of_layer({"type": "batch_norm", "axis": [-1, 1]}, IMAGE).layers[0]
    assert isinstance(planned.spec, BatchNorm)
    assert planned.spec.axis == (1, 3)
    assert planned.parameters == 2 * 8 * 4


def test_bounds_move_in_straight_lines_and_stand_still_outside() -> None:
    paper = RenormClipping.model_validate("paper")
    assert [paper.at(step).rmax for step in (0, 5_000, 22_500, 40_000, 90_000)] == [1, 1, 2, 3, 3]
    assert [paper.at(step).dmax for step in (0, 5_000, 15_000, 25_000, 90_000)] == [0, 0, 2.5, 5, 5]
    assert paper.at(22_500).rmin == 0.5
    assert not paper.fixed


def test_bound_that_is_missing_does_not_bind() -> None:
    bounds = RenormClipping(rmax=1.0, dmax=0.0)
    assert bounds.at(0).rmin == 0
    assert bounds.fixed
    assert RenormClipping().at(7) == (0, float("inf"), float("inf"))


def test_initializers_of_networks_stored_with_all_numbers_are_read() -> None:
    idle = {"mean": 0.0, "stddev": 0.05, "minval": -0.05, "maxval": 0.05, "seed": None}
    stored = {"name": "zeros", "value": 0.0, **idle}
    assert Initializer.model_validate(stored) == Initializer(name="zeros")
    stored = {"name": "constant", "value": 0.0, **idle}
    assert Initializer.model_validate(stored).lowest() == 0


def test_names_without_numbers_have_those_of_keras() -> None:
    assert Regularizer.model_validate("l1") == Regularizer(l1=0.01)
    assert Regularizer.model_validate("L2") == Regularizer(l2=0.01)
    assert Constraint.model_validate("max_norm").max_value == 2
    assert Constraint.model_validate("min_max_norm").max_value == 1
    assert Initializer.model_validate("normal") == Initializer(name="random_normal", stddev=0.05)
    assert Initializer.model_validate([1, 2]) == Initializer(name="constant", value=(1.0, 2.0))
