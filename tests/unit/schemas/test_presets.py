"""Presets written out as layers."""

from __future__ import annotations

from typing import Any

import pytest

from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.layers import Conv2D, Dense
from gammabeta.schemas.measuring import Shape
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.plans import NetworkPlan
from gammabeta.schemas.presets import BatchNormOptions
from tests.unit.schemas.refusals import plan, refused_fields

CIFAR, IMAGENET, MNIST = (32, 32, 3), (224, 224, 3), (28, 28, 1)


def resnet(shape: Shape = CIFAR, outputs: int = 10, **given: Any) -> NetworkPlan:
    return plan({"preset": "resnet", **given}, shape, outputs)


def norms(planned: NetworkPlan) -> dict[str, BatchNorm]:
    return {layer.name: layer.spec for layer in planned.layers if isinstance(layer.spec, BatchNorm)}


@pytest.mark.parametrize(
    ("depth", "shape", "outputs", "parameters"),
    [
        (18, IMAGENET, 1000, 11_689_512),
        (34, IMAGENET, 1000, 21_797_672),
        (50, IMAGENET, 1000, 25_557_032),
        (20, CIFAR, 10, 272_474),
        (32, CIFAR, 10, 466_906),
        (56, CIFAR, 10, 855_770),
    ],
)
def test_resnet_has_the_parameters_of_the_paper(depth: int, shape: Shape, outputs: int, parameters: int) -> None:
    planned = resnet(shape, outputs, depth=depth)
    assert planned.parameters == parameters
    weighted = [each for each in planned.layers if isinstance(each.spec, Conv2D | Dense)]
    assert len([each for each in weighted if "shortcut" not in each.name]) == depth


@pytest.mark.parametrize("depth", [18, 20, 32, 34, 50, 56])
def test_resnet_reads_small_gray_images(depth: int) -> None:
    planned = resnet(MNIST, depth=depth)
    assert planned.layers[-1].output_shape == (10,)
    assert plan(planned.as_network().model_dump(mode="json"), MNIST) == planned


def test_resnet_halves_the_image_at_each_stage() -> None:
    added = {layer.name: layer.output_shape for layer in resnet(IMAGENET, depth=50).layers if layer.spec.type == "add"}
    assert added["stage1_block3_add"] == (56, 56, 256)
    assert added["stage2_block1_add"] == (28, 28, 512)
    assert added["stage4_block3_add"] == (7, 7, 2048)


def test_bottleneck_strides_in_its_3x3_convolution() -> None:
    specs = {layer.name: layer.spec for layer in resnet(IMAGENET, depth=50).layers}
    strided = [name for name, spec in specs.items() if isinstance(spec, Conv2D) and spec.strides == 2]
    assert strided[:3] == ["stem_conv", "stage2_block1_2_conv", "stage2_block1_shortcut_conv"]


def test_resnet_takes_the_arguments_of_its_batch_norms() -> None:
    found = norms(resnet(batch_norm={"momentum": 0.9, "renorm": True}))
    assert {(norm.momentum, norm.renorm) for norm in found.values()} == {(0.9, True)}
    assert len(found) == 21


def test_zero_init_residual_starts_the_last_gamma_of_each_block_at_zero() -> None:
    found = norms(resnet(zero_init_residual=True))
    zero = [name for name, norm in found.items() if norm.gamma_initializer == Initializer(name="zeros")]
    assert zero == [f"stage{stage}_block{block}_2_norm" for stage in (1, 2, 3) for block in (1, 2, 3)]


