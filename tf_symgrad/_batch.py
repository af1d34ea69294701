"""The op in the body of `tf.vectorized_map`, `tf.GradientTape.jacobian` and the like: the gradients of a batch."""

from __future__ import annotations

from typing import Any

from tensorflow.python.ops.parallel_for import pfor as pfor_lib

from tf_symgrad import _function


def convert(pfor_input: Any) -> Any:
    """Converts the gradient function op by op, as TensorFlow does with the function of a call."""
    op, outer = pfor_input.op, pfor_input.pfor
    checkpoint = op.get_attr("checkpoint").decode()
    f = _function.from_name(op.get_attr("f"), op.graph).with_options(checkpoint=checkpoint)
    g = f.gradient(list(op.get_attr("wrt")) or [True] * len(op.outputs), op.get_attr("values"))
    body = g.library[g.name].graph
    g.add_to_graph(body)
    converter = pfor_lib.PFor(
        loop_var=outer.loop_var,
        loop_len=outer.loop_len_vector[0],
        pfor_ops=body.get_operations(),
        fallback_to_while_loop=outer.fallback_to_while_loop,
        all_indices=outer.all_indices,
        all_indices_partitioned=outer.all_indices_partitioned,
        pfor_config=outer.pfor_config,
        warn=outer._warn,
    )
    return pfor_lib._convert_function_call(g.library[g.name], converter, pfor_input.inputs)
