"""Every operator of our models on its own: a branch of one to three nodes each, side by side in one graph.

One graph is quantized once per recipe, which is what makes a check of every operator on every runtime cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, parser

from mscsa_deploy.calibration.samples import Samples


@dataclass(frozen=True)
class Branch:
    """One operator between others that give it quantized values.

    Args:
        op: Its type.
        body: Nodes from ``x`` to ``y``; the operator is the node called ``tested``.
        shape: Of the input.
        out: Of the output.
        weights: Shapes of the random weights, which keep values about as large as they are.
        fixed: Integer and other arrays as they are.
    """

    op: str
    body: str
    shape: tuple[int, ...] = (1, 16, 12, 12)
    out: tuple[int, ...] = (1, 16, 12, 12)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: dict[str, object] = field(default_factory=dict)


def conv(kernel: int, stride: int, channels: int, out: int, *, depthwise: bool = False, rank: int = 2) -> Branch:
    """A convolution of one of the classes that our exports hold."""
    pad = 0 if kernel in (1, 2, 4, 8) else kernel // 2
    # As large as in our models where strides are long: the kernels that OpenVINO picks depend on it.
    size = 56 if stride > 2 else 28
    after = (size + 2 * pad - kernel) // stride + 1
    attributes = {
        "kernel_shape": [kernel] * rank, "strides": [stride] * rank, "pads": [pad] * 2 * rank,
        "group": channels if depthwise else 1,
    }  # fmt: skip
    shown = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    weights = {"w": (out, 1 if depthwise else channels, *[kernel] * rank), "b": (out,)}
    body = f"[tested] y = Conv<{shown}>(x, w, b)"
    return Branch("Conv", body, (1, channels, *[size] * rank), (1, out, *[after] * rank), weights)


def between(op: str, call: str, out: tuple[int, ...] = (1, 16, 12, 12), *, before: str = "", **fixed: object) -> Branch:
    """`before` and `call`, from ``p`` to ``q``, between two pointwise convolutions."""
    behind = f"y = Conv<kernel_shape=[{', '.join('1' for _ in out[2:])}]>(q, w2)"
    weights = {"w1": (16, 16, 1, 1), "w2": (8, out[1], *(1 for _ in out[2:]))}
    body = f"p = Conv<kernel_shape=[1,1]>(x, w1) {before} [tested] {call} {behind}"
    return Branch(op, body, out=(1, 8, *out[2:]), weights=weights, fixed=fixed)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


TOKENS = (1, 36, 32)
BRANCHES = {
    # Kernel, stride and what is summed over, as they occur; channels odd to 16 among them.
    "conv1": conv(1, 1, 128, 128),
    "conv1_few": conv(1, 1, 16, 64),
    "conv1_odd_in": conv(1, 1, 24, 48),
    "conv1_odd_out": conv(1, 1, 128, 21),
    "conv1_long": conv(1, 1, 360, 64),
    "conv1_1d": conv(1, 1, 128, 120, rank=1),
    "conv1_1d_few": conv(1, 1, 32, 64, rank=1),
    "conv2_patch": conv(2, 2, 160, 160),
    "conv3_stem": conv(3, 2, 3, 16),
    "conv3_embed": conv(3, 2, 32, 64),
    "conv3_embed_wide": conv(3, 2, 160, 256),
    "conv3_depthwise": conv(3, 1, 48, 48, depthwise=True),
    "conv3_depthwise_half": conv(3, 2, 48, 48, depthwise=True),
    "conv4_patch": conv(4, 4, 64, 64),
    "conv5_depthwise": conv(5, 1, 96, 96, depthwise=True),
    "conv5_depthwise_half": conv(5, 2, 96, 96, depthwise=True),
    "conv5_depthwise_third": conv(5, 3, 96, 96, depthwise=True),
    "conv7_stem": conv(7, 4, 3, 32),
    "conv8_patch": conv(8, 8, 32, 32),
    "gemm": Branch("Gemm", "r = Reshape(x, t) [tested] q = Gemm(r, w, b) y = Reshape(q, s)", TOKENS, (1, 36, 64),
                   {"w": (32, 64), "b": (64,)}, {"t": ints(36, 32), "s": ints(1, 36, 64)}),
    "linear": Branch("MatMul", "[tested] y = MatMul(x, w)", TOKENS, (1, 36, 64), {"w": (32, 64)}),
    "attention": Branch("MatMul", "q = MatMul(x, w1) k = MatMul(x, w2) t = Transpose<perm=[0,2,1]>(k) "
                        "[tested] y = MatMul(q, t)", TOKENS, (1, 36, 36), {"w1": (32, 32), "w2": (32, 32)}),
    "softmax": Branch("Softmax", "p = MatMul(x, w1) [tested] y = Softmax<axis=-1>(p)", TOKENS, TOKENS,
                      {"w1": (32, 32)}),
    "layer_norm": Branch("LayerNormalization", "p = MatMul(x, w1) [tested] q = LayerNormalization(p, w, b) "
                         "y = MatMul(q, w2)", TOKENS, TOKENS, {"w1": (32, 32), "w": (32,), "b": (32,),
                                                               "w2": (32, 32)}),
    "gelu": Branch("Gelu", "p = MatMul(x, w1) [tested] q = Gelu(p) y = MatMul(q, w2)", TOKENS, TOKENS,
                   {"w1": (32, 32), "w2": (32, 32)}),
    "erf": Branch("Erf", "p = MatMul(x, w1) [tested] q = Erf(p) y = MatMul(q, w2)", TOKENS, TOKENS,
                  {"w1": (32, 32), "w2": (32, 32)}),
    "add": between("Add", "q = Add(p, x)"),
    "div": between("Div", "q = Div(p, c)", c=number(1.4)),
    "mul": between("Mul", "q = Mul(p, x)"),
    "average_pool": between("AveragePool", "q = AveragePool<kernel_shape=[4,4], strides=[4,4]>(p)", (1, 16, 3, 3)),
    "reduce_mean": between("ReduceMean", "q = ReduceMean<keepdims=1>(p, a)", (1, 16, 1, 1), a=ints(2, 3)),
    "batch_norm": between("BatchNormalization", "q = BatchNormalization(h, g, o, m, v)", before="h = HardSwish(p)",
                          g=np.linspace(0.5, 2, 16, dtype=np.float32), o=np.zeros(16, np.float32),
                          m=np.zeros(16, np.float32), v=np.ones(16, np.float32)),
    "relu": between("Relu", "q = Relu(p)"),
    "clip": between("Clip", "q = Clip(p, l, h)", l=number(0), h=number(6)),
    "hard_swish": between("HardSwish", "q = HardSwish(p)"),
    "hard_sigmoid": between("HardSigmoid", "q = HardSigmoid<alpha=0.1666667, beta=0.5>(p)"),
    "concat": between("Concat", "q = Concat<axis=1>(p, x)", (1, 32, 12, 12)),
    "split": between("Split", "q, r = Split<axis=1, num_outputs=2>(p)", (1, 8, 12, 12)),
    "slice": between("Slice", "q = Slice(p, f, t, a)", (1, 8, 12, 12), f=ints(8), t=ints(16), a=ints(1)),
    "reshape": between("Reshape", "q = Reshape(p, s)", (1, 16, 144), s=ints(1, 16, 144)),
    "transpose": between("Transpose", "q = Transpose<perm=[0,1,3,2]>(p)"),
    "resize": between("Resize", 'q = Resize<mode="linear", coordinate_transformation_mode="half_pixel">'
                      "(p, , , s)", (1, 16, 24, 24), s=ints(1, 16, 24, 24)),
}  # fmt: skip
# Operators of other models; said to run on integers or not like the rest.
FOREIGN = {
    "depth_to_space": between("DepthToSpace", "q = DepthToSpace<blocksize=2>(p)", (1, 4, 24, 24)),
    "gather": between("Gather", "q = Gather<axis=1>(p, a)", (1, 4, 12, 12), a=ints(0, 1, 2, 3)),
    "global_average_pool": between("GlobalAveragePool", "q = GlobalAveragePool(p)", (1, 16, 1, 1)),
    "leaky_relu": between("LeakyRelu", "q = LeakyRelu(p)"),
    "max_pool": between("MaxPool", "q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)", (1, 16, 6, 6)),
    "pad": between("Pad", "q = Pad(p, a)", (1, 16, 14, 14), a=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "reduce_max": between("ReduceMax", "q = ReduceMax<keepdims=1>(p, a)", (1, 16, 1, 1), a=ints(2, 3)),
    "reduce_min": between("ReduceMin", "q = ReduceMin<keepdims=1>(p, a)", (1, 16, 1, 1), a=ints(2, 3)),
    "resize_nearest": between("Resize", 'q = Resize<mode="nearest", coordinate_transformation_mode="asymmetric">'
                              "(p, , , s)", (1, 16, 24, 24), s=ints(1, 16, 24, 24)),
    "sigmoid": between("Sigmoid", "q = Sigmoid(p)"),
    "space_to_depth": between("SpaceToDepth", "q = SpaceToDepth<blocksize=2>(p)", (1, 64, 6, 6)),
    "tile": between("Tile", "q = Tile(p, a)", (1, 16, 24, 12), a=ints(1, 1, 2, 1)),
}  # fmt: skip


def named(prefix: str, body: str) -> onnx.GraphProto:
    """The nodes of a branch, every tensor and node named after it."""
    graph = parser.parse_graph(f"g (float[1] x) => (float[1] y) {{ {body} }}")
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}.{node.name or index}"
        for names in (node.input, node.output):
            names[:] = [f"{prefix}.{name}" if name else "" for name in names]
    return graph


def model_of(branches: dict[str, Branch]) -> onnx.ModelProto:
    """The branches side by side, each with its own input ``NAME.x`` and output ``NAME.y``."""
    generator = np.random.default_rng(0)
    graph = onnx.GraphProto(name="operators")
    for name, branch in branches.items():
        graph.node.extend(named(name, branch.body).node)
        for place, values, shape in (("x", graph.input, branch.shape), ("y", graph.output, branch.out)):
            values.append(onnx.helper.make_tensor_value_info(f"{name}.{place}", onnx.TensorProto.FLOAT, shape))
        arrays = dict(branch.fixed)
        for key, shape in branch.weights.items():
            drawn = generator.standard_normal(shape)
            # A linear layer's weight is (in, out), a convolution's (out, in, ...).
            summed = {1: 1, 2: shape[0]}.get(len(shape), int(np.prod(shape[1:])))
            arrays[key] = (drawn / np.sqrt(summed)).astype(np.float32)
        graph.initializer.extend(numpy_helper.from_array(array, f"{name}.{key}") for key, array in arrays.items())
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds_for(branches: dict[str, Branch], count: int = 4) -> Samples:
    """Normal values for every branch."""

    def feed(index: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng((7, index))
        return {
            f"{name}.x": generator.standard_normal(branch.shape).astype(np.float32) for name, branch in branches.items()
        }

    return Samples("operators", feed, tuple(range(count)), tuple(f"seed {index}" for index in range(count)))
