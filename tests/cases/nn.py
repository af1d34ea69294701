"""Neural-network ops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests import references
from tests.harness import case, rand
from tests.references import gradient_of

FIRST_ONLY = "the gradient op is the end: nothing differentiates it"
NO_PYTHON = "Python has no gradient"


def of_maxima(op: str, pool: str) -> Callable[..., Any]:
    """A gradient op of max pooling, which needs the maxima of its input."""

    def fn(orig_input: Any, grad: Any, **window: Any) -> Any:
        y = getattr(tf.raw_ops, pool)(input=orig_input, **window)
        return getattr(tf.raw_ops, op)(orig_input=orig_input, orig_output=y, grad=grad, **window)

    return fn


def of_fractional_maxima(orig_input: Any, out_backprop: Any, overlapping: bool) -> Any:
    """FractionalMaxPoolGrad, which needs the maxima and where the windows are."""
    y, rows, columns = tf.raw_ops.FractionalMaxPool(value=orig_input, overlapping=overlapping, **FRACTIONAL)
    return tf.raw_ops.FractionalMaxPoolGrad(
        orig_input=orig_input,
        orig_output=y,
        out_backprop=out_backprop,
        row_pooling_sequence=rows,
        col_pooling_sequence=columns,
        overlapping=overlapping,
    )


def batch_norm_grad(op: str) -> Callable[..., Any]:
    """A gradient op of batch normalisation, which needs the statistics of its input in training."""

    def fn(y_backprop: Any, x: Any, scale: Any, mean: Any, variance: Any, **attrs: Any) -> Any:
        if attrs["is_training"]:
            layout = attrs.get("data_format", "NHWC")
            mean, variance = tf.nn.moments(tf.stop_gradient(x), [i for i, axis in enumerate(layout) if axis != "C"])
        third = dict(reserve_space_3=tf.zeros([0])) if op.endswith("V3") else {}
        return getattr(tf.raw_ops, op)(
            y_backprop=y_backprop, x=x, scale=scale, reserve_space_1=mean, reserve_space_2=variance, **third, **attrs
        )

    return fn


ACTIVATIONS = [
    *(case(op, dict(features=rand(3, 5))) for op in ("Relu", "Softplus", "Softsign", "Elu", "Selu")),
    case("Relu6", dict(features=rand(3, 5, lo=-4, hi=10))),
    case("LeakyRelu", dict(features=rand(3, 5))),
    case("LeakyRelu", dict(features=rand(3, 5), alpha=0.4)),
    case("Softplus", dict(features=rand(8, lo=-60, hi=60)), tag="large"),
    *(case(op, dict(gradients=rand(3, 5), features=rand(3, 5))) for op in ("ReluGrad", "SoftplusGrad")),
    case("SoftsignGrad", dict(gradients=rand(3, 5), features=rand(3, 5)), python=False, why=NO_PYTHON),
    case("Relu6Grad", dict(gradients=rand(3, 5), features=rand(3, 5, lo=-4, hi=10))),
    *(case("LeakyReluGrad", dict(gradients=rand(3, 5), features=rand(3, 5), alpha=alpha)) for alpha in (0.4, -0.1)),
    *(case(op, dict(gradients=rand(3, 5), outputs=rand(3, 5))) for op in ("EluGrad", "SeluGrad")),
    *(
        case(op, dict(features=rand(2, lo=at, hi=at)), fd=False, why="no derivative here", tag=f"at {at}")
        for op in ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softsign")
        for at in ((0.0, 6.0) if op == "Relu6" else (0.0,))
    ),
    *(
        case(op, dict(logits=rand(*shape)), dtypes="d")
        for op in ("Softmax", "LogSoftmax")
        for shape in ((0, 4), (4, 0))
    ),
    case("Softmax", dict(logits=rand(3, 5))),
    case("Softmax", dict(logits=rand(2, 3, 4))),
    case("LogSoftmax", dict(logits=rand(3, 5))),
    case("LogSoftmax", dict(logits=rand(2, 3, 4))),
]

BIAS = [
    case("BiasAdd", dict(value=rand(2, 3), bias=rand(3))),
    case("BiasAdd", dict(value=rand(2, 4, 5, 3), bias=rand(3))),
    case("BiasAdd", dict(value=rand(2, 3, 2), bias=rand(3), data_format="NCHW")),
    case("BiasAdd", dict(value=rand(2, 3, 4, 5), bias=rand(3), data_format="NCHW")),
    *(case("BiasAdd", dict(value=rand(*shape), bias=rand(3)), dtypes="d") for shape in ((0, 3), (2, 0, 3))),
    case("BiasAdd", dict(value=rand(2, 3, 0, 2), bias=rand(3), data_format="NCHW"), dtypes="d"),
    case("BiasAddV1", dict(value=rand(2, 4, 3), bias=rand(3))),
    case("BiasAddGrad", dict(out_backprop=rand(2, 4, 3))),
    case("BiasAddGrad", dict(out_backprop=rand(2, 3, 4, 2), data_format="NCHW")),
]

ONES4, ONES5 = [1] * 4, [1] * 5
EXPLICIT = dict(padding="EXPLICIT", explicit_paddings=[0, 0, 1, 0, 2, 1, 0, 0])
ATTRS2D = [
    dict(strides=ONES4, padding="SAME"),
    dict(strides=[1, 2, 2, 1], padding="VALID"),
    dict(strides=[1, 2, 1, 1], padding="SAME"),
    dict(strides=ONES4, **EXPLICIT),
]
DILATED = dict(strides=ONES4, padding="SAME", dilations=[1, 2, 1, 1])
ONE_DTYPE = "f"  # the one in which CPUs dilate, and group
# A batch of one: TensorFlow's kernels of fused convolutions put the first image in the place of all.
PADDED = dict(paddings=np.int32([[0, 0], [1, 1], [1, 0], [0, 0]]), strides=ONES4, padding="VALID")
NO_SUCH = "Python has no such gradient"
CONVOLUTION = [
    *(
        case(
            "FusedPadConv2D",
            dict(input=rand(1, 4, 3, 2), filter=rand(2, 2, 2, 3), mode=mode, **PADDED),
            dtypes="fd",
            python=False,
            why=NO_SUCH,
        )
        for mode in ("REFLECT", "SYMMETRIC")
    ),
    *(
        case(
            "FusedResizeAndPadConv2D",
            dict(
                input=rand(1, 3, 3, 2),
                size=[5, 4],
                filter=rand(2, 2, 2, 3),
                mode="REFLECT",
                resize_align_corners=align,
                **PADDED,
            ),
            dtypes="f",
            python=False,
            why=NO_SUCH,
        )
        for align in (False, True)
    ),
    *(case("Conv2D", dict(input=rand(2, 5, 4, 2), filter=rand(3, 2, 2, 3), **a)) for a in ATTRS2D),
    case("Conv2D", dict(input=rand(0, 4, 4, 2), filter=rand(2, 2, 2, 3), strides=ONES4, padding="SAME"), dtypes="d"),
    case("Conv2D", dict(input=rand(1, 4, 5, 1), filter=rand(1, 1, 1, 2), strides=[1, 3, 3, 1], padding="VALID")),
    case("Conv2D", dict(input=rand(1, 4, 4, 1), filter=rand(2, 2, 1, 2), **DILATED), dtypes=ONE_DTYPE),
    case(
        "Conv2D",
        dict(input=rand(1, 3, 3, 4), filter=rand(2, 2, 2, 2), strides=ONES4, padding="SAME"),
        dtypes=ONE_DTYPE,
        tag="groups",
    ),
    case(
        "Conv2DBackpropInput",
        dict(input_sizes=[1, 4, 3, 1], filter=rand(2, 1, 1, 2), out_backprop=rand(1, 4, 3, 2), **DILATED),
        dtypes=ONE_DTYPE,
    ),
    case(
        "Conv2DBackpropFilter",
        dict(input=rand(1, 4, 3, 1), filter_sizes=[2, 1, 1, 2], out_backprop=rand(1, 4, 3, 2), **DILATED),
        dtypes=ONE_DTYPE,
    ),
    case(
        "Conv2D",
        dict(input=rand(1, 2, 4, 5), filter=rand(2, 2, 2, 3), strides=[1, 1, 2, 1], padding="SAME", data_format="NCHW"),
        compiled=True,
    ),
    *(
        case(
            "Conv2DBackpropInput",
            dict(input_sizes=[2, 5, 4, 2], filter=rand(3, 2, 2, 3), out_backprop=rand(2, *size, 3), **a),
        )
        for size, a in zip([(5, 4), (2, 2), (3, 4), (4, 6)], ATTRS2D, strict=True)
    ),
    *(
        case(
            "Conv2DBackpropFilter",
            dict(input=rand(2, 5, 4, 2), filter_sizes=[3, 2, 2, 3], out_backprop=rand(2, *size, 3), **a),
        )
        for size, a in zip([(5, 4), (2, 2), (3, 4), (4, 6)], ATTRS2D, strict=True)
    ),
    *(
        case("DepthwiseConv2dNative", dict(input=rand(1, 5, 5, 2), filter=rand(2, 2, 2, 2), **a))
        for a in (
            dict(strides=ONES4, padding="SAME"),
            dict(strides=[1, 2, 2, 1], padding="VALID"),
            dict(strides=ONES4, **EXPLICIT),
        )
    ),
    case(
        "DepthwiseConv2dNative",
        dict(input=rand(1, 5, 5, 1), filter=rand(2, 2, 1, 2), strides=ONES4, padding="SAME", dilations=[1, 2, 2, 1]),
        compiled=True,
    ),
    case(
        "DepthwiseConv2dNative",
        dict(input=rand(1, 2, 5, 5), filter=rand(2, 2, 2, 2), strides=ONES4, padding="VALID", data_format="NCHW"),
        compiled=True,
    ),
    case(
        "DepthwiseConv2dNativeBackpropInput",
        dict(
            input_sizes=[1, 4, 4, 2],
            filter=rand(2, 2, 2, 2),
            out_backprop=rand(1, 2, 2, 4),
            strides=[1, 2, 2, 1],
            padding="SAME",
        ),
    ),
    case(
        "DepthwiseConv2dNativeBackpropFilter",
        dict(
            input=rand(1, 4, 4, 2),
            filter_sizes=[2, 2, 2, 2],
            out_backprop=rand(1, 2, 2, 4),
            strides=[1, 2, 2, 1],
            padding="SAME",
        ),
    ),
    case(
        "Conv3D", dict(input=rand(1, 3, 4, 3, 2), filter=rand(2, 2, 1, 2, 2), strides=[1, 1, 2, 1, 1], padding="SAME")
    ),
    case("Conv3D", dict(input=rand(1, 3, 3, 3, 1), filter=rand(2, 2, 2, 1, 2), strides=ONES5, padding="VALID")),
    case(
        "Conv3D",
        dict(
            input=rand(1, 4, 4, 3, 1),
            filter=rand(2, 2, 1, 1, 2),
            strides=ONES5,
            padding="SAME",
            dilations=[1, 2, 1, 1, 1],
        ),
        compiled=True,
    ),
    case(
        "Conv3D",
        dict(input=rand(1, 1, 3, 3, 3), filter=rand(2, 2, 2, 1, 2), strides=ONES5, padding="SAME", data_format="NCDHW"),
        compiled=True,
    ),
    *(
        case(
            "Conv3DBackpropInputV2",
            dict(
                input_sizes=sizes,
                filter=rand(2, 1, 2, 2, 1),
                out_backprop=rand(1, 3, 3, 2, 1),
                strides=[1, 1, 1, 2, 1],
                padding="SAME",
            ),
        )
        for sizes in (np.int32([1, 3, 3, 3, 2]), np.int64([1, 3, 3, 3, 2]))
    ),
    case(
        "Conv3DBackpropFilterV2",
        dict(
            input=rand(1, 3, 3, 3, 2),
            filter_sizes=[2, 1, 2, 2, 1],
            out_backprop=rand(1, 3, 3, 2, 1),
            strides=[1, 1, 1, 2, 1],
            padding="SAME",
        ),
    ),
    case(
        "Conv",
        dict(input=rand(2, 4, 4, 2), filter=rand(2, 2, 2, 3), strides=[1, 2, 1, 1], padding="SAME"),
        python=False,
        why=NO_PYTHON,
    ),
    case(
        "Conv",
        dict(input=rand(2, 2, 3, 4, 2), filter=rand(2, 2, 2, 1), strides=ONES4, padding="SAME", batch_dims=2),
        python=False,
        why=NO_PYTHON,
    ),
    case(
        "Conv",
        dict(input=rand(1, 4, 4, 2), filter=rand(2, 2, 2, 1), strides=ONES4, **EXPLICIT),
        python=False,
        why=NO_PYTHON,
    ),
    case(
        "Conv",
        dict(input=rand(1, 4, 3, 1), filter=rand(2, 1, 1, 2), **DILATED),
        dtypes=ONE_DTYPE,
        python=False,
        why=NO_PYTHON,
    ),
    case(
        "Conv",
        dict(input=rand(1, 3, 3, 3, 2), filter=rand(2, 2, 2, 2, 1), strides=ONES5, padding="VALID"),
        python=False,
        why=NO_PYTHON,
    ),
]

NCDHW = dict(padding="SAME", strides=ONES5, data_format="NCDHW")
CONVOLUTION += [
    # Values of attrs that the cases above have not.
    *(
        case(
            f"Conv2DBackprop{what}",
            dict(**args, strides=[1, 1, 2, 1], padding="SAME", data_format="NCHW"),
            compiled=True,
        )
        for what, args in [
            ("Input", dict(input_sizes=[1, 2, 4, 5], filter=rand(2, 2, 2, 3), out_backprop=rand(1, 3, 2, 5))),
            ("Filter", dict(input=rand(1, 2, 4, 5), filter_sizes=[2, 2, 2, 3], out_backprop=rand(1, 3, 2, 5))),
        ]
    ),
    *(
        case(
            f"DepthwiseConv2dNativeBackprop{what}",
            dict(**args, filter=rand(2, 2, 2, 2), **attrs)
            if what == "Input"
            else dict(**args, filter_sizes=[2, 2, 2, 2], **attrs),
        )
        for what, args in [
            ("Input", dict(input_sizes=[1, 4, 4, 2], out_backprop=rand(1, 3, 3, 4))),
            ("Filter", dict(input=rand(1, 4, 4, 2), out_backprop=rand(1, 3, 3, 4))),
        ]
        for attrs in (
            dict(strides=ONES4, padding="VALID"),
            dict(strides=[1, 2, 2, 1], padding="EXPLICIT", explicit_paddings=[0, 0, 1, 1, 2, 0, 0, 0]),
        )
    ),
    *(
        case(
            f"DepthwiseConv2dNativeBackprop{what}", dict(**args, strides=ONES4, padding="VALID", **attrs), compiled=True
        )
        for attrs, image, g in [
            (dict(data_format="NCHW"), [1, 2, 4, 4], (1, 4, 3, 3)),
            (dict(dilations=[1, 2, 2, 1]), [1, 4, 4, 2], (1, 2, 2, 4)),
        ]
        for what, args in [
            ("Input", dict(input_sizes=image, filter=rand(2, 2, 2, 2), out_backprop=rand(*g))),
            ("Filter", dict(input=rand(*image), filter_sizes=[2, 2, 2, 2], out_backprop=rand(*g))),
        ]
    ),
    *(
        case(f"Conv3DBackprop{what}V2", dict(**args, strides=ONES5, padding="VALID"))
        for what, args in [
            ("Input", dict(input_sizes=[1, 3, 3, 3, 2], filter=rand(2, 1, 2, 2, 1), out_backprop=rand(1, 2, 3, 2, 1))),
            ("Filter", dict(input=rand(1, 3, 3, 3, 2), filter_sizes=[2, 1, 2, 2, 1], out_backprop=rand(1, 2, 3, 2, 1))),
        ]
    ),
    *(
        case(f"Conv3DBackprop{what}V2", dict(**args, **attrs), compiled=True)
        for attrs, image, g in [
            (NCDHW, [1, 2, 3, 3, 3], (1, 1, 3, 3, 3)),
            (dict(padding="SAME", strides=ONES5, dilations=[1, 2, 1, 1, 1]), [1, 3, 3, 3, 2], (1, 3, 3, 3, 1)),
        ]
        for what, args in [
            ("Input", dict(input_sizes=image, filter=rand(2, 1, 2, 2, 1), out_backprop=rand(*g))),
            ("Filter", dict(input=rand(*image), filter_sizes=[2, 1, 2, 2, 1], out_backprop=rand(*g))),
        ]
    ),
    *(
        case(
            op,
            dict(input=rand(1, 4, 3, 2), filter=rand(2, 2, 2, 1), **size, **PADDED | attrs),
            dtypes="f",
            python=False,
            why=NO_SUCH,
        )
        for op, size in [("FusedPadConv2D", {}), ("FusedResizeAndPadConv2D", dict(size=[3, 5]))]
        for attrs in [
            dict(mode="REFLECT", strides=[1, 2, 2, 1], padding="SAME"),
            dict(mode="SYMMETRIC", strides=[1, 2, 2, 1]),
        ]
    ),
]

WINDOW2D = [
    dict(ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID"),
    dict(ksize=[1, 3, 2, 1], strides=[1, 2, 1, 1], padding="SAME"),
]
HOLES2D = dict(ksize=[1, 1, 2, 1], strides=[1, 2, 3, 1], padding="VALID")
NCHW = dict(ksize=[1, 1, 2, 2], strides=[1, 1, 2, 2], padding="SAME", data_format="NCHW")
WINDOW3D = dict(ksize=[1, 2, 2, 1, 1], strides=[1, 2, 1, 1, 1], padding="SAME")
FRACTIONAL = dict(pooling_ratio=[1.0, 1.4, 1.7, 1.0], deterministic=True, seed=3, seed2=5)
POOLING = [
    *(case("AvgPool", dict(value=rand(2, 5, 4, 2), **a)) for a in WINDOW2D),
    case("AvgPool", dict(value=rand(1, 5, 6, 1), **HOLES2D)),
    case("AvgPool", dict(value=rand(2, 2, 4, 4), **NCHW), compiled=True),
    case("AvgPoolGrad", dict(orig_input_shape=[1, 5, 4, 2], grad=rand(1, 3, 4, 2), **WINDOW2D[1])),
    case("AvgPool3D", dict(input=rand(1, 3, 3, 2, 2), **WINDOW3D)),
    case("AvgPool3DGrad", dict(orig_input_shape=[1, 3, 3, 2, 2], grad=rand(1, 2, 3, 2, 2), **WINDOW3D)),
    *(case("MaxPool", dict(input=rand(2, 5, 4, 2), **a)) for a in WINDOW2D),
    case("MaxPool", dict(input=rand(1, 5, 6, 1), **HOLES2D)),
    case(
        "MaxPool",
        dict(input=rand(1, 4, 4, 1, lo=0.5, hi=0.5), **WINDOW2D[1]),
        dtypes="d",
        fd=False,
        why="no derivative here",
        tag="ties",
    ),
    case(
        "MaxPool",
        dict(input=rand(2, 2, 4, 4), **NCHW),
        compiled=True,
        orders=1,
        why="XLA has no kernel for the second derivative",
    ),
    case(
        "MaxPool",
        dict(input=rand(1, 4, 4, 2), **{**WINDOW2D[0], **EXPLICIT, "explicit_paddings": [0, 0, 1, 1, 0, 1, 0, 0]}),
        python=False,
        why="Python gives MaxPoolGradGrad a padding that it does not know",
    ),
    *(case("MaxPoolV2", dict(input=rand(2, 5, 4, 2), **a)) for a in WINDOW2D),
    *(
        case(
            op,
            dict(orig_input=rand(1, 4, 4, 1), grad=rand(1, *size, 1), **WINDOW2D[0]),
            fn=of_maxima(op, "MaxPool"),
            python=op != "MaxPoolGradGradV2",
            why="" if op != "MaxPoolGradGradV2" else NO_PYTHON,
        )
        for op, size in (
            ("MaxPoolGrad", (2, 2)),
            ("MaxPoolGradGrad", (4, 4)),
            ("MaxPoolGradV2", (2, 2)),
            ("MaxPoolGradGradV2", (4, 4)),
        )
    ),
    *(
        case(
            "MaxPoolWithArgmax",
            dict(input=rand(2, 5, 4, 2), include_batch_in_index=batch, **WINDOW2D[batch]),
            python=batch,
            why="" if batch else "Python differentiates indices into the batch only, and those once",
        )
        for batch in (False, True)
    ),
    case(
        "MaxPoolWithArgmax",
        dict(input=rand(2, 4, 4, 1), Targmax=tf.int32, **WINDOW2D[0]),
        python=False,
        why="Python's gradient has no kernel for indices of int32",
    ),
    *(
        case(
            "MaxPoolGradWithArgmax",
            dict(
                input=rand(2, 2, 2, 1),
                grad=rand(2, 1, 2, 1),
                argmax=np.int64([[[[2], [1]]], [[[0 + 4 * batch], [3 + 4 * batch]]]]),
                ksize=[1, 2, 1, 1],
                strides=[1, 2, 1, 1],
                padding="VALID",
                include_batch_in_index=batch,
            ),
            wrt="grad",
            python=False,
            why=NO_PYTHON,
        )
        for batch in (False, True)
    ),
    case("MaxPool3D", dict(input=rand(1, 3, 2, 2, 1), **WINDOW3D)),
    *(
        case(
            op,
            dict(orig_input=rand(1, 3, 2, 2, 1), grad=rand(1, *size, 1), **WINDOW3D),
            fn=of_maxima(op, "MaxPool3D"),
            wrt="grad",  # the large steps of single precision would change which element is the largest
            dtypes="f",
        )
        for op, size in (("MaxPool3DGrad", (2, 2, 2)), ("MaxPool3DGradGrad", (3, 2, 2)))
    ),
    *(
        case(op, dict(value=rand(2, 5, 7, 2), overlapping=overlapping, **FRACTIONAL))
        for op in ("FractionalAvgPool", "FractionalMaxPool")
        for overlapping in (False, True)
    ),
    *(
        case(
            "FractionalAvgPoolGrad",
            dict(
                orig_input_tensor_shape=np.int64([1, 4, 5, 2]),
                out_backprop=rand(1, 2, 3, 2),
                row_pooling_sequence=np.int64([0, 1, 4]),
                col_pooling_sequence=np.int64([0, 2, 3, 5]),
                overlapping=overlapping,
            ),
            python=False,
            why=NO_PYTHON,
        )
        for overlapping in (False, True)
    ),
    *(
        case(
            "FractionalMaxPoolGrad",
            dict(orig_input=rand(1, 4, 5, 2), out_backprop=rand(1, 2, 2, 2), overlapping=overlapping),
            fn=of_fractional_maxima,
            python=False,
            why=NO_PYTHON,
        )
        for overlapping in (False, True)
    ),
]

POOL3D = dict(ksize=[1, 1, 2, 2, 1], strides=[1, 1, 1, 2, 1], padding="VALID")
FIRST3D = dict(ksize=[1, 1, 2, 1, 2], strides=[1, 1, 1, 1, 2], padding="SAME", data_format="NCDHW")
POOLING += [
    # Values of attrs that the cases above have not.
    case("AvgPool3D", dict(input=rand(1, 3, 3, 4, 2), **POOL3D)),
    case("AvgPool3DGrad", dict(orig_input_shape=[1, 3, 3, 4, 2], grad=rand(1, 3, 2, 2, 2), **POOL3D)),
    case("AvgPool3D", dict(input=rand(1, 2, 3, 3, 4), **FIRST3D), compiled=True),
    case("AvgPool3DGrad", dict(orig_input_shape=[1, 2, 3, 3, 4], grad=rand(1, 2, 3, 3, 2), **FIRST3D), compiled=True),
    case("AvgPoolGrad", dict(orig_input_shape=[1, 4, 4, 2], grad=rand(1, 2, 2, 2), **WINDOW2D[0])),
    case("AvgPoolGrad", dict(orig_input_shape=[1, 2, 4, 4], grad=rand(1, 2, 2, 2), **NCHW), compiled=True),
    case("MaxPool3D", dict(input=rand(1, 3, 3, 4, 1), **POOL3D)),
    case("MaxPool3D", dict(input=rand(1, 1, 3, 3, 4), **FIRST3D), compiled=True),
    *(
        case(
            op, dict(orig_input=rand(*x), grad=rand(*g), **window), fn=of_maxima(op, "MaxPool3D"), wrt="grad", **options
        )
        for window, x, y, options in [
            (POOL3D, (1, 3, 3, 4, 1), (1, 3, 2, 2, 1), dict(dtypes="f")),
            (FIRST3D, (1, 1, 3, 3, 4), (1, 1, 3, 3, 2), dict(dtypes="f", compiled=True)),
        ]
        for op, g in (("MaxPool3DGrad", y), ("MaxPool3DGradGrad", x))
    ),
    *(
        case(
            op,
            dict(orig_input=rand(*x), grad=rand(*(x if op.count("Grad") == 2 else y)), **window),
            fn=of_maxima(op, "MaxPool" + op.partition("V")[1] + op.partition("V")[2]),
            wrt="grad",
            dtypes="f",
            python=op != "MaxPoolGradGradV2",
            why="" if op != "MaxPoolGradGradV2" else NO_PYTHON,
            **options,
        )
        for op in ("MaxPoolGrad", "MaxPoolGradGrad", "MaxPoolGradV2", "MaxPoolGradGradV2")
        for window, x, y, options in [
            (WINDOW2D[1], (1, 4, 4, 1), (1, 2, 4, 1), {}),
            (NCHW, (1, 1, 4, 4), (1, 1, 2, 2), dict(compiled=True)),
        ]
    ),
    case(
        "MaxPoolGrad",
        dict(
            orig_input=rand(1, 4, 4, 1),
            grad=rand(1, 3, 2, 1),
            ksize=[1, 2, 2, 1],
            strides=[1, 2, 2, 1],
            padding="EXPLICIT",
            explicit_paddings=[0, 0, 1, 1, 0, 1, 0, 0],
        ),
        fn=of_maxima("MaxPoolGrad", "MaxPool"),
        wrt="grad",
        dtypes="f",
        python=False,
        why="Python gives MaxPoolGradGrad a padding that it does not know",
    ),
    case(
        "MaxPoolV2",
        dict(input=rand(2, 2, 4, 4), **NCHW),
        compiled=True,
        orders=1,
        why="XLA does not know MaxPoolGradGradV2",
    ),
    case(
        "MaxPoolGradWithArgmax",
        dict(
            input=rand(1, 3, 2, 1),
            grad=rand(1, 2, 1, 1),
            argmax=np.int64([[[[2]], [[5]]]]),
            ksize=[1, 2, 2, 1],
            strides=[1, 2, 2, 1],
            padding="SAME",
        ),
        wrt="grad",
        python=False,
        why=NO_PYTHON,
    ),
    *(
        case(
            op,
            dict(
                value=rand(1, 6, 5, 1), **{**FRACTIONAL, "pooling_ratio": [1.0, 1.5, 1.2, 1.0], "pseudo_random": True}
            ),
        )
        for op in ("FractionalAvgPool", "FractionalMaxPool")
    ),
]

DILATION = dict(strides=[1, 2, 1, 1], rates=[1, 1, 2, 1])
WINDOW = "the second derivative needs to know the filter's shape, an attr of the op that makes windows"
MORPHOLOGY = [
    case(
        "Dilation2D",
        dict(input=rand(2, 4, 5, 2), filter=rand(2, 3, 2), padding="SAME", **DILATION),
        unknown=False,
        why=WINDOW,
    ),
    case(
        "Dilation2D",
        dict(input=rand(2, 4, 5, 2), filter=rand(2, 2, 2), padding="VALID", **DILATION),
        unknown=False,
        why=WINDOW,
    ),
    *(
        case(
            "Dilation2DBackprop" + what,
            dict(
                input=rand(1, 4, 4, 2),
                filter=rand(2, 2, 2),
                out_backprop=rand(1, 2, 4, 2),
                padding="SAME",
                **DILATION,
            ),
            python=False,
            unknown=False,
            why=NO_PYTHON + "; " + WINDOW,
        )
        for what in ("Input", "Filter")
    ),
    case(
        "Dilation2D",
        dict(input=rand(1, 4, 4, 2), filter=rand(2, 2, 2), strides=ONES4, rates=[1, 2, 1, 1], padding="SAME"),
        unknown=False,
        why=WINDOW,
    ),
    *(
        case(
            "Dilation2DBackprop" + what,
            dict(
                input=rand(1, 4, 4, 2),
                filter=rand(2, 2, 2),
                out_backprop=rand(1, 2, 3, 2),
                strides=ONES4,
                rates=[1, 2, 1, 1],
                padding="VALID",
            ),
            python=False,
            unknown=False,
            why=NO_PYTHON + "; " + WINDOW,
        )
        for what in ("Input", "Filter")
    ),
]


def batch_norm(shape: tuple[int, ...], **attrs: Any) -> dict[str, Any]:
    """Arguments of a batch normalisation of three channels."""
    vectors = {name: rand(3, lo=0.5, hi=1.5, dtype="f") for name in ("scale", "offset", "mean", "variance")}
    return dict(x=rand(*shape, lo=-2, hi=2), **vectors) | dict(epsilon=0.01) | attrs


PYTHON_IN_PART = "Python stops at the statistics"
LAYOUTS = dict(NHWC=(2, 2, 2, 3), NCHW=(2, 3, 2, 2), NDHWC=(1, 2, 2, 2, 3), NCDHW=(1, 3, 2, 2, 2))
NORMALISATION = [
    case("LRN", dict(input=rand(2, 2, 2, 5), depth_radius=1, bias=1.5, alpha=0.7, beta=0.8)),
    case("LRN", dict(input=rand(1, 2, 1, 12))),
    case("LRN", dict(input=rand(1, 2, 1, 3), alpha=0.7), tag="wider than the channels"),
    case(
        "LRNGrad",
        dict(input_grads=rand(1, 2, 1, 5), input_image=rand(1, 2, 1, 5), depth_radius=1, bias=1.5, alpha=0.7),
        fn=lambda input_grads, input_image, **attrs: tf.raw_ops.LRNGrad(
            input_grads=input_grads,
            input_image=input_image,
            output_image=tf.raw_ops.LRN(input=input_image, **attrs),
            **attrs,
        ),
        dtypes="f",
        python=False,
        why=NO_PYTHON,
    ),
    *(
        case(
            op,
            batch_norm(LAYOUTS[layout], is_training=training, data_format=layout),
            outputs=(0,),
            wrt=("x", "scale", "offset"),
            tol=10,
        )
        for op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
        for layout in (LAYOUTS if op == "FusedBatchNormV3" else ("NHWC", "NCHW"))
        for training in (True, False)
    ),
    *(
        case(
            "FusedBatchNormV3",
            batch_norm(LAYOUTS[layout], is_training=training, data_format=layout, exponential_avg_factor=0.25),
            outputs=(0, 1, 2),
            python=False,
            expected=gradient_of(references.batch_norm(training, layout, factor=0.25), 0, 1, 2),
            tol=10,
            why=PYTHON_IN_PART,
        )
        for layout in ("NHWC", "NCHW")
        for training in (True, False)
    ),
    *(
        case(
            op,
            dict(
                y_backprop=rand(2, 2, 1, 3),
                x=rand(2, 2, 1, 3, lo=-2, hi=2),
                **{name: rand(3, lo=0.5, hi=1.5, dtype="f") for name in ("scale", "mean", "variance")},
                epsilon=0.01,
                is_training=training,
            ),
            fn=batch_norm_grad(op),
            dtypes="f",
            outputs=(0, 1, 2),
            python=False,
            expected=gradient_of(references.batch_norm_grad(training), 0, 1, 2),
            tol=10,
            why="Python gives nothing to the statistics, and stops at the mean of x once too often for order 3",
        )
        for op in ("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
        for training in (True, False)
    ),
]

NORMALISATION += [
    # Values of attrs that the cases above have not.
    *(
        case(
            op,
            batch_norm((2, 2, 2, 3), is_training=training, epsilon=0.3, exponential_avg_factor=0.5),
            outputs=(0, 1, 2),
            python=False,
            expected=gradient_of(references.batch_norm(training, epsilon=0.3, factor=0.5), 0, 1, 2),
            tol=10,
            why=PYTHON_IN_PART,
        )
        for op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
        for training in (True, False)
    ),
    *(
        case(
            op,
            dict(
                y_backprop=rand(*LAYOUTS[layout]),
                x=rand(*LAYOUTS[layout], lo=-2, hi=2),
                **{name: rand(3, lo=0.5, hi=1.5, dtype="f") for name in ("scale", "mean", "variance")},
                epsilon=0.3,
                data_format=layout,
                is_training=True,
            ),
            fn=batch_norm_grad(op),
            dtypes="f",
            wrt=("y_backprop", "x", "scale"),
            outputs=(0, 1, 2),
            python=False,
            expected=gradient_of(references.batch_norm_grad(True, layout, 0.3), 0, 1, 2),
            tol=10,
            why="Python gives nothing to the statistics, and stops at the mean of x once too often for order 3",
        )
        for op in ("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
        for layout in (LAYOUTS if op == "FusedBatchNormGradV3" else ("NHWC", "NCHW"))
    ),
    case(
        "LRNGrad",
        dict(input_grads=rand(1, 1, 2, 6), input_image=rand(1, 1, 2, 6), depth_radius=2, bias=0.8, alpha=0.4, beta=1.2),
        fn=lambda input_grads, input_image, **attrs: tf.raw_ops.LRNGrad(
            input_grads=input_grads,
            input_image=input_image,
            output_image=tf.raw_ops.LRN(input=input_image, **attrs),
            **attrs,
        ),
        dtypes="f",
        python=False,
        why=NO_PYTHON,
    ),
]

CROSS_ENTROPY = "SoftmaxCrossEntropyWithLogits"
SPARSE = "Sparse" + CROSS_ENTROPY
LABELS = "Python forgets the labels in the cotangent of output 1"
LOSSES = [
    case("L2Loss", dict(t=rand(2, 3))),
    # The gradient that the kernel returns assumes labels that sum to one.
    *(
        case(
            CROSS_ENTROPY,
            dict(features=rand(*features), labels=rand(*labels)),
            fn=lambda features, labels: tf.raw_ops.SoftmaxCrossEntropyWithLogits(
                features=features, labels=tf.raw_ops.Softmax(logits=labels)
            ),
            python=False,
            unknown=features == labels,
            why=LABELS + "; TensorFlow takes unknown shapes of the two inputs for equal ones",
        )
        for features, labels in (((3, 4), (3, 4)), ((1, 4), (3, 4)), ((3, 4), (1, 4)))
    ),
    case(CROSS_ENTROPY, dict(features=rand(3, 4), labels=rand(3, 4)), wrt="labels", outputs=(0,)),
    case(
        CROSS_ENTROPY,
        dict(features=rand(3, 2), labels=np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], np.float64)),
        dtypes="d",
    ),
    case(
        CROSS_ENTROPY,
        dict(features=rand(3, 2), labels=np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], np.float32)),
        outputs=(0,),
        dtypes="f",
    ),
    *(case(SPARSE, dict(features=rand(3, 4), labels=labels)) for labels in (np.int32([0, 3, 1]), np.int64([2, 2, 1]))),
    case(SPARSE, dict(features=rand(3, 4), labels=[0, 3, 1]), outputs=(0,)),
    case(SPARSE, dict(features=rand(0, 4), labels=np.zeros(0, np.int32)), dtypes="d"),
]

TIES = "no derivative here"
SELECTION = [
    case("TopKV2", dict(input=rand(7), k=3)),
    case("TopKV2", dict(input=rand(2, 3, 5), k=2, sorted=False)),
    case("TopKV2", dict(input=rand(2, 5), k=0), tag="none"),
    case("TopKV2", dict(input=rand(0, 5), k=2), dtypes="d"),
    case("TopKV2", dict(input=rand(2, 4, lo=0.5, hi=0.5), k=2), dtypes="d", fd=False, why=TIES, tag="ties"),
    case("NthElement", dict(input=rand(2, 4, lo=0.5, hi=0.5), n=1), dtypes="d", fd=False, why=TIES, tag="ties"),
    case(
        "TopKV2", dict(input=rand(2, 5), k=2, index_type=tf.int64), python=False, why="Python adds int32 to the indices"
    ),
    case("ApproxTopK", dict(input=rand(2, 5), k=2, aggregate_to_topk=True), graph_only=True),
    case("NthElement", dict(input=rand(2, 3, 5), n=1)),
    case(
        "NthElement",
        dict(input=rand(3000, lo=0.5, hi=0.5), n=1),
        dtypes="hb",
        python=False,
        expected=lambda x, dy: [tf.fill([3000], dy / 3000)],
        fd=False,
        why="Python counts in half precision",
        tag="many ties",
    ),
    case("NthElement", dict(input=rand(2, 5), n=1, reverse=True)),
    case("IsotonicRegression", dict(input=rand(3, 6))),
]


def block_lstm(**attrs: Any) -> dict[str, Any]:
    """Arguments of a layer of 2 cells: 3 time steps, of which 2 count, batch 2, 2 inputs."""
    peepholes = {name: rand(2) for name in ("wci", "wcf", "wco")}
    return dict(
        seq_len_max=np.int64(2),
        x=rand(3, 2, 2),
        cs_prev=rand(2, 2),
        h_prev=rand(2, 2),
        w=rand(4, 8),
        **peepholes,
        b=rand(8),
        **attrs,
    )


def clipped_lstm(order: tuple[int, ...], forget_bias: float, peephole: bool) -> Any:
    """The gradient of block_lstm(cell_clip=0.1), two steps of which count, by a layer of elementary ops."""

    def gradient(*inputs: Any) -> list[Any]:
        *x, dcs, dh = inputs
        with tf.GradientTape() as tape:
            tape.watch(x)
            steps, cs, h, w, wci, wcf, wco, b = x
            seen = tf.constant(1.0 if peephole else 0.0, w.dtype)
            states, outputs = [], []
            for step in tf.unstack(steps)[:2]:
                gates = tf.split(tf.matmul(tf.concat([step, h], 1), w) + b, 4, 1)
                i, ci, f, o = (gates[k] for k in order)
                i, f = tf.sigmoid(i + seen * wci * cs), tf.sigmoid(f + forget_bias + seen * wcf * cs)
                cs = tf.clip_by_value(i * tf.tanh(ci) + f * cs, -0.1, 0.1)
                h = tf.sigmoid(o + seen * wco * cs) * tf.tanh(cs)
                states.append(cs)
                outputs.append(h)
            loss = tf.reduce_sum(tf.stack(states) * dcs[:2]) + tf.reduce_sum(tf.stack(outputs) * dh[:2])
        dx: list[Any] = tape.gradient(loss, x, unconnected_gradients="zero")
        return dx

    return gradient


GPU = dict(input=rand(3, 2, 4), input_h=rand(1, 2, 5), params=rand(300))
CUDNN = dict(dropout=0.25, seed=1, seed2=2, direction="bidirectional")
CELL = dict(x=rand(2, 3), h_prev=rand(2, 4))
GRU = dict(**CELL, w_ru=rand(7, 8), w_c=rand(7, 4), b_ru=rand(8), b_c=rand(4))
LSTM = dict(**CELL, cs_prev=rand(2, 4), w=rand(7, 16), wci=rand(4), wcf=rand(4), wco=rand(4), b=rand(16))
GATE = rand(2, 4, lo=0.1, hi=0.9)
GRU_GRAD = dict(**GRU, r=GATE, u=GATE, c=rand(2, 4), d_h=rand(2, 4))
GATES = dict(i=GATE, cs=rand(2, 4), f=GATE, o=GATE, ci=rand(2, 4), co=rand(2, 4))
LSTM_GRAD = dict(**LSTM, **GATES, cs_grad=rand(2, 4), h_grad=rand(2, 4))
RECURRENT = [
    case("GRUBlockCell", GRU, tag="all outputs", python=False, why="Python has no such gradient"),
    case("GRUBlockCell", GRU, tag="h", outputs=(3,), python=False, why="Python has no such gradient"),
    *(
        case(
            "LSTMBlockCell",
            dict(**LSTM, use_peephole=peephole, cell_clip=clip),
            outputs=outputs,
            tag=f"{peephole=},{clip=},{outputs}",
            python=False,
            why="Python has no such gradient",
        )
        for peephole, clip, outputs in [(False, 0.5, (1, 6)), (False, 3.0, (6,))]
    ),
    case(
        "LSTMBlockCell",
        dict(**LSTM, use_peephole=True, cell_clip=0.0),
        tag="peephole",
        python=False,
        expected=gradient_of(references.lstm_cell(True), *range(7)),
        why="Python has no such gradient",
    ),
    case(
        "LSTMBlockCell",
        dict(**LSTM, forget_bias=-0.5),
        outputs=(1, 6),
        tag="another bias",
        python=False,
        why="Python has no such gradient",
    ),
    case(
        "BlockLSTM",
        block_lstm(use_peephole=True, cell_clip=0.0, forget_bias=-0.5),
        outputs=(1, 6),
        orders=1,
        tag="another bias",
        why=FIRST_ONLY,
    ),
    case(
        "GRUBlockCellGrad",
        GRU_GRAD,
        python=False,
        expected=gradient_of(references.gru_cell_grad(list(GRU_GRAD)), 0, 1, 2, 3),
        why="Python has no such gradient",
    ),
    *(
        case(
            "LSTMBlockCellGrad",
            dict(**LSTM_GRAD, use_peephole=peephole),
            tag=f"{peephole=}",
            python=False,
            expected=gradient_of(references.lstm_cell_grad(list(LSTM_GRAD), peephole), *range(5)),
            why="Python has no such gradient",
        )
        for peephole in (True, False)
    ),
    case("BlockLSTM", block_lstm(use_peephole=True, cell_clip=0.0), outputs=(1, 6), orders=1, why=FIRST_ONLY),
    case("BlockLSTM", block_lstm(use_peephole=False, cell_clip=0.0), outputs=(1, 6), orders=1, why=FIRST_ONLY),
    *(
        case(
            op,
            block_lstm(use_peephole=peephole, cell_clip=0.1),
            outputs=(1, 6),
            orders=1,
            tag=f"clipped,{peephole=}",
            python=False,
            expected=clipped_lstm(order, bias, peephole),
            fd=False,
            why="Python takes no notice of the clipping, differences step over it; " + FIRST_ONLY,
        )
        for op, order, bias in (("BlockLSTM", (0, 1, 2, 3), 1.0), ("BlockLSTMV2", (0, 2, 1, 3), 0.0))
        for peephole in (True, False)
    ),
    case(
        "BlockLSTMV2",
        block_lstm(use_peephole=True, cell_clip=0.0),
        outputs=(1, 6),
        orders=1,
        python=False,
        why="Python takes the gradient of BlockLSTM, which has its gates in another order",
    ),
    *(
        case(
            "CudnnRNN" + version,
            dict(**GPU, input_c=rand(1, 2, 5), **CUDNN, **more),
            outputs=(0, 1, 2),
            graph_only=True,
        )
        for version, more in (
            ("", {}),
            ("V2", dict(rnn_mode="gru")),
            ("V3", dict(sequence_lengths=[3, 2], time_major=False, num_proj=1)),
        )
    ),
]

CASES = [
    *ACTIVATIONS,
    *BIAS,
    *CONVOLUTION,
    *POOLING,
    *MORPHOLOGY,
    *NORMALISATION,
    *LOSSES,
    *SELECTION,
    *RECURRENT,
]
