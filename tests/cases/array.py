"""Cases of csrc/rules/array.cc."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from tests.harness import case, rand


def hidden(op: str, *names: str) -> Callable[..., Any]:
    """The op, with integer arguments whose values the builder can't know."""

    def fn(**args: Any) -> Any:
        for name in names:
            args[name] = tf.raw_ops.PlaceholderWithDefault(input=args[name], shape=None)
        return getattr(tf.raw_ops, op)(**args)

    return fn


def internal(op: str) -> Callable[..., Any]:
    """An op of one input that Python has no function for, or no longer."""

    def fn(input: Any) -> Any:  # noqa: A002
        graph = tf.compat.v1.get_default_graph()
        if tf.executing_eagerly():
            raise NotImplementedError
        return graph._create_op_internal(op, [input], [input.dtype], name="op").outputs[0]

    return fn


I32, I64 = np.int32, np.int64
MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def masks(*values: int) -> dict[str, int]:
    return dict(zip(MASKS, values, strict=True))


# begin, end, strides and masks, for a tensor of shape [4, 3, 2].
STRIDED = [
    dict(begin=[1, 0, 1], end=[3, 2, 2], strides=[1, 1, 1]),
    dict(begin=[-1, 2, 0], end=[-4, 0, 2], strides=[-2, -1, 1]),
    dict(begin=[0, 1], end=[0, 3], strides=[2, 1], **masks(1, 1, 0, 0, 0)),
    dict(begin=[0, 0, -1], end=[0, 0, 0], strides=[1, 1, 1], **masks(2, 2, 2, 0, 5)),
    dict(begin=[0, 0, 1, 0], end=[0, 0, 3, 0], strides=[1, 1, 1, 1], **masks(9, 9, 8, 2, 1)),
    dict(begin=[3, 0, 0], end=[3, 3, 2], strides=[1, 1, 1]),
    dict(begin=np.array([2], I64), end=np.array([9], I64), strides=np.array([3], I64)),
    dict(begin=[0, 0, 0, 0], end=[0, 0, 0, 0], strides=[1, 1, 1, 1], **masks(0, 0, 2, 13, 0)),
    dict(begin=[-2, -1, 9], end=[-9, 9, -9], strides=[-1, 1, -2], **masks(0, 0, 0, 0, 2)),
]
SPACES = [[1, 2], [3, 1]]
BLOCKS = dict(block_shape=[2, 3])
CENTRES = [[0, 1], [2, 1]]
# k, align and the shape of the diagonals of a 3x4 matrix.
DIAGONALS: list[tuple[Any, str, tuple[int, ...]]] = [
    (0, "RIGHT_LEFT", (3,)),
    (1, "RIGHT_LEFT", (3,)),
    (-2, "LEFT_LEFT", (1,)),
    ([-1, 2], "RIGHT_LEFT", (4, 3)),
    ([-1, 2], "LEFT_RIGHT", (4, 3)),
    ([-2, -1], "LEFT_LEFT", (2, 2)),
    ([0, 3], "RIGHT_RIGHT", (4, 3)),
]
PADDING = "Python takes the padding value for a constant"
STRAIGHT = "a straight-through estimator"
UNREGISTERED = "Python has no gradient"
OUTSIDE = np.array([[-0.8, 0.1, 0.3], [0.7, -0.2, -0.9]])  # [-0.5, 0.5], in part
QUANTISED = dict(fd=False, why=STRAIGHT)
QUANTISED_ONCE = dict(
    fd=False, orders=1, why=STRAIGHT + "; Python has no right order 2: see the cases of the gradient ops"
)

NO_SUCH = "Python has no such gradient"

