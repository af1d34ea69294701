"""The one list of what is compiled, for setup.py and for BUILD: Starlark that Python can run."""

# libtf_symgrad.so: mathematics, engine and runtime. Rules include no TensorFlow header.
RULES = [
    "csrc/rules/array.cc",
    "csrc/rules/collective.cc",
    "csrc/rules/ctc.cc",
    "csrc/rules/data_flow.cc",
    "csrc/rules/image.cc",
    "csrc/rules/linalg.cc",
    "csrc/rules/list.cc",
    "csrc/rules/math.cc",
    "csrc/rules/nn.cc",
    "csrc/rules/random.cc",
    "csrc/rules/signal.cc",
    "csrc/rules/sparse.cc",
    "csrc/rules/traits/arrays.cc",
    "csrc/rules/traits/cost.cc",
    "csrc/rules/traits/effects.cc",
    "csrc/rules/traits/finite.cc",
    "csrc/rules/traits/trait.cc",
]

ENGINE = [
    "csrc/c_api/functions.cc",
    "csrc/engine/body/body.cc",
    "csrc/engine/body/calls.cc",
    "csrc/engine/body/node_check.cc",
    "csrc/engine/cache.cc",
    "csrc/engine/differentiate/differentiator.cc",
    "csrc/engine/differentiate/given.cc",
    "csrc/engine/differentiate/node_gradients.cc",
    "csrc/engine/differentiate/resources.cc",
    "csrc/engine/differentiate/split_function.cc",
    "csrc/engine/emit/builder.cc",
    "csrc/engine/emit/emission.cc",
    "csrc/engine/emit/forms.cc",
    "csrc/engine/emit/literal.cc",
    "csrc/engine/emit/op.cc",
    "csrc/engine/emit/vocabulary.cc",
    "csrc/engine/facts/facts.cc",
    "csrc/engine/facts/fold.cc",
    "csrc/engine/facts/fold_math.cc",
    "csrc/engine/facts/fold_structure.cc",
    "csrc/engine/facts/known_inputs.cc",
    "csrc/engine/facts/plain_shapes.cc",
    "csrc/engine/flatten/flatten.cc",
    "csrc/engine/gradient.cc",
    "csrc/engine/large_stack.cc",
    "csrc/engine/library/effects.cc",
    "csrc/engine/library/fingerprint.cc",
    "csrc/engine/library/functions.cc",
    "csrc/engine/library/gradient_op.cc",
    "csrc/engine/library/references.cc",
    "csrc/engine/loops/backward_loop.cc",
    "csrc/engine/loops/forward_loop.cc",
    "csrc/engine/loops/loop.cc",
    "csrc/engine/loops/loop_writer.cc",
    "csrc/engine/no_fork.cc",
    "csrc/engine/plan/list_step.cc",
    "csrc/engine/plan/loop_plan.cc",
    "csrc/engine/plan/trip_count.cc",
    "csrc/engine/read/arguments.cc",
    "csrc/engine/read/function_facts.cc",
    "csrc/engine/read/import.cc",
    "csrc/engine/read/items.cc",
    "csrc/engine/read/op_function.cc",
    "csrc/engine/remat/min_cut.cc",
    "csrc/engine/remat/plan.cc",
    "csrc/engine/remat/policy.cc",
    "csrc/engine/remat/rematerialise.cc",
    "csrc/engine/remat/schedule.cc",
    "csrc/engine/structure/branch.cc",
    "csrc/engine/structure/remote.cc",
    "csrc/engine/structure/split.cc",
    "csrc/engine/tensorflow1/flows.cc",
    "csrc/engine/tensorflow1/function_text.cc",
    "csrc/engine/tensorflow1/functionalize.cc",
    "csrc/engine/vjp/cotangent.cc",
    "csrc/engine/vjp/cut.cc",
    "csrc/engine/vjp/registry.cc",
    "csrc/engine/vjp/row_sum.cc",
    "csrc/engine/vjp/sweep.cc",
    "csrc/engine/write/export.cc",
    "csrc/engine/write/late.cc",
    "csrc/engine/write/part.cc",
    "csrc/graph/forward_pass.cc",
    "csrc/graph/pullback.cc",
    "csrc/runtime/call.cc",
    "csrc/runtime/function_kernel.cc",
    "csrc/runtime/kernel.cc",
    "csrc/runtime/op.cc",
    "csrc/runtime/pass.cc",
    "csrc/runtime/stock.cc",
]

# libtf_symgrad_xla.so: the op under XLA. It needs libtensorflow_cc, which BUILD does without.
XLA = [
    "csrc/xla/kernel.cc",
    "csrc/xla/launch.cc",
]

# libtf_symgrad_cc.so: gradients for TF_AddGradients, and the part of the C API that works on graphs. As above.
CC = [
    "csrc/c_api/graph.cc",
    "csrc/c_api/saved_model.cc",
    "csrc/cc/gradients.cc",
    "csrc/cc/graph_part.cc",
]

# tf_symgrad/_native: the Python module.
MODULE = [
    "csrc/python/forward_pass.cc",
    "csrc/python/module.cc",
]

# Headers for rules of other op libraries, for C and for C++; shipped under tf_symgrad.get_include() at these paths.
PUBLIC_HEADERS = [
    "csrc/c_api/tf_symgrad.h",
    "csrc/engine/gradient.h",
    "csrc/engine/gradient_function.h",
    "csrc/rules/op.h",
    "csrc/rules/rule.h",
    "csrc/rules/traits/finite.h",
    "csrc/rules/traits/trait.h",
    "csrc/rules/words.h",
]

# TensorFlow headers that cost seconds a file to parse, precompiled once for ENGINE.
PRECOMPILED_HEADERS = [
    "absl/container/flat_hash_map.h",
    "absl/container/inlined_vector.h",
    "absl/status/statusor.h",
    "absl/strings/str_cat.h",
    "absl/strings/str_join.h",
    "absl/synchronization/mutex.h",
    "tensorflow/core/common_runtime/optimization_registry.h",
    "tensorflow/core/framework/common_shape_fns.h",
    "tensorflow/core/framework/function.h",
    "tensorflow/core/framework/node_def_util.h",
    "tensorflow/core/framework/op.h",
    "tensorflow/core/framework/op_kernel.h",
    "tensorflow/core/framework/shape_inference.h",
]
