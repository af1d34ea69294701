"""Cases of csrc/rules/data_flow.cc."""

import numpy as np

from tests.harness import case, rand

CASES = [
    case("DynamicPartition", dict(data=rand(4, 2), partitions=[1, 0, 1, 2], num_partitions=4)),
    case("DynamicPartition", dict(data=rand(2, 2), partitions=[[1, 0], [0, 0]], num_partitions=2)),
    case(
        "DynamicPartition",
        dict(data=rand(4), partitions=[1, 0, 1, 1], num_partitions=2),
        outputs=(1,),
        tag="one cotangent",
    ),
    case("DynamicPartition", dict(data=rand(0, 2), partitions=np.zeros(0, np.int32), num_partitions=2)),
    case("DynamicStitch", dict(indices=[0, [[4, 1], [3, 2]]], data=[rand(2), rand(2, 2, 2)])),
    case("DynamicStitch", dict(indices=[[0, 2]], data=[rand(2)]), tag="a gap"),
    case(
        "DynamicStitch",
        dict(indices=[[0, 1, 0], [1, 2]], data=[rand(3, 2), rand(2, 2)]),
        python=False,
        why="Python's gives the cotangent of a place to all elements for it, not to the one that is there",
    ),
    case("ParallelDynamicStitch", dict(indices=[[0, 2], [[1, 3]]], data=[rand(2), rand(1, 2)])),
    case(
        "ParallelDynamicStitch",
        dict(indices=[[0, 1, 0], [2]], data=[rand(3, 2), rand(1, 2)]),
        python=False,
        why="as for DynamicStitch",
    ),
]
