"""Random ops."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.harness import case, rand
from tests.oracles import python_gradient

IMPLICIT = "the gradient is that of the sample's distribution, not of the sampler's path"
SEED = np.int32([3, 7])
GAMMA = dict(fd=False, orders=1, why=IMPLICIT + "; it has no gradient")

SAMPLES: dict[str, Any] = dict(shape=[4, 2, 3], seed=SEED)


def cdf(z: Any) -> Any:
    return tf.math.erfc(z * -(0.5**0.5)) / 2


def at_same_quantiles(*inputs: Any) -> list[Any]:
    """The gradients of the samples of truncated normal distributions as functions of four parameters."""

    def samples(*parameters: Any) -> list[Any]:
        mean, deviation, lower, upper = parameters
        names = ("means", "stddevs", "minvals", "maxvals")
        drawn = tf.raw_ops.StatelessParameterizedTruncatedNormal(**SAMPLES, **dict(zip(names, parameters, strict=True)))
        below, above, here = (cdf((y - mean) / deviation) for y in (lower, upper, drawn))
        quantiles = tf.stop_gradient((here - below) / (above - below))
        return [mean + deviation * tf.math.ndtri(below + quantiles * (above - below))]

    gradients: list[Any] = python_gradient(samples, 4)(*inputs)
    return gradients


CASES = [
    case(
        "StatelessRandomGammaV2", dict(shape=[4, 2, 3], seed=SEED, alpha=rand(2, 3, lo=0.5, hi=3)), dtypes="fd", **GAMMA
    ),
    case("StatelessRandomGammaV2", dict(shape=[5], seed=SEED, alpha=rand(lo=0.5, hi=3)), dtypes="fd", **GAMMA),
    case(
        "StatelessRandomGammaV3",
        dict(shape=[4, 3], key=np.uint64([5]), counter=np.uint64([1, 2]), alg=1, alpha=rand(3, lo=0.5, hi=3)),
        dtypes="fd",
        **GAMMA,
    ),
    case("RandomGamma", dict(shape=[4], alpha=rand(2, 3, lo=0.5, hi=3), seed=3), graph_only=True),
    # The bounds alone, as Python differentiates them; and all parameters.
    *(
        case(
            "StatelessParameterizedTruncatedNormal",
            dict(
                **SAMPLES,
                means=rand(2, 3),
                stddevs=rand(3, lo=0.5, hi=1.5),
                minvals=rand(2, 1, lo=-2, hi=-1),
                maxvals=rand(1, 3, lo=1, hi=2),
            ),
            wrt=wrt,
            dtypes="d",
            fd=False,
            python=expected is None,
            expected=expected,
            why=IMPLICIT + "; Python forgets that mean and deviation move the bounds too",
        )
        for wrt, expected in ((("minvals", "maxvals"), None), (None, at_same_quantiles))
    ),
]
