"""A folded network as an ONNX graph, written node by node.

    x [batch, *row] float32 ──Sub, Div …──► rows ──Transpose──► torch's layout ──layers──► logits [batch, outputs]

Arrays and images come in raw; the rows of a table come in preprocessed, since that counts in float64 and in categories.
torch has an exporter too, which runs the network and takes seconds of Python; this takes as
long as a copy of the weights. Names of layers have no slash, so those of values and constants, "/LAYER/kernel", meet no
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from gammabeta.nets.build import Add, Concatenate, Flatten
from gammabeta.nets.convolutions import Conv1D, Conv2D
from gammabeta.nets.dense import Dense, WithKernel
from gammabeta.nets.folding import ChannelAffine, Folded
from gammabeta.nets.pooling import AveragePool, GlobalAveragePool, Pool
from gammabeta.nets.windows import Padding
from gammabeta.schemas.layers import INPUT
from gammabeta.schemas.preprocessing import FittedArray, FittedImage, FittedPreprocessing, FittedTable

OPSET = 20
"""The first with a gelu."""
IR_VERSION = 9
"""What came with that."""
LIMIT_BYTES = 2**31 - 2**20
"""Of the weights: a protobuf message has less than 2 GiB."""

TO_IMAGES, FROM_IMAGES, TURNED = (0, 3, 1, 2), (0, 2, 3, 1), (0, 2, 1)

PLAIN: Mapping[type[nn.Module], tuple[str, dict[str, Any]]] = {
    nn.ReLU: ("Relu", {}),
    nn.Sigmoid: ("Sigmoid", {}),
    nn.Tanh: ("Tanh", {}),
    nn.ELU: ("Elu", {"alpha": 1.0}),
    nn.SELU: ("Selu", {}),
    nn.GELU: ("Gelu", {}),
    nn.LeakyReLU: ("LeakyRelu", {"alpha": 0.2}),
    nn.Softplus: ("Softplus", {}),
}
"""Activations that are one node."""


class NoGraph(ValueError):
    """The network cannot be written as an ONNX graph. The message says why."""


def onnx_model(folded: Folded, preprocessing: FittedPreprocessing, *, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """The graph, with its weights: `x` [batch, *row], float32, to `logits` [batch, outputs].

    Args:
        folded: a network for predictions.
        preprocessing: what its own was built from. The graph has it, unless it is that of a table.
        limit_bytes: of the weights.

    Raises:
        NoGraph: the weights are too large for one, or a layer is of a type that is unknown here.
    """
    size = sum(tensor.nbytes for tensor in (*folded.parameters(), *folded.buffers()))
    if size > limit_bytes:
        raise NoGraph(f"An ONNX graph must have at most {limit_bytes:,} bytes of weights. Received: {size:,}.")
    graph = _Graph()
    values = {INPUT: _prepared(graph, folded, preprocessing)}
    for node in folded.nodes:
        graph.place = node.name
        values[node.name] = _layer(graph, node.module, [values[each] for each in node.inputs], len(node.shape))
    graph.nodes.append(helper.make_node("Identity", [values[folded.output]], ["logits"]))
    return graph.written(_raw_shape(preprocessing))


class _Graph:
    """Nodes and constants, as they come. `place`: the layer that is being written."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self.place = INPUT

    def put(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node -> its value."""
        value = f"/{self.place}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [value], value, **attributes))
        return value

    def constant(self, name: str, values: Tensor | ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(values.detach().numpy() if isinstance(values, Tensor) else values, dtype=dtype)
        self._constants.append(numpy_helper.from_array(array, f"/{self.place}/{name}"))
        return f"/{self.place}/{name}"

    def turned(self, value: str, order: tuple[int, ...]) -> str:
        """Its dimensions in another order."""
        return self.put("Transpose", value, perm=order)

    def written(self, row: tuple[int, ...]) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])
        graph = helper.make_graph(self.nodes, "network", [x], [logits], self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gammabeta")
        content: bytes = model.SerializeToString()
        return content


def _raw_shape(preprocessing: FittedPreprocessing) -> tuple[int, ...]:
    return preprocessing.input_shape if isinstance(preprocessing, FittedTable) else preprocessing.shape


def _prepared(graph: _Graph, folded: Folded, preprocessing: FittedPreprocessing) -> str:
    """Preprocessing, and the way into torch's layout."""
    numbers = dict(folded.preprocess.named_buffers())
    value = "x"
    match preprocessing:
        case FittedImage(threshold=float(threshold)):
            above = graph.put("Greater", value, graph.constant("threshold", threshold))
            value = graph.put("Cast", above, to=TensorProto.FLOAT)
        case FittedArray() | FittedImage():
            if preprocessing.offset:
                offset = numbers.get("offset", preprocessing.offset)
                value = graph.put("Sub", value, graph.constant("offset", offset))
            if preprocessing.scale:
                value = graph.put("Div", value, graph.constant("scale", numbers["scale"]))
        case FittedTable():
            pass
    if isinstance(preprocessing, FittedImage) and len(preprocessing.shape) == 2:
        return graph.put("Unsqueeze", value, graph.constant("channel", [1], np.int64))
    return graph.turned(value, TO_IMAGES) if len(preprocessing.input_shape) == 3 else value


def _layer(graph: _Graph, module: nn.Module, inputs: list[str], rank: int) -> str:
    x = inputs[0]
    match module:
        case Dense():
            return graph.put("Gemm", x, *_constants(graph, module), transB=1)
        case Conv1D() | Conv2D():
            return _convolution(graph, module, x)
        case ChannelAffine():
            scaled = graph.put("Mul", x, graph.constant("factor", module.factor))
            return graph.put("Add", scaled, graph.constant("offset", module.offset))
        case Pool():
            return _pool(graph, module, x, rank)
        case GlobalAveragePool():
            axes = graph.constant("axes", [2, 3] if rank == 3 else [1], np.int64)
            return graph.put("ReduceMean", x, axes, keepdims=0)
        case Flatten():
            return graph.put("Flatten", graph.turned(x, FROM_IMAGES) if rank == 3 else x)
        case Add():
            for other in inputs[1:]:
                x = graph.put("Add", x, other)
            return x
        case Concatenate():
            return graph.put("Concat", *inputs, axis=module.dim)
        case nn.Softmax():
            return graph.put("Softmax", x, axis=module.dim)
        case nn.SiLU():
            return graph.put("Mul", x, graph.put("Sigmoid", x))
    if type(module) not in PLAIN:
        raise NoGraph(f"Layers of the type {type(module).__name__} cannot be written. Received: '{graph.place}'.")
    operator, attributes = PLAIN[type(module)]
    return graph.put(operator, x, **attributes)


def _constants(graph: _Graph, module: WithKernel) -> list[str]:
    kernel = graph.constant("kernel", module.kernel)
    return [kernel] if module.bias is None else [kernel, graph.constant("bias", module.bias)]


def _convolution(graph: _Graph, module: Conv1D | Conv2D, x: str) -> str:
    """A sequence [B, L, C] goes in as [B, C, L]."""
    flat = isinstance(module, Conv1D)
    first = 1 if flat else 0
    y = graph.put(
        "Conv",
        graph.turned(x, TURNED) if flat else x,
        *_constants(graph, module),
        kernel_shape=module.kernel.shape[2:],
        strides=module.strides[first:],
        dilations=module.dilation[first:],
        pads=_pads(module.padding, first),
        group=module.groups,
    )
    return graph.turned(y, TURNED) if flat else y


def _pool(graph: _Graph, module: Pool, x: str, rank: int) -> str:
    """Padding counts neither as a largest value nor in a mean."""
    flat = rank == 2
    first = 1 if flat else 0
    average = isinstance(module, AveragePool)
    y = graph.put(
        "AveragePool" if average else "MaxPool",
        graph.turned(x, TURNED) if flat else x,
        kernel_shape=module.window[first:],
        strides=module.strides[first:],
        pads=_pads(module.padding, first),
        **({"count_include_pad": 0} if average else {}),
    )
    return graph.turned(y, TURNED) if flat else y


def _pads(padding: Padding, first: int) -> tuple[int, ...]:
    """ONNX has all the beginnings, then all the ends."""
    return ((padding.top, padding.left)[first:]) + ((padding.bottom, padding.right)[first:])