CASES = [
    # Identities.
    case("Identity", dict(input=rand(2, 3))),
    # Without the buffer of a variable or an argument, which these would write to.
    *(
        case(
            op,
            dict(x=rand(3, 2), i=np.int32(rows), v=rand(len(rows), 2)),
            fn=lambda x, i, v, op=op: getattr(tf.raw_ops, op)(x=x + 0.0 * tf.sin(x), i=i, v=v * 1.0),
            tag=f"{rows}",
            python=False,
            why=NO_SUCH,
        )
        for op, rows in [
            ("InplaceUpdate", [2, 0]),
            ("InplaceUpdate", [1, -1, 1]),
            ("InplaceAdd", [1, -1, 1]),
            ("InplaceSub", [2, 0]),
        ]
    ),
    case("ListDiff", dict(x=rand(5), y=np.float64([7.0])), dtypes="d", python=False, why=NO_SUCH),
    case("IdentityN", dict(input=[rand(2), rand(3, 1)])),
    case(
        "XlaOptimizationBarrier",
        dict(input=[rand(2), rand(3, 1)]),
        fn=gen_xla_ops.xla_optimization_barrier,
        compiled=True,
        python=False,
        expected=lambda _x, _y, *dy: list(dy),
        why="Python has no gradient of it",
    ),
    case("IdentityN", dict(input=[rand(2), rand(3), np.arange(3)]), outputs=(1,), tag="one cotangent, integers"),
    case("EnsureShape", dict(input=rand(2, 3), shape=[None, 3])),
    case("PlaceholderWithDefault", dict(input=rand(2, 3), shape=[None, 3])),
    case("Snapshot", dict(input=rand(3)), python=False, why=UNREGISTERED),
    case("DeepCopy", dict(x=rand(3)), python=False, why=UNREGISTERED),
    case("GuaranteeConst", dict(input=rand(3)), python=False, why=UNREGISTERED),
    case("Copy", dict(input=rand(3)), python=False, why=UNREGISTERED),
    case("CopyHost", dict(input=rand(3)), python=False, why=UNREGISTERED),
    case("DebugIdentity", dict(input=rand(3), tensor_name="x:0"), python=False, why=UNREGISTERED),
    case("DebugIdentityV2", dict(input=rand(3))),
    case("DebugIdentityV3", dict(input=rand(3), tensor_name="x:0"), python=False, why=UNREGISTERED),
    case(
        "DebugGradientIdentity", dict(input=rand(3)), python=False, why="Python's needs a debugger's name of the node"
    ),
    case("_EagerConst", dict(input=rand(3)), fn=internal("_EagerConst"), python=False, why="Python's is an error"),
    case("Print", dict(input=rand(3), data=[np.arange(2)], first_n=0)),
    case("CheckNumerics", dict(tensor=rand(3), message="m")),
    case("CheckNumericsV2", dict(tensor=rand(3), message="m")),
    # Shapes.
    case("Reshape", dict(tensor=rand(2, 3), shape=[3, -1])),
    case("Reshape", dict(tensor=rand(2, 0), shape=[0, 3])),
    case("Reshape", dict(tensor=rand(1), shape=np.zeros(0, I32)), tag="to a scalar"),
    case("ExpandDims", dict(input=rand(2, 3), axis=1)),
    case("ExpandDims", dict(input=rand(), axis=-1)),
    case("Squeeze", dict(input=rand(1, 2, 1), axis=[])),
    case("Squeeze", dict(input=rand(1, 2, 1), axis=[-1])),
    case("BroadcastTo", dict(input=rand(3, 1), shape=[2, 3, 4])),
    case("BroadcastTo", dict(input=rand(), shape=np.array([2, 2], I64))),
    case("BroadcastTo", dict(input=rand(2), shape=[2])),
    case("BroadcastTo", dict(input=rand(1, 2), shape=[0, 2])),
    case("Fill", dict(dims=[2, 3], value=rand())),
    case("Fill", dict(dims=[0], value=rand())),
    case("Fill", dict(dims=np.zeros(0, I64), value=rand()), tag="scalar"),
    case("Tile", dict(input=rand(2, 3), multiples=[3, 2])),
    case("Tile", dict(input=rand(2, 1), multiples=np.array([1, 4], I64))),
    case("Tile", dict(input=rand(2, 3), multiples=[0, 2])),
    case("Tile", dict(input=rand(0, 3), multiples=[2, 1])),
    case("Tile", dict(input=rand(), multiples=np.zeros(0, I32)), tag="scalar"),
    case("Tile", dict(input=rand(2, 3), multiples=[3, 2]), fn=hidden("Tile", "multiples"), tag="unknown multiples"),
    # Permutations.
    case("Transpose", dict(x=rand(2, 3, 4), perm=[2, 0, 1])),
    case("Transpose", dict(x=rand(2, 3, 4), perm=[2, 0, 1]), fn=hidden("Transpose", "perm"), tag="unknown permutation"),
    case("Transpose", dict(x=rand(), perm=np.zeros(0, I32)), tag="scalar"),
    case("Transpose", dict(x=rand(2, 3), perm=np.array([1, 0], I64))),
    case("Transpose", dict(x=rand(2, 0, 1), perm=[2, 0, 1])),
    case("ConjugateTranspose", dict(x=rand(2, 3, 4), perm=[2, 0, 1])),
    case("Reverse", dict(tensor=rand(2, 3), dims=[True, False])),
    case("ReverseV2", dict(tensor=rand(2, 3), axis=[-1, 0])),
    case("ReverseV2", dict(tensor=rand(2, 3), axis=np.zeros(0, I64)), tag="no axis"),
    case("ReverseSequence", dict(input=rand(3, 2, 4), seq_lengths=[2, 0], seq_dim=0, batch_dim=1)),
    case("ReverseSequence", dict(input=rand(2, 3), seq_lengths=np.array([3, 2], I64), seq_dim=1)),
    case("Roll", dict(input=rand(4, 3), shift=1, axis=0)),
    case("Roll", dict(input=rand(4, 3), shift=[-1, 2, 2], axis=[0, 1, 0])),
    case("Roll", dict(input=rand(4, 3), shift=[5], axis=[-1]), fn=hidden("Roll", "shift", "axis"), tag="unknown shift"),
    case("SpaceToDepth", dict(input=rand(1, 4, 2, 2), block_size=2)),
    case("SpaceToDepth", dict(input=rand(1, 3, 6, 1), block_size=3)),
    case("DepthToSpace", dict(input=rand(1, 2, 1, 9), block_size=3)),
    case("SpaceToDepth", dict(input=rand(1, 2, 4, 2), block_size=2, data_format="NCHW"), compiled=True),
    case("DepthToSpace", dict(input=rand(2, 1, 2, 8), block_size=2)),
    case("DepthToSpace", dict(input=rand(1, 8, 1, 2), block_size=2, data_format="NCHW"), compiled=True),
    case("SpaceToBatch", dict(input=rand(1, 3, 2, 1), block_size=2, paddings=[[1, 0], [1, 1]])),
    case("BatchToSpace", dict(input=rand(4, 2, 1, 2), block_size=2, crops=[[0, 1], [1, 0]])),
    case("SpaceToBatch", dict(input=rand(1, 2, 3, 1), block_size=3, paddings=[[1, 0], [0, 0]])),
    case("BatchToSpace", dict(input=rand(9, 1, 2, 1), block_size=3, crops=[[0, 1], [2, 0]])),
    case("SpaceToBatchND", dict(input=rand(2, 3), block_shape=np.zeros(0, I32), paddings=np.zeros([0, 2], I32))),
    case("SpaceToBatchND", dict(input=rand(1, 3, 2), block_shape=np.array([2], I64), paddings=np.array([[1, 0]], I64))),
    case("SpaceToBatchND", dict(input=rand(1, 3, 2, 2), **BLOCKS, paddings=[[1, 0], [0, 1]])),
    case("BatchToSpaceND", dict(input=rand(6, 2, 1, 2), **BLOCKS, crops=[[1, 0], [0, 1]])),
    # Joining and splitting.
    case("Pack", dict(values=[rand(2, 3), rand(2, 3)])),
    case("Pack", dict(values=[rand(2, 3), rand(2, 3), rand(2, 3)], axis=-1)),
    case("Pack", dict(values=[rand()], axis=0), tag="one scalar"),
    case(
        "ParallelConcat",
        dict(values=[rand(1, 2), rand(1, 2)], shape=[2, 2]),
        unknown=False,
        python=False,
        why=UNREGISTERED + "; the op wants static shapes",
    ),
    case("Pack", dict(values=[rand(0, 3), rand(0, 3)], axis=1)),
    case("Unpack", dict(value=rand(3, 2), num=3)),
    case("Unpack", dict(value=rand(3, 2), num=2, axis=-1)),
    case("Unpack", dict(value=rand(3, 2), num=3), outputs=(1,), tag="one cotangent"),
    case("Concat", dict(concat_dim=0, values=[rand(2, 3), rand(1, 3)])),
    case("Concat", dict(concat_dim=-1, values=[rand(2, 1), rand(2, 3), rand(2, 0)])),
    case("ConcatV2", dict(values=[rand(2, 3), rand(1, 3)], axis=0)),
    case("ConcatV2", dict(values=[rand(0, 3), rand(2, 3), rand(0, 3)], axis=-2)),
    case("ConcatV2", dict(values=[rand(2, 1), rand(2, 3)], axis=np.int64(-1))),
    case(
        "ConcatV2", dict(values=[rand(2, 1, 2) for _ in range(18)], axis=1), orders=1, why="18 inputs", tag="18 inputs"
    ),
    case(
        "ConcatV2", dict(values=[rand(2), np.array([1.0, 2.0]), rand(1)], axis=0), dtypes="d", tag="a constant between"
    ),
    case(
        "ConcatV2",
        dict(values=[rand(2, 1), rand(2, 3)], axis=-1),
        fn=hidden("ConcatV2", "axis"),
        tag="unknown axis",
    ),
    case(
        "ConcatV2",
        dict(start=rand(2), stop=rand(2), num=4),
        fn=tf.linspace,
        dtypes="d",
        tag="computed axis, in linspace",
    ),
    case("Split", dict(axis=0, value=rand(4, 3), num_split=2)),
    case("Split", dict(axis=-1, value=rand(2, 3), num_split=3), outputs=(0, 2), tag="two of three cotangents"),
    case("Split", dict(axis=1, value=rand(2, 3), num_split=1)),
    case("SplitV", dict(value=rand(4, 3), size_splits=[1, 3], axis=0, num_split=2)),
    case("SplitV", dict(value=rand(2, 5), size_splits=np.array([2, -1, 0], I64), axis=-1, num_split=3)),
    case("SplitV", dict(value=rand(2, 5), size_splits=[2, 3], axis=1, num_split=2), outputs=(0,), tag="one cotangent"),
    # Slices and padding.
    case("Slice", dict(input=rand(3, 4), begin=[1, 0], size=[2, -1])),
    case("Slice", dict(input=rand(3, 4), begin=np.array([0, 3], I64), size=np.array([3, 0], I64))),
    case("Slice", dict(input=rand(3), begin=[1], size=[1]), fn=hidden("Slice", "begin", "size"), tag="unknown begin"),
    *(case("StridedSlice", dict(input=rand(4, 3, 2), **at)) for at in STRIDED),
    case(
        "StridedSlice",
        dict(input=rand(4), begin=np.array([1], I64), end=np.array([-1], I64), strides=np.array([2], I64)),
    ),
    case(
        "StridedSlice",
        dict(input=rand(4), begin=np.array([1], np.int16), end=[3], strides=[1]),
        python=False,
        why="Python's needs Shape of int16",
    ),
    case(
        "StridedSlice",
        dict(input=rand(4, 2), begin=[1], end=[3], strides=[1]),
        fn=hidden("StridedSlice", "begin", "end"),
        tag="unknown begin",
    ),
    case("StridedSliceGrad", dict(shape=[4, 3, 2], **STRIDED[0], dy=rand(2, 2, 1))),
    case("StridedSliceGrad", dict(shape=[4, 3, 2], **STRIDED[3], dy=rand(3))),
    case("TensorStridedSliceUpdate", dict(input=rand(4, 3, 2), **STRIDED[0], value=rand(2, 2, 1))),
    case("TensorStridedSliceUpdate", dict(input=rand(4, 3, 2), **STRIDED[1], value=rand(2, 1))),
    case("TensorStridedSliceUpdate", dict(input=rand(4, 3, 2), **STRIDED[3], value=rand())),
    case("Pad", dict(input=rand(2, 3), paddings=SPACES)),
    case("Pad", dict(input=rand(0, 3), paddings=np.array(SPACES, I64))),
    case("Pad", dict(input=rand(2, 3), paddings=SPACES), fn=hidden("Pad", "paddings"), tag="unknown paddings"),
    case("Pad", dict(input=rand(), paddings=np.zeros([0, 2], I32)), tag="scalar"),
    case("PadV2", dict(input=rand(2, 3), paddings=SPACES, constant_values=2.5)),
    case("PadV2", dict(input=rand(2, 3), paddings=SPACES, constant_values=rand()), python=False, why=PADDING),
    case("MirrorPad", dict(input=rand(3, 4), paddings=CENTRES, mode="REFLECT")),
    case("MirrorPad", dict(input=rand(3, 4), paddings=np.array(CENTRES, I64), mode="SYMMETRIC")),
    case("MirrorPadGrad", dict(input=rand(4, 7), paddings=CENTRES, mode="REFLECT")),
    case("MirrorPadGrad", dict(input=rand(4, 7), paddings=CENTRES, mode="SYMMETRIC")),
    # Gathering and scattering.
    case("Gather", dict(params=rand(4, 3), indices=[[1, 1], [3, 0]])),
    case("Gather", dict(params=rand(4), indices=np.int64(2))),
    case("GatherV2", dict(params=rand(4, 3), indices=[1, 1, 3], axis=0)),
    case("GatherV2", dict(params=rand(4, 3), indices=[[1, 1], [3, 0]], axis=-2)),
    case("GatherV2", dict(params=rand(4, 0), indices=[[1], [3]], axis=0)),
    case("GatherV2", dict(params=rand(4, 3), indices=2, axis=0)),
    case("GatherV2", dict(params=rand(4, 3), indices=np.zeros([0, 2], I32), axis=0)),
    case("GatherV2", dict(params=rand(2, 4, 3), indices=[[1, 1], [3, 0]], axis=1)),
    case("GatherV2", dict(params=rand(2, 3), indices=np.array([2, 0, 2], I64), axis=np.int64(-1))),
    case("GatherV2", dict(params=rand(2, 4, 3), indices=1, axis=2)),
    case("GatherV2", dict(params=rand(2, 4, 3), indices=[[1, 1], [3, 0]], axis=1, batch_dims=1)),
    case("GatherV2", dict(params=rand(2, 3, 4), indices=[[3, 1, 3], [0, 0, 1]], axis=2, batch_dims=1)),
    case("GatherV2", dict(params=rand(2, 3, 2), indices=[[1, 1, 0], [0, 0, 1]], axis=2, batch_dims=2)),
    case("GatherV2", dict(params=rand(2, 3), indices=[[2, 1], [0, 0]], axis=1, batch_dims=-1)),
    case("GatherV2", dict(params=rand(3, 2), indices=[2, 0], axis=0, batch_dims=-1)),
    case("GatherV2", dict(params=rand(0, 4, 3), indices=np.zeros([0, 2], I32), axis=1, batch_dims=1)),
    case("GatherV2", dict(params=rand(4, 3), indices=np.array([1, 3], np.int16), axis=0)),
    case(
        "GatherV2",
        dict(params=rand(2, 4, 3), indices=[[1, 1], [3, 0]], axis=-2, batch_dims=1),
        fn=hidden("GatherV2", "indices", "axis"),
        tag="unknown axis and indices",
    ),
    case("GatherNd", dict(params=rand(3, 4, 2), indices=[[0, 1], [2, 3], [0, 1]])),
    case("GatherNd", dict(params=rand(3, 4), indices=[[[2], [0]], [[2], [1]]])),
    case("GatherNd", dict(params=rand(3, 4), indices=np.array([[2], [0]], I64))),
    case(
        "GatherNd",
        dict(params=rand(3, 4), indices=np.array([[2, 1]], np.int16)),
        python=False,
        why="Python's needs ScatterNd of int16",
    ),
    *(
        case("GatherNd", dict(params=rand(3, *shape), indices=[2, 1]), python=False, why="Python's ScatterNd fails")
        for shape in ((4,), (4, 2))
    ),
    case(
        "GatherNd",
        dict(params=rand(3, 4), indices=np.zeros([2, 0], I32)),
        python=False,
        why="Python's needs ScatterNd of indices without components",
        tag="no component",
    ),
    case(
        "GatherNd",
        dict(params=rand(3, 4), indices=[[2, 1], [3, 0]], bad_indices_policy="IGNORE"),
        python=False,
        why="Python's of order 2 has a bad index",
    ),
    case(
        "GatherNd",
        dict(params=rand(3, 4), indices=[[2], [5]], bad_indices_policy="IGNORE"),
        python=False,
        why="Python's has a bad row",
    ),
    case("ScatterNd", dict(indices=[[0, 1], [2, 3], [0, 1]], updates=rand(3), shape=[3, 4])),
    case("ScatterNd", dict(indices=np.array([[2], [0]], I64), updates=rand(2, 3), shape=np.array([3, 3], I64))),
    case(
        "ScatterNd",
        dict(indices=[[7], [0]], updates=rand(2, 3), shape=[3, 3], bad_indices_policy="IGNORE"),
        python=False,
        why="Python's has a bad row",
    ),
    case("ScatterNd", dict(indices=np.zeros([0, 1], I32), updates=rand(0, 3), shape=[3, 3])),
    case("TensorScatterAdd", dict(tensor=rand(4, 2), indices=np.zeros([0, 1], I64), updates=rand(0, 2))),
    case("ScatterNdNonAliasingAdd", dict(input=rand(4, 2), indices=[[3], [1], [3]], updates=rand(3, 2))),
    case("TensorScatterAdd", dict(tensor=rand(4, 2), indices=[[3], [1], [3]], updates=rand(3, 2))),
    case("TensorScatterSub", dict(tensor=rand(4, 2), indices=[[3, 1], [1, 0]], updates=rand(2))),
    case("TensorScatterUpdate", dict(tensor=rand(4, 2), indices=[[3], [1]], updates=rand(2, 2))),
    *(
        case(
            "TensorScatterUpdate",
            dict(tensor=rand(4, 2), indices=indices, updates=rand(*shape)),
            python=False,
            why="Python gives their cotangent to updates that are overwritten, too",
        )
        for indices, shape in (
            ([[3], [1], [3]], (3, 2)),
            ([[3, 1], [1, 0], [3, 1]], (3,)),
            ([[[0], [2]], [[0], [0]]], (2, 2, 2)),
        )
    ),
    case("TensorScatterMax", dict(tensor=rand(4, 2), indices=[[3], [1], [3]], updates=rand(3, 2))),
    case(
        "TensorScatterMax",
        dict(tensor=rand(1, lo=0.5, hi=0.5), indices=np.zeros([2999, 1], np.int32), updates=rand(2999, lo=0.5, hi=0.5)),
        dtypes="hb",
        python=False,
        expected=lambda x, updates, dy: [dy / 3000, tf.fill([2999], dy[0] / 3000)],
        fd=False,
        why="Python counts in half precision",
        tag="many ties",
    ),
    case("TensorScatterMin", dict(tensor=rand(4, 2), indices=[[3, 1], [1, 0]], updates=rand(2))),
    case(
        "TensorScatterMax",
        dict(tensor=rand(4, lo=0.5, hi=0.5), indices=[[3], [1], [3]], updates=rand(3, lo=0.5, hi=0.5)),
        fd=False,
        why="ties",
        tag="ties",
    ),
    *(
        case(
            op,
            {first: rand(4, 2), "indices": [[3], [7], [1]], "updates": rand(3, 2), "bad_indices_policy": "IGNORE"},
            python=False,
            why="Python's has a bad row",
        )
        for first, op in [
            ("input", "ScatterNdNonAliasingAdd"),
            *(("tensor", f"TensorScatter{how}") for how in ("Add", "Sub", "Update", "Max", "Min")),
        ]
    ),
    case("OneHot", dict(indices=[1, 3, -1], depth=3, on_value=rand(), off_value=rand())),
    case("OneHot", dict(indices=[[1, 0]], depth=3, on_value=rand(), off_value=2.0, axis=0)),
    *(
        case(
            "ExtractImagePatches",
            dict(images=rand(2, 4, 3, 1), ksizes=[1, 2, 3, 1], strides=[1, s, 1, 1], rates=[1, 1, r, 1], padding=p),
            orders=orders,
            why="order 2 is checked on one of them",
        )
        for s, r, p, orders in [(1, 1, "VALID", 1), (2, 1, "SAME", 2), (3, 2, "SAME", 1)]
    ),
    case(
        "ExtractImagePatches",
        dict(images=rand(1, 3, 3, 1), ksizes=[1, 2, 1, 1], strides=[1, 1, 1, 1], rates=[1, 1, 1, 1], padding="VALID"),
        orders=1,
        why="order 2 is checked above",
    ),
    case(
        "ExtractVolumePatches",
        dict(input=rand(2, 3, 2, 2, 1), ksizes=[1, 2, 2, 1, 1], strides=[1, 2, 1, 1, 1], padding="SAME"),
    ),
    case(
        "ExtractVolumePatches",
        dict(input=rand(1, 3, 3, 2, 2), ksizes=[1, 2, 2, 2, 1], strides=[1, 1, 1, 1, 1], padding="VALID"),
        orders=1,
        why="order 2 is checked above",
    ),
    # Diagonals and bands.
    case("Diag", dict(diagonal=rand(2, 3))),
    case("DiagPart", dict(input=rand(2, 3, 2, 3))),
    case("MatrixBandPart", dict(input=rand(2, 3, 4), num_lower=1, num_upper=-1)),
    case("MatrixBandPart", dict(input=rand(3, 3), num_lower=np.int64(0), num_upper=np.int64(1))),
    case("MatrixDiag", dict(diagonal=rand(0, 3))),
    case("MatrixDiagPart", dict(input=rand(0, 3, 3))),
    case("MatrixDiag", dict(diagonal=rand(2, 3))),
    case("MatrixDiagPart", dict(input=rand(2, 3, 3))),
    case("MatrixDiagPart", dict(input=rand(2, 3, 4))),
    case("MatrixSetDiag", dict(input=rand(2, 3, 4), diagonal=rand(2, 3))),
    case("MatrixSetDiag", dict(input=rand(3, 3), diagonal=rand(3))),
    *(
        case(
            "MatrixDiagV3",
            dict(diagonal=rand(2, *shape), k=k, num_rows=3, num_cols=4, padding_value=0.0, align=align),
        )
        for k, align, shape in DIAGONALS
    ),
    *(case("MatrixDiagPartV3", dict(input=rand(2, 3, 4), k=k, padding_value=0.0, align=a)) for k, a, _ in DIAGONALS),
    *(
        case("MatrixSetDiagV3", dict(input=rand(2, 3, 4), diagonal=rand(2, *shape), k=k, align=align))
        for k, align, shape in DIAGONALS
    ),
    case(
        "MatrixDiagV2",
        dict(diagonal=rand(2, 2, 3), k=[0, 1], num_rows=-1, num_cols=-1, padding_value=1.5),
        python=False,
        why="Python's aligns as MatrixDiagV3 does",
    ),
    case("MatrixDiagPartV2", dict(input=rand(3, 4), k=[-1, 1], padding_value=1.5)),
    case("MatrixSetDiagV2", dict(input=rand(3, 4), diagonal=rand(2, 3), k=[-1, 0])),
    case(
        "MatrixDiagV3",
        dict(diagonal=rand(2, 3), k=[0, 1], num_rows=-1, num_cols=-1, padding_value=rand()),
        python=False,
        why=PADDING,
    ),
    case("MatrixDiagPartV3", dict(input=rand(3, 4), k=[-1, 2], padding_value=rand()), python=False, why=PADDING),
    # Quantisation.
    case("QuantizeAndDequantizeV2", dict(input=rand(2, 3), input_min=-1.0, input_max=1.0), **QUANTISED),
    case("QuantizeAndDequantizeV3", dict(input=rand(2, 3), input_min=-1.0, input_max=1.0, num_bits=8), **QUANTISED),
    case("QuantizeAndDequantizeV4", dict(input=rand(2, 3), input_min=-0.5, input_max=0.5), **QUANTISED_ONCE),
    case(
        "QuantizeAndDequantizeV4",
        dict(input=rand(2, 3), input_min=[-0.5, -0.1], input_max=[0.5, 0.2], axis=0),
        **QUANTISED_ONCE,
    ),
    case(
        "QuantizeAndDequantizeV4Grad",
        dict(gradients=rand(2, 3), input=OUTSIDE, input_min=-0.5, input_max=0.5),
        python=False,
        why="Python's takes the gradients for the input",
    ),
    *(
        case(f"QuantizeAndDequantizeV{version}", dict(input=rand(2, 3), **limits, **attrs), **QUANTISED)
        for version, limits, attrs in [
            (2, dict(input_min=0.0, input_max=1.0), dict(signed_input=False, num_bits=4, range_given=True)),
            (2, dict(input_min=-1.0, input_max=1.0), dict(round_mode="HALF_UP", narrow_range=True)),
            (2, dict(input_min=[-1.0, -0.5], input_max=[1.0, 0.5]), dict(axis=0)),
            (3, dict(input_min=0.0, input_max=1.0, num_bits=4), dict(signed_input=False, range_given=False)),
            (3, dict(input_min=[-1.0] * 3, input_max=[1.0] * 3, num_bits=8), dict(axis=1, narrow_range=True)),
        ]
    ),
    *(
        case("QuantizeAndDequantizeV4", dict(input=rand(2, 3), input_min=low, input_max=0.5, **attrs), **QUANTISED_ONCE)
        for low, attrs in [
            (0.0, dict(signed_input=False, num_bits=4, range_given=True)),
            (-0.5, dict(round_mode="HALF_UP", narrow_range=True)),
        ]
    ),
    case(
        "QuantizeAndDequantizeV4Grad",
        dict(gradients=rand(2, 3), input=OUTSIDE, input_min=[-0.5, -0.1], input_max=[0.5, 0.2], axis=0),
        python=False,
        why="Python's takes the gradients for the input",
    ),
    case(
        "FakeQuantWithMinMaxArgs",
        dict(inputs=rand(2, 3), min=-0.7, max=0.3, num_bits=4),
        tag="asymmetric",
        **QUANTISED_ONCE,
    ),
    case(
        "FakeQuantWithMinMaxArgsGradient",
        dict(gradients=rand(2, 3), inputs=OUTSIDE, min=-0.2, max=0.3, num_bits=4, narrow_range=True),
    ),
    case(
        "FakeQuantWithMinMaxVars",
        dict(inputs=rand(2, 3), min=rand(lo=-0.6, hi=-0.4), max=rand(lo=0.4, hi=0.6), num_bits=4, narrow_range=True),
        **QUANTISED_ONCE,
    ),
    case(
        "FakeQuantWithMinMaxVarsGradient",
        dict(gradients=rand(2, 3), inputs=OUTSIDE, min=-0.5, max=0.5, narrow_range=True),
    ),
    case(
        "FakeQuantWithMinMaxVarsPerChannel",
        dict(inputs=rand(4, 2), min=rand(2, lo=-0.6, hi=-0.4), max=rand(2, lo=0.4, hi=0.6), num_bits=4),
        **QUANTISED_ONCE,
    ),
    case(
        "FakeQuantWithMinMaxVarsPerChannelGradient",
        dict(
            gradients=rand(2, 3),
            inputs=OUTSIDE,
            min=[-0.5, -0.2, -0.1],
            max=[0.5, 0.1, 0.1],
            num_bits=4,
            narrow_range=True,
        ),
    ),
    case("FakeQuantWithMinMaxArgs", dict(inputs=rand(2, 3), min=-0.5, max=0.5), **QUANTISED_ONCE),
    case(
        "FakeQuantWithMinMaxArgs",
        dict(inputs=rand(2, 3), min=-0.5, max=0.5, num_bits=4, narrow_range=True),
        **QUANTISED_ONCE,
    ),
    case("FakeQuantWithMinMaxArgsGradient", dict(gradients=rand(2, 3), inputs=OUTSIDE, min=-0.5, max=0.5)),
    case(
        "FakeQuantWithMinMaxVars",
        dict(inputs=rand(2, 3), min=rand(lo=-0.6, hi=-0.4), max=rand(lo=0.4, hi=0.6)),
        **QUANTISED_ONCE,
    ),
    case(
        "FakeQuantWithMinMaxVarsGradient",
        dict(gradients=rand(2, 3), inputs=OUTSIDE, min=-0.5, max=0.5, num_bits=4),
    ),
    case(
        "FakeQuantWithMinMaxVarsPerChannel",
        dict(inputs=rand(4, 2), min=rand(2, lo=-0.6, hi=-0.4), max=rand(2, lo=0.4, hi=0.6), narrow_range=True),
        **QUANTISED_ONCE,
    ),
    case(
        "FakeQuantWithMinMaxVarsPerChannelGradient",
        dict(gradients=rand(2, 3), inputs=OUTSIDE, min=[-0.5, -0.2, -0.1], max=[0.5, 0.1, 0.1]),
    ),
    *(case(op, dict(x=rand(4)), python=False, why=NO_SUCH) for op in ("Unique", "UniqueWithCounts")),
    *(
        case(op, dict(x=rand(2, 3, 2), axis=np.array(axis, np.int64)), python=False, why=NO_SUCH)
        for op in ("UniqueV2", "UniqueWithCountsV2")
        for axis in ([1], [-1])
    ),
    case("UniqueV2", dict(x=rand(4), axis=np.zeros([0], np.int32)), python=False, why=NO_SUCH),
    case(
        "Unique",
        dict(x=rand(2)),
        fn=lambda x: tf.unique(tf.gather(x, [0, 1, 0]))[0] ** 2,
        tag="equal elements",
        python=False,
        why=NO_SUCH,
    ),
]
