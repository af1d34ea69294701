"""What a case is: an op with arguments; and what it becomes in a dtype: a function at a point."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels, op_def_registry

from tests.oracles import Tensor

DTYPES = {
    "h": tf.float16,
    "b": tf.bfloat16,
    "f": tf.float32,
    "d": tf.float64,
    "c": tf.complex64,
    "z": tf.complex128,
}


@dataclass(frozen=True)
class Rand:
    """A random input: uniform in [lo, hi), of the dtype under test or of a fixed one."""

    shape: tuple[int, ...]
    lo: float
    hi: float
    dtype: str | None

    def __repr__(self) -> str:
        return "x".join(map(str, self.shape)) or "scalar"


@dataclass(frozen=True)
class Case:
    """An op with arguments, and how far its gradients are checked."""

    op: str
    args: dict[str, Any]
    fn: Callable[..., Any] | None = None  # instead of the raw op
    dtypes: str | None = None  # those under test; None: what the op's dtype attrs and its CPU kernels allow
    wrt: tuple[str, ...] | None = None  # random inputs to differentiate; None: all
    outputs: tuple[int, ...] | None = None  # outputs with a cotangent; None: all floating ones
    orders: int = 2  # the highest order
    python: bool = True  # compare with the Python gradient
    expected: Callable[..., list[Tensor]] | None = None  # (*x, *dy) -> dx, in TensorFlow, to compare with instead
    fd: bool = True  # compare with finite differences
    unknown: bool = True  # also with unknown static shapes
    graph_only: bool = False  # compare the emitted graph with Python's
    compiled: bool = False  # run by XLA: for layouts that no CPU kernel takes
    tol: float = 1.0  # a factor of all tolerances
    tag: str = ""
    why: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not (self.orders >= 2 and self.python and self.fd and self.unknown) and not self.why:
            raise ValueError(f"{self}: a case that leaves out a check says why=")
        if self.python and self.expected:
            raise ValueError(f"{self}: expected= takes the place of Python's gradient; say python=False")

    def __str__(self) -> str:
        said = self.tag or ",".join(f"{name}={_brief(value)}" for name, value in self.args.items())
        return f"{self.op}:{said[:100]}" if said else self.op

    @property
    def has_oracle(self) -> bool:
        """Whether anything tells right numbers from wrong ones."""
        return self.fd or self.has_peer

    @property
    def has_peer(self) -> bool:
        """Whether there are gradients to compare with: Python's, or expected ones."""
        return self.python or self.expected is not None

    def __call__(self, **args: Any) -> list[Tensor]:
        """The outputs of the op, in a list."""
        result = (self.fn or getattr(tf.raw_ops, self.op))(**args)
        return [y for y in tf.nest.flatten(result) if tf.is_tensor(y)]


class Point:
    """A case in one dtype: the function f of its differentiable inputs, and a point x of f."""

    def __init__(self, case: Case, letter: str) -> None:
        self.names: list[str] = []
        self.x: list[Tensor] = []
        self._case = case
        self._random = np.random.default_rng(zlib.crc32(str(case).encode()))
        self._args = {name: self._draw(name, value, letter) for name, value in case.args.items()}
        if not self.x:
            raise ValueError(f"{case} has nothing to differentiate: no rand() among its args")

    def f(self, *x: Tensor) -> list[Tensor]:
        """The outputs that get cotangents."""
        slots = iter(x)

        def filled(value: Any) -> Any:
            return next(slots) if value is _SLOT else value

        args = self._args.items()
        y = self._case(**{k: [filled(a) for a in v] if isinstance(v, list) else filled(v) for k, v in args})
        if self._case.outputs is not None:
            return [y[i] for i in self._case.outputs]
        return [t for t in y if t.dtype in DTYPES.values()]

    def cotangents(self, y: Sequence[Tensor]) -> list[Tensor]:
        """Random tensors like some others; no element is small, so that no error hides behind it."""
        return [tf.constant(self._values(t.shape, 0.5, 1.5, t.dtype, signs=True), t.dtype) for t in y]

    def _draw(self, name: str, value: Any, letter: str) -> Any:
        """The value of an argument; a slot in place of each tensor that is an input of f."""
        if isinstance(value, list):
            return [self._draw(f"{name}[{i}]", v, letter) for i, v in enumerate(value)]
        if not isinstance(value, Rand):
            return value
        dtype = DTYPES[value.dtype or letter]
        tensor = tf.constant(self._values(value.shape, value.lo, value.hi, dtype), dtype)
        if self._case.wrt is not None and name.partition("[")[0] not in self._case.wrt:
            return tensor.numpy()
        self.names.append(name)
        self.x.append(tensor)
        return _SLOT

    def _values(self, shape: Sequence[int], lo: float, hi: float, dtype: Any, signs: bool = False) -> Any:
        def real() -> Any:
            sign = self._random.choice([-1, 1], tuple(shape)) if signs else 1
            return self._random.uniform(lo, hi, tuple(shape)) * sign

        return real() + 1j * real() if dtype.is_complex else real()


def possible_dtypes(case: Case) -> str:
    """The dtypes that the op's attrs and CPU kernels allow for random inputs; single and double where fn is given."""
    if case.fn:
        return "fd"
    op = op_def_registry.get(case.op)
    attrs, letters = set(), set(DTYPES)
    for arg in op.input_arg:
        if not any(isinstance(v, Rand) and not v.dtype for v in _items(case.args.get(arg.name))):
            continue
        if arg.type:  # not polymorphic
            letters &= {x for x, dtype in DTYPES.items() if dtype == arg.type}
        else:
            attrs.add(arg.type_attr or arg.type_list_attr)
    for attr in op.attr:
        if attr.name in attrs and attr.HasField("allowed_values"):
            letters &= {x for x in letters if DTYPES[x].as_datatype_enum in attr.allowed_values.list.type}
    found = [k for k in kernels.get_registered_kernels_for_op(case.op).kernel if k.device_type in ("CPU", "DEFAULT")]
    return "".join(x for x in DTYPES if x in letters and any(_takes(kernel, attrs, DTYPES[x]) for kernel in found))


def _takes(kernel: Any, attrs: set[str], dtype: Any) -> bool:
    return all(
        dtype.as_datatype_enum in constraint.allowed_values.list.type
        for constraint in kernel.constraint
        if constraint.name in attrs
    )


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return getattr(value, "name", None) or str(value).replace(" ", "")


_SLOT = object()