def test_resnet_without_batch_norm_has_biases() -> None:
    planned = resnet(batch_norm="none")
    assert not planned.batch_norms
    assert all(each.spec.use_bias for each in planned.layers if isinstance(each.spec, Conv2D))
    assert planned.parameters == resnet().parameters - sum(each.parameters // 2 for each in resnet().batch_norms)


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"depth": 19}, "network.depth", "18, 20, 32, 34, 50 or 56"),
        ({"hidden": [3]}, "network.hidden", "not a field"),
        ({"batch_norm": "after_activation"}, "network.batch_norm", '"before_activation", "none"'),
        ({"batch_norm": ["none"]}, "network.batch_norm", '"before_activation", "none"'),
        ({"batch_norm": {"placement": "after_activation"}}, "network.batch_norm", '"before_activation", "none"'),
        ({"batch_norm": {"name": "x"}}, "network.batch_norm.name", "a preset names its own"),
        ({"batch_norm": "none", "zero_init_residual": True}, "network.zero_init_residual", "batch norm with gamma"),
        ({"batch_norm": {"scale": False}, "zero_init_residual": True}, "network.zero_init_residual", "with gamma"),
        ({"batch_norm": {"trainable": False}, "zero_init_residual": True}, "network.zero_init_residual", "for good"),
        ({"batch_norm": {"inputs": ["input"]}}, "network.batch_norm.inputs", "a preset names its own"),
        ({"batch_norm": {"layer": {"name": "x"}}}, "network.batch_norm.layer", "not a field"),
        ({"batch_norm": {"type": "dense"}}, "network.batch_norm.type", "must be 'batch_norm'"),
        ({"kernel_initializer": "x"}, "network.kernel_initializer", "must be one of zeros"),
        ({"kernel_regularizer": "l1l2"}, "network.kernel_regularizer", "must say both numbers"),
    ],
)
def test_resnet_is_refused_by_field(given: dict[str, Any], field: str, message: str) -> None:
    found = refused_fields({"preset": "resnet", **given}, CIFAR)
    assert list(found) == [field]
    assert message in found[field]


def test_resnet_needs_images() -> None:
    assert "It reads images" in refused_fields({"preset": "resnet"}, (20,))["network"]


EIGHT = {"class_name": "Constant", "config": {"value": [1] * 8}}


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (
            {"batch_norm": {"axis": [1, 2]}},
            "network.batch_norm.axis",
            "must be 1 or -1 for an input of shape [8] (layer 'batch_norm')",
        ),
        ({"batch_norm": {"fused": True}}, "network.batch_norm.fused", "can be true only for images"),
        (
            {"batch_norm": {"gamma_initializer": EIGHT}},
            "network.batch_norm.gamma_initializer",
            "(layer 'batch_norm_1')",
        ),
        (
            {"batch_norm": {"adjustment": {"kind": "constant", "scale": [1] * 8}}},
            "network.batch_norm.adjustment.scale",
            "must be one number, or a list of 16, one for each channel; this has 8 (layer 'batch_norm_1')",
        ),
        (
            {"batch_norm": {"beta_constraint": {"class_name": "MaxNorm", "config": {"axis": 1}}}},
            "network.batch_norm.beta_constraint.config.axis",
            "must be between -1 and 0",
        ),
        ({"kernel_initializer": EIGHT}, "network.kernel_initializer", "must be one number for a kernel"),
    ],
)
def test_layer_that_does_not_fit_is_told_of_what_wrote_it(given: dict[str, Any], field: str, message: str) -> None:
    found = refused_fields({"preset": "mlp", "hidden": [8, 16], **given}, (4,))
    assert list(found) == [field]
    assert message in found[field]


def test_layer_that_no_argument_wrote_is_named() -> None:
    found = refused_fields({"preset": "cnn", "filters": [4, 4, 4]}, (4, 4, 1))
    assert found["network"].startswith("a window of [2, 2] must fit")
    assert found["network"].endswith("(layer 'max_pool_2')")


@pytest.mark.parametrize("given", [True, False, None, 3])
def test_batch_norm_of_a_preset_is_told_its_words(given: Any) -> None:
    (message,) = refused_fields({"preset": "mlp", "batch_norm": given}, (4,)).values()
    assert '"before_activation", "after_activation" or "none", a list' in message
    assert message.endswith('Write "none" for a network without batch norm.')


