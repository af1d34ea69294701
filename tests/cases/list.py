"""Lists of tensors (csrc/rules/list.cc). Each function makes a list, uses it, and returns tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import composite_tensor_ops

from tests.harness import Case, case, rand

RAW = tf.raw_ops
LAST = "Python gives the rows that were overwritten a cotangent, too"
EACH = "Python keeps the cotangent of one of several equal indices"
GROWN = "Python's cotangent has the length of the longer list"
LISTS = "Python's zeros among lists are numbers"
SHORT = "Python's cotangent is a list of the popped elements alone"


def of(op: str, tag: str, fn: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> Case:
    """A case of an op within a function of tensors x, y, ..."""
    args = {name: rand(*shape) for name, shape in zip("xyz", shapes, strict=False)}
    return case(op, args, fn=fn, tag=tag, **options)


def dims(element_shape: Any) -> Any:
    return tf.constant(element_shape, tf.int32)


def listed(x: Any, element_shape: Any = -1) -> Any:
    return RAW.TensorListFromTensor(tensor=x, element_shape=dims(element_shape))


def stacked(elements: Any, x: Any, num_elements: int = -1) -> Any:
    """The elements as a tensor; they have the shape of the rows of x."""
    shape = tf.shape(x)[1:]
    return RAW.TensorListStack(
        input_handle=elements, element_shape=shape, element_dtype=x.dtype, num_elements=num_elements
    )


def push(elements: Any, x: Any) -> Any:
    return RAW.TensorListPushBack(input_handle=elements, tensor=x)


def pop(elements: Any, dtype: Any, element_shape: Any = -1) -> Any:
    return RAW.TensorListPopBack(input_handle=elements, element_shape=dims(element_shape), element_dtype=dtype)


def empty(dtype: Any, element_shape: Any = -1) -> Any:
    return RAW.EmptyTensorList(element_shape=dims(element_shape), max_num_elements=-1, element_dtype=dtype)


def reserved(dtype: Any, n: int, element_shape: Any = -1) -> Any:
    return RAW.TensorListReserve(element_shape=dims(element_shape), num_elements=n, element_dtype=dtype)


def get(elements: Any, i: Any, dtype: Any, element_shape: Any = -1) -> Any:
    return RAW.TensorListGetItem(input_handle=elements, index=i, element_shape=dims(element_shape), element_dtype=dtype)


def put(elements: Any, i: Any, x: Any, resize: bool = False) -> Any:
    return RAW.TensorListSetItem(input_handle=elements, index=i, item=x, resize_if_index_out_of_bounds=resize)


def resized(elements: Any, n: int) -> Any:
    return RAW.TensorListResize(input_handle=elements, size=n)


def gathered(elements: Any, indices: Any, dtype: Any, element_shape: Any = -1) -> Any:
    return RAW.TensorListGather(
        input_handle=elements, indices=indices, element_shape=dims(element_shape), element_dtype=dtype
    )


def runtime(value: Any, x: Any) -> Any:
    """A constant that nobody knows before x is known."""
    return tf.constant(value) + tf.cast(tf.reduce_sum(tf.math.abs(x)) < 0, tf.int32)


def pushed_and_popped(x: Any, y: Any) -> Any:
    rest, top = pop(push(push(empty(x.dtype), x * x), y * x[0]), x.dtype)
    rest, below = pop(rest, x.dtype)
    return top * below, below


def popped_alone(x: Any, y: Any) -> Any:
    return pop(push(push(empty(x.dtype), x * x), y * y), x.dtype)[1]


def popped_rest(x: Any) -> Any:
    rest, _ = pop(listed(x * x), x.dtype)
    return stacked(rest, x)


def ragged(x: Any, y: Any) -> Any:
    rest, top = pop(push(push(empty(x.dtype), x * x), y * y), x.dtype)
    return top * top, pop(rest, x.dtype)[1]


def nested(x: Any, y: Any) -> Any:
    inner = push(push(empty(x.dtype), x * x), y)
    outer = push(push(empty(tf.variant, []), inner), push(empty(x.dtype), y * y))
    outer, last = pop(outer, tf.variant, [])
    outer, first = pop(outer, tf.variant, [])
    first, top = pop(first, x.dtype)
    return top * pop(last, x.dtype)[1], pop(first, x.dtype)[1]


def nested_item(x: Any) -> Any:
    outer = push(push(empty(tf.variant, []), listed(x * x)), listed(x))
    return stacked(get(outer, 0, tf.variant, []), x)


def shared(x: Any) -> Any:
    elements = listed(x * x)
    return get(elements, 0, x.dtype) * get(elements, 2, x.dtype), stacked(elements, x)


def items(i: Any) -> Callable[..., Any]:
    def fn(x: Any, y: Any) -> Any:
        elements = put(listed(x * x), i, y * y)
        return get(elements, 1, x.dtype) * get(elements, 2, x.dtype), stacked(elements, x)

    return fn


def grown_item(x: Any, y: Any) -> Any:
    elements = put(resized(listed(x * x), 2), 3, y * y, resize=True)
    return get(elements, 3, x.dtype) * get(elements, 1, x.dtype)


def concatenated(op: str) -> Callable[..., Any]:
    def fn(x: Any, y: Any) -> Any:
        elements = push(push(empty(x.dtype), x * x), y)
        attrs = dict(leading_dims=tf.constant([], tf.int64), element_shape=[-1, 2]) if op.endswith("V2") else {}
        return getattr(RAW, op)(input_handle=elements, element_dtype=x.dtype, **attrs)[0] ** 2

    return fn


def split(x: Any) -> Any:
    lengths = tf.constant([1, 0, 3], tf.int64)
    elements = RAW.TensorListSplit(tensor=x * x, element_shape=[-1, 2], lengths=lengths)
    return get(elements, 2, x.dtype) ** 2, get(elements, 0, x.dtype)


def scattered(op: str, indices: Any, n: int = -1, known: bool = True) -> Callable[..., Any]:
    def fn(x: Any) -> Any:
        where = tf.constant(indices) if known else runtime(indices, x)
        attrs = dict(num_elements=n) if op.endswith("V2") else {}
        elements = getattr(RAW, op)(tensor=x * x, indices=where, element_shape=tf.shape(x)[1:], **attrs)
        return stacked(elements, x) ** 2

    return fn


def scattered_into(indices: Any, known: bool = True, n: int = 4) -> Callable[..., Any]:
    def fn(x: Any, y: Any) -> Any:
        where = tf.constant(indices) if known else runtime(indices, x)
        elements = push(resized(listed(x * x), n - 1), x[0])
        elements = RAW.TensorListScatterIntoExistingList(input_handle=elements, tensor=y * y, indices=where)
        return stacked(elements, x) ** 2

    return fn


def gathered_rows(indices: Any, known: bool = True) -> Callable[..., Any]:
    return lambda x: gathered(listed(x * x), tf.constant(indices) if known else runtime(indices, x), x.dtype, [2]) ** 2


def gathered_of_ragged(x: Any, y: Any) -> Any:
    elements = push(push(push(empty(x.dtype), x * x), y * y), x)
    return gathered(elements, [2, 0, 2], x.dtype) ** 2, get(elements, 1, x.dtype)


def ragged_product(element_shape: Any) -> Callable[..., Any]:
    def fn(x: Any, y: Any) -> Any:
        elements = push(push(empty(x.dtype, element_shape), x * x), y * y)
        return get(elements, 0, x.dtype) * get(elements, 1, x.dtype)

    return fn


SCATTER = ("TensorListScatter", "TensorListScatterV2")
CONCAT = ("TensorListConcat", "TensorListConcatV2")


class Array:
    """An array of TensorFlow 1: its ops are ordered by the flow."""

    def __init__(self, x: Any, n: int, **attrs: Any) -> None:
        self.dtype = x.dtype
        self.handle, self.flow = RAW.TensorArrayV3(size=n, dtype=x.dtype, **attrs)

    def _op(self, op: str, **args: Any) -> Any:
        return getattr(RAW, f"TensorArray{op}V3")(handle=self.handle, flow_in=self.flow, **args)

    def write(self, i: Any, x: Any) -> Array:
        self.flow = self._op("Write", index=i, value=x)
        return self

    def scatter(self, indices: Any, x: Any) -> Array:
        self.flow = self._op("Scatter", indices=indices, value=x)
        return self

    def split(self, x: Any, *lengths: int) -> Array:
        self.flow = self._op("Split", value=x, lengths=tf.constant(lengths, tf.int64))
        return self

    def read(self, i: Any) -> Any:
        return self._op("Read", index=i, dtype=self.dtype)

    def gather(self, indices: Any) -> Any:
        return self._op("Gather", indices=indices, dtype=self.dtype)

    def concat(self) -> Any:
        return self._op("Concat", dtype=self.dtype)[0]


KEPT = dict(clear_after_read=False)
V2 = "Python's gradient fails where control flow is that of TensorFlow 2"


def array(op: str, tag: str, fn: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> Case:
    """A case of an op of arrays, which work in functions alone."""
    return of(op, tag, tf.function(fn, autograph=False), *shapes, python=False, why=V2, **options)


def written(x: Any, y: Any) -> Any:
    a = Array(x, 3).write(0, x * x).write(2, y)
    return a.read(2) * a.read(0)


def read_twice(x: Any) -> Any:
    a = Array(x, 2, **KEPT).write(0, x * x).write(1, x)
    return a.read(0) * a.read(0) * a.read(1), a.read(1)


def of_two_shapes(x: Any, y: Any) -> Any:
    a = Array(x, 2).write(0, x * x).write(1, y * y)
    return a.read(0), a.read(1)


def in_a_loop(x: Any, y: Any) -> Any:
    """Rows come from one array, which does not change, and go to another one."""
    rows, out = Array(x, 3, **KEPT).scatter([0, 1, 2], x), Array(x, 0, dynamic_size=True)

    def step(i: Any, state: Any, flow: Any) -> Any:
        out.flow = flow
        state = tf.ensure_shape(tf.tanh(state * rows.read(i) + rows.read(0)), y.shape)
        return i + 1, state, out.write(i, state * state).flow

    _, state, out.flow = tf.while_loop(lambda i, *_: i < 3, step, [0, y, out.flow])
    return state, out.gather([0, 1, 2])


def read_back_in_a_loop(x: Any) -> Any:
    """Each element is made of the one before; nobody needs the array after the loop."""
    a = Array(x, 4, **KEPT).write(0, x * x)

    def step(i: Any, last: Any, flow: Any) -> Any:
        a.flow = flow
        a.write(i, a.read(i - 1) * last)
        return i + 1, tf.ensure_shape(a.read(i), x.shape), a.flow

    return tf.while_loop(lambda i, *_: i < 4, step, [1, x, a.flow])[1]


def in_a_branch(x: Any, y: Any) -> Any:
    a = Array(x, 2).write(0, x * y)

    flow = a.flow

    def more() -> Any:
        a.flow = flow
        return a.write(1, y * y).flow

    a.flow = tf.cond(tf.reduce_sum(x) < 1e3, more, lambda: flow)
    return a.read(0) * a.read(1)


def in_calls(x: Any, y: Any) -> Any:
    a = Array(x, 2)

    @tf.function(autograph=False)
    def write(i: Any, value: Any, handle: Any, flow: Any) -> Any:
        return RAW.TensorArrayWriteV3(handle=handle, index=i, value=value**2, flow_in=flow)

    @tf.function(autograph=False)
    def read(i: Any, handle: Any, flow: Any) -> Any:
        return RAW.TensorArrayReadV3(handle=handle, index=i, flow_in=flow, dtype=x.dtype) ** 2, flow

    a.flow = write(0, x, a.handle, a.flow)
    a.flow = write(1, y * x, a.handle, a.flow)
    first, a.flow = read(0, a.handle, a.flow)
    return first * a.read(1)


ARRAYS = [
    array("TensorArrayWriteV3", "read", written, (2,), (2,)),
    array("TensorArrayWriteV3", "unread", lambda x: Array(x, 3).write(1, x).write(0, x**2).read(0), (2,)),
    array("TensorArrayReadV3", "twice", read_twice, (2,)),
    array("TensorArrayReadV3", "shapes", of_two_shapes, (2,), (3, 1)),
    array("TensorArrayReadV3", "loop", in_a_loop, (3, 2), (2,)),
    array("TensorArrayReadV3", "loop, read back", read_back_in_a_loop, (2,)),
    array("TensorArrayReadV3", "branch", in_a_branch, (2,), (2,)),
    array("TensorArrayReadV3", "calls", in_calls, (2,), (2,)),
    array("TensorArrayGatherV3", "rows", lambda x: Array(x, 3).scatter([2, 0, 1], x**2).gather([1, 2]) ** 2, (3, 2)),
    array(
        "TensorArrayGatherV3", "equal", lambda x: Array(x, 3, **KEPT).scatter([2, 0, 1], x**2).gather([1, 1]), (3, 2)
    ),
    array("TensorArrayScatterV3", "read", lambda x: Array(x, 4).scatter([3, 1], x**2).read(1), (2, 2)),
    array("TensorArrayScatterV3", "scalars", lambda x: Array(x, 2).scatter([1, 0], x**2).gather([0, 1]) ** 2, (2,)),
    array(
        "TensorArrayConcatV3",
        "pieces",
        lambda x, y: Array(x, 2).write(0, x**2).write(1, y).concat() ** 2,
        (3, 2),
        (1, 2),
    ),
    array("TensorArraySplitV3", "concat", lambda x: Array(x, 3).split(x**2, 1, 0, 3).concat() ** 2, (4, 2)),
    array("TensorArraySplitV3", "read", lambda x: Array(x, 3).split(x**2, 1, 1, 2).read(2) ** 2, (4, 2)),
]


def optional(x: Any, y: Any) -> Any:
    """Two tensors, and an integer, in a variant that is used twice."""
    some = RAW.OptionalFromValue(components=[x * x, y, tf.constant(3)])
    attrs = dict(output_types=[x.dtype, y.dtype, tf.int32], output_shapes=[x.shape, y.shape, []])
    a, b, n = RAW.OptionalGetValue(optional=some, **attrs)
    return a * b * tf.cast(n, x.dtype), RAW.OptionalGetValue(optional=some, **attrs)[0]


def optional_in_optional(x: Any) -> Any:
    some = RAW.OptionalFromValue(components=[RAW.OptionalFromValue(components=[x * x])])
    inner = RAW.OptionalGetValue(optional=some, output_types=[tf.variant], output_shapes=[[]])[0]
    return RAW.OptionalGetValue(optional=inner, output_types=[x.dtype], output_shapes=[x.shape])[0] ** 2


def composite(x: Any) -> Any:
    """The values of a ragged tensor, through a variant that holds it."""
    ragged = tf.RaggedTensor.from_row_splits(x * x, [0, 1, 3])
    variant = composite_tensor_ops.composite_tensor_to_variants(ragged)
    back = composite_tensor_ops.composite_tensor_from_variant(variant, ragged._type_spec)
    return back.flat_values**2


def batch_of_lists(x: Any, y: Any) -> Any:
    """A row of x each, pushed to two lists that hold y and its square."""
    lists = RAW.Pack(values=[listed(y), listed(y**2)])
    first, second = RAW.Unpack(value=RAW.TensorListPushBackBatch(input_handles=lists, tensor=x**2), num=2)
    return stacked(first, y, 3) * stacked(second, y, 3)


def joined(x: Any, y: Any) -> Any:
    both = RAW.TensorListConcatLists(input_a=listed(x**2, [2]), input_b=listed(y, [2]), element_dtype=x.dtype)
    return stacked(both, x, -1) ** 2


def mapped(x: Any, y: Any) -> Any:
    """Inserted, replaced, erased and read, twice."""

    def lookup(key: float) -> Any:
        return RAW.TensorMapLookup(input_handle=tensors, key=key, value_dtype=x.dtype)

    tensors = RAW.EmptyTensorMap()
    for key, value in [(1.0, x**2), (2.0, y), (3.0, x * 5), (1.0, x * y)]:
        tensors = RAW.TensorMapInsert(input_handle=tensors, key=key, value=value)
    before = lookup(3.0)
    tensors = RAW.TensorMapErase(input_handle=tensors, key=3.0, value_dtype=x.dtype)
    return lookup(1.0) * lookup(2.0) ** 2 + lookup(1.0) + before**2


COUNT = "the number of lists must be known; Python takes it for constant"
MAP = "Python's gradient takes no map that lacks a key"
VARIANTS = [
    of("TensorListPushBackBatch", "two", batch_of_lists, (2, 2), (2, 2), unknown=False, python=False, why=COUNT),
    of("TensorListConcatLists", "two", joined, (2, 2), (3, 2), python=False, why="Python takes it for constant"),
    *(
        of(f"TensorMap{op}", "several", mapped, (2,), (2,), python=False, why=MAP)
        for op in ("Insert", "Lookup", "Erase")
    ),
    *(of(op, "several", optional, (2,), (2,)) for op in ("OptionalFromValue", "OptionalGetValue")),
    of("OptionalGetValue", "in another", optional_in_optional, (2,)),
    *(of(f"CompositeTensorVariant{op}", "ragged", composite, (3, 2)) for op in ("FromComponents", "ToComponents")),
]

CASES = [
    *ARRAYS,
    *VARIANTS,
    of("TensorListPushBack", "two", pushed_and_popped, (2,), (2,)),
    of("TensorListPushBack", "ragged", ragged, (2, 3), (4,)),
    of("TensorListPushBack", "lists", nested, (2,), (2,)),
    of("TensorListPopBack", "element", popped_alone, (2,), (2,), python=False, why=SHORT),
    of("TensorListPopBack", "rest", popped_rest, (3, 2)),
    of("TensorListStack", "one", lambda x: stacked(push(empty(x.dtype), x[0] ** 2), x, 1), (2, 3)),
    of("TensorListStack", "none", lambda x: stacked(listed(x[:0] ** 2), x), (2, 3)),
    of("TensorListFromTensor", "known", lambda x: stacked(listed(x**2, [3]), x, 2), (2, 3)),
    of("TensorListFromTensor", "scalars", lambda x: stacked(listed(x**2, []), x), (3,)),
    of("TensorListGetItem", "shared", shared, (3, 2)),
    of("TensorListGetItem", "ragged", ragged_product([-1, 2]), (3, 2), (1, 2)),
    of("TensorListGetItem", "ragged rank", ragged_product(-1), (3, 2), (2,)),
    of("TensorListGetItem", "list", nested_item, (3, 2), python=False, why=LISTS),
    of("TensorListGetItem", "unset", lambda x: get(resized(listed(x), 5), 4, x.dtype, [2]) + x[0] ** 2, (3, 2)),
    of("TensorListSetItem", "item", items(1), (3, 2), (2,)),
    of("TensorListSetItem", "unset", lambda x: stacked(put(reserved(x.dtype, 3, [2]), 1, x[0] ** 2), x), (3, 2)),
    of("TensorListSetItem", "resize", grown_item, (3, 2), (2,)),
    of("TensorListResize", "longer", lambda x: stacked(resized(listed(x**2, [2]), 5), x), (3, 2)),
    of("TensorListResize", "shorter", lambda x: stacked(resized(listed(x**2, [2]), 2), x), (3, 2)),
    *(of(op, "pieces", concatenated(op), (3, 2), (1, 2)) for op in CONCAT),
    of("TensorListSplit", "pieces", split, (4, 2)),
    of("TensorListGather", "distinct", gathered_rows([2, 0]), (3, 2)),
    of("TensorListGather", "at run time", gathered_rows([2, 0], known=False), (3, 2)),
    of("TensorListGather", "equal", gathered_rows([2, 0, 2]), (3, 2), python=False, why=EACH),
    of("TensorListGather", "equal at run time", gathered_rows([1, 1], known=False), (3, 2), python=False, why=EACH),
    of("TensorListGather", "ragged", gathered_of_ragged, (2,), (3,), python=False, why=EACH),
    *(of(op, "distinct", scattered(op, [2, 0, 1]), (3, 2)) for op in SCATTER),
    *(of(op, "at run time", scattered(op, [2, 0, 3], known=False), (3, 2)) for op in SCATTER),
    *(of(op, "equal", scattered(op, [1, 0, 1]), (3, 2), python=False, why=LAST) for op in SCATTER),
    *(of(op, "equal scalars", scattered(op, [1, 0, 1], known=False), (3,), python=False, why=LAST) for op in SCATTER),
    of("TensorListScatterV2", "num_elements", scattered("TensorListScatterV2", [3, 0, 1], 5), (3, 2)),
    of("TensorListScatterIntoExistingList", "distinct", scattered_into([2, 0]), (3, 2), (2, 2)),
    of("TensorListScatterIntoExistingList", "equal", scattered_into([1, 1]), (3, 2), (2, 2), python=False, why=LAST),
    of(
        "TensorListScatterIntoExistingList",
        "longer",
        scattered_into([2, 0], known=False, n=2),
        (3, 2),
        (2, 2),
        python=False,
        why=GROWN,
    ),
]
