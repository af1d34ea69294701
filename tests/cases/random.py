"""Random ops."""

import numpy as np

from tests.harness import case, rand

IMPLICIT = "the gradient is that of the sample's distribution, not of the sampler's path"
SEED = np.int32([3, 7])
GAMMA = dict(fd=False, orders=1, why=IMPLICIT + "; it has no gradient")

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
    case(
        "StatelessShuffle",
        dict(value=rand(5, 2), key=np.uint64([5]), counter=np.uint64([1, 2]), alg=1),
        python=False,
        why="Python takes it for constant",
    ),
    case("RandomGamma", dict(shape=[4], alpha=rand(2, 3, lo=0.5, hi=3), seed=3), graph_only=True),
    case(
        "StatelessParameterizedTruncatedNormal",
        dict(
            shape=[4, 2, 3],
            seed=SEED,
            means=rand(2, 3),
            stddevs=rand(3, lo=0.5, hi=1.5),
            minvals=rand(2, 1, lo=-2, hi=-1),
            maxvals=rand(1, 3, lo=1, hi=2),
        ),
        dtypes="d",
        fd=False,
        why=IMPLICIT,
    ),
    case(
        "StatelessParameterizedTruncatedNormal",
        dict(shape=[4], seed=SEED, means=rand(), stddevs=rand(lo=1, hi=1), minvals=rand(lo=-3, hi=-2), maxvals=np.inf),
        dtypes="fd",
        orders=1,
        fd=False,
        why=IMPLICIT,
        tag="no upper bound",
    ),
]