@pytest.mark.parametrize("preset", ["mlp", "cnn", "resnet"])
def test_slips_in_a_preset_are_told_what_was_meant(preset: str) -> None:
    found = refused_fields({"preset": preset, "batchnorm": "none"}, MNIST)
    assert found == {"network.batchnorm": "is not a field here. Did you mean 'batch_norm'?"}


def test_arguments_of_a_batch_norm_are_written_as_they_are_read() -> None:
    options = BatchNormOptions(momentum=0.9, placement="after_activation")
    assert options.layer == BatchNorm(momentum=0.9)
    assert BatchNormOptions.model_validate_json(options.model_dump_json()) == options


def kernels(network: LayersNetwork) -> list[Conv2D | Dense]:
    return [each for each in network.layers if isinstance(each, Conv2D | Dense)]


@pytest.mark.parametrize("preset", ["mlp", "cnn", "resnet"])
def test_kernels_of_a_preset_start_and_shrink_as_it_says(preset: str) -> None:
    start = {"class_name": "RandomNormal", "config": {"stddev": 0.01}}
    spec = {"preset": preset, "kernel_initializer": start, "kernel_regularizer": "l2"}
    found = kernels(plan(spec, MNIST).as_network())
    assert {each.kernel_initializer for each in found} == {Initializer(name="random_normal", stddev=0.01)}
    assert all(each.kernel_regularizer is not None and each.kernel_regularizer.l2 == 0.01 for each in found)


@pytest.mark.parametrize(
    ("preset", "start"), [("mlp", "glorot_uniform"), ("cnn", "glorot_uniform"), ("resnet", "he_normal")]
)
def test_kernels_of_a_preset_start_by_default(preset: str, start: str) -> None:
    found = kernels(plan({"preset": preset}, MNIST).as_network())
    assert {each.kernel_initializer.name for each in found} == {start}


def test_mlp_preset_puts_batch_norm_between_a_dense_layer_without_bias_and_its_activation() -> None:
    planned = plan({"preset": "mlp", "hidden": [64, 32]}, (20,))
    assert [each.spec.type for each in planned.layers] == ["dense", "batch_norm", "activation"] * 2 + ["dense"]
    assert [each.name for each in planned.layers][3:5] == ["dense_1", "batch_norm_1"]
    assert planned.layers[0].spec.use_bias is False
    assert planned.layers[-1].spec.units == 10
    assert planned.parameters == 20 * 64 + 128 + 64 * 32 + 64 + 32 * 10 + 10


def test_preset_keeps_the_bias_where_batch_norm_does_not_add_beta() -> None:
    planned = plan({"preset": "mlp", "batch_norm": {"center": False}}, (20,))
    assert planned.layers[0].spec.use_bias is True
    planned = plan({"preset": "mlp", "batch_norm": "after_activation"}, (20,))
    assert [each.spec.type for each in planned.layers] == ["dense", "activation", "batch_norm", "dense"]
    assert planned.layers[0].spec.use_bias is True


def test_preset_takes_a_placement_for_each_hidden_layer() -> None:
    spec = {"preset": "mlp", "hidden": [8, 8, 8], "batch_norm": ["none", "before_activation", "after_activation"]}
    types = [each.spec.type for each in plan(spec, (4,)).layers]
    assert types == [
        "dense",
        "activation",
        "dense",
        "batch_norm",
        "activation",
        "dense",
        "activation",
        "batch_norm",
        "dense",
    ]


def test_mlp_preset_flattens_images() -> None:
    assert plan({"preset": "mlp"}, (28, 28, 1)).layers[0].output_shape == (784,)


def test_cnn_preset_halves_the_image_after_each_convolution() -> None:
    planned = plan({"preset": "cnn", "filters": [8, 16], "hidden": [32]}, (28, 28, 1))
    shapes = [each.output_shape for each in planned.layers if each.spec.type == "max_pool"]
    assert shapes == [(14, 14, 8), (7, 7, 16)]
