"""Ops that talk across devices. Most have no kernel here; collectives are checked in a group of one here, and between
devices in tests/test_cluster.py."""

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.compiler.tf2xla.python import xla as _xla  # noqa: F401 (registers gradients)
from tensorflow.dtensor.python import api as _dtensor  # noqa: F401 (likewise)
from tensorflow.dtensor.python import gen_dtensor_ops

from tests.harness import Case, case, rand


def on_gpu(**args: object) -> object:
    """Python's gradient insists on a device."""
    with tf.device("/gpu:0"):
        return tf.raw_ops.NcclAllReduce(**args)


def alone(op: str, key: int, rows: int = 2, **args: object) -> Case:
    """A collective op in a group of one."""
    group = dict(group_size=1, group_key=1000 + key, instance_key=key)
    why = "Python has no gradient of it, and a key is of one dtype"
    return case(op, dict(input=rand(rows, 3), **group, **args), python=False, dtypes="d", why=why)


CASES = [
    alone("CollectiveReduce", 1, merge_op="Add", final_op="Id", subdiv_offsets=[0]),
    alone("CollectiveReduce", 2, merge_op="Add", final_op="Div", subdiv_offsets=[0, 0], wait_for=[2]),
    alone("CollectiveReduceV2", 3, ordering_token=[], merge_op="Add", final_op="Id"),
    alone("CollectiveReduceV2", 4, ordering_token=[], merge_op="Add", final_op="Div"),
    alone("CollectiveGather", 5, shape=[2, 3]),
    alone("CollectiveGatherV2", 6, ordering_token=[]),
    alone("CollectiveAllToAllV2", 7, rows=1, ordering_token=[]),
    case(
        "NcclAllReduce",
        dict(input=rand(2, 3), reduction="sum", num_devices=2, shared_name="n"),
        fn=on_gpu,
        graph_only=True,
    ),
    case(
        "AllToAll",
        dict(input=rand(4, 6), group_assignment=[[0, 1]], concat_dimension=0, split_dimension=1, split_count=2),
        graph_only=True,
    ),
    case("CollectivePermute", dict(input=rand(2, 3), source_target_pairs=np.int32([[0, 1], [1, 0]])), graph_only=True),
    case("CrossReplicaSum", dict(input=rand(2, 3), group_assignment=[[0, 1]]), graph_only=True),
    case(
        "Relayout",
        dict(input=rand(2, 3), layout="sharding_specs:unsharded,unsharded"),
        fn=gen_dtensor_ops.relayout,
        graph_only=True,
    ),
    case(
        "RelayoutLike",
        dict(input=rand(2, 3), layout_input=rand(2, 3)),
        wrt="input",
        fn=gen_dtensor_ops.relayout_like,
        graph_only=True,
    ),
    case("CopyToMesh", dict(input=rand(2, 3), mesh="mesh"), fn=gen_dtensor_ops.copy_to_mesh, graph_only=True),
    case(
        "CopyToMeshGrad",
        dict(input=rand(2, 3), forward_input=rand(2, 3)),
        wrt="input",
        fn=gen_dtensor_ops.copy_to_mesh_grad,
        graph_only=True,
    ),
    case(
        "XlaSharding",
        dict(input=rand(2, 3), sharding="s", unspecified_dims=[1]),
        fn=gen_xla_ops.xla_sharding,
        graph_only=True,
    ),
    case(
        "XlaSpmdFullToShardShape",
        dict(input=rand(4, 3), manual_sharding="s", dim=0),
        fn=gen_xla_ops.xla_spmd_full_to_shard_shape,
        graph_only=True,
    ),
    case(
        "XlaSpmdShardToFullShape",
        dict(input=rand(2, 3), manual_sharding="s", full_shape=[2, 3], dim=0, unspecified_dims=[1]),
        fn=gen_xla_ops.xla_spmd_shard_to_full_shape,
        graph_only=True,
    ),
]
