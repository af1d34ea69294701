"""The rule tables as a whole: each rule has cases, in its family, and emits only ops that can themselves be
differentiated."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tensorflow.python.framework import op_def_registry, ops

from tests import attributes, structure
from tests.cases import FAMILIES, cases
from tests.spec import Case, Point, possible_dtypes
from tf_symgrad import _loader

CSRC = Path(__file__).parents[1] / "csrc"
SOURCES = CSRC / "rules"
STOCK = Path(__file__).parent / "data" / "stock_native_gradients.txt"
ROW = re.compile(
    r'^\s*\{"([\w>]+)",|\b(?:RULE|UNARY|PARTIAL|FUSED|BINARY|ONLY)\((\w+),|\b(?:NO_GRAD|PASS|SELF_ADJOINT)\((\w+)\)'
    r"|\b(?:ADJOINTS|BILINEAR)\(([\w, ]+)\)",
    re.MULTILINE,
)

# What the engine differentiates itself, or passes through.
STRUCTURAL = frozenset(
    {
        *("Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"),
        *("PartitionedCall", "StatefulPartitionedCall", "SymbolicGradient", "TfSymgrad>SymbolicGradient"),
        *("FakeParam", "NoOp", "Placeholder", "ReadVariableOp", "RefIdentity", "VarHandleOp"),
    }
)
# Python registers a function for these, and it returns None.
NONE_IN_PYTHON = frozenset({"ArgMax", "ArgMin", "Ceil", "Floor", "FloorDiv", "Rint", "Round", "TruncateDiv"})
# Rules without a case, and why.
ERROR = "the rule is an error that says why there is no gradient"
UNTESTED = {
    ERROR: {
        *("BlockLSTMGrad", "BlockLSTMGradV2", "CudnnRNNBackprop", "CudnnRNNBackpropV2", "CudnnRNNBackpropV3"),
        *("PreventGradient", "RandomCrop", "RandomShuffle", "SparseMatrixMul"),
        *("SparseMatrixSoftmaxGrad", "TPUEmbeddingActivations", "XlaVariadicReduce"),
    },
    "it draws anew in each run; its stateless sibling has the same rule": {"ParameterizedTruncatedNormal"},
    "it has no kernel here, and Python's is another graph, or an error": {
        *("CollectiveReduceScatterV2", "NcclBroadcast", "NcclReduce", "SparseMatrixAdd", "XlaClusterOutput"),
    },
    "no graph of today's producers can have it": {
        *("BatchNormWithGlobalNormalization", "QuantizeAndDequantize", "TopK"),
        *(f"TensorArray{op}" for op in ("Concat", "Gather", "Read", "Scatter", "Split", "Write")),
        *(f"TensorArray{op}V2" for op in ("Concat", "Gather", "Read", "Scatter", "Split", "Write")),
    },
    "the value is behind a reference or a resource": {
        *("DebugGradientRefIdentity", "ReadVariableOp", "RefIdentity", "ResourceGather", "ResourceGatherNd"),
    },
}
# Attrs that change no number: names, marks for the runtime, what is printed, where draws begin.
NO_NUMBERS = frozenset(
    {
        *("communication_hint", "group_key", "group_size", "instance_key", "is_stateless", "max_subdivs_per_device"),
        *("subdiv_offsets", "timeout_seconds", "wait_for"),
        *("circular_buffer_size", "debug_ops_spec", "debug_urls", "device_name", "first_n", "gated_grpc", "io_index"),
        *(
            "io_of_node",
            "is_input",
            "message",
            "op_name",
            "output_slot",
            "summarize",
            "tensor_debug_mode",
            "tensor_name",
        ),
        *("tfdbg_context_id", "tfdbg_run_id"),
        *("grad_a", "grad_b", "grad_x", "grad_y", "metadata", "seed", "seed2", "use_cudnn_on_gpu", "validate_indices"),
    }
)
# Attrs of which the cases have not all values, and why.
ONE_VALUE: dict[str, dict[str, set[str]]] = {
    "what it draws is new in each run": {
        "ExtractGlimpse": {"noise", "uniform_noise"},
        "ExtractGlimpseV2": {"noise", "uniform_noise"},
        "FractionalAvgPool": {"deterministic"},
        "FractionalMaxPool": {"deterministic"},
    },
    "only sums have a gradient": {
        "CollectiveReduce": {"merge_op"},
        "CollectiveReduceV2": {"merge_op"},
    },
    "CPU kernels know the other value only": {
        "Conv": {"data_format", "groups"},
        "TridiagonalSolve": {"perturb_singular"},
    },
    "slices with a new axis can't be assigned to": {
        "StridedSliceGrad": {"new_axis_mask"},
        "TensorStridedSliceUpdate": {"new_axis_mask"},
    },
}

# Ops that the engine names. All else that it knows of ops is in the tables of csrc/rules.
FLOW = {
    *("Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While", "FakeParam"),
    *("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", "SymbolicGradient"),
    *("Enter", "Exit", "LoopCond", "Merge", "NextIteration", "Switch"),
    *("Const", "Identity", "NoOp", "Placeholder", "_XlaCompile", "TfSymgrad>SymbolicGradient"),
}
FOLDS = "folds it: any op whose integers it can compute"
EMITS = "emits it"
ENGINE = {
    "differentiate/resources.cc": ("tells by parts of names what uses no variable", None),
    "emit/builder.cc": (
        "emits it, or leaves broadcasts to it",
        {"AddN", "AddV2", "BroadcastTo", "Mul", "RealDiv", "Sub", "UnsortedSegmentSum"},
    ),
    "emit/shapes.cc": (EMITS, None),
    "emit/vocabulary.cc": (EMITS, None),
    "facts/facts.cc": (
        "corrects its shape function, or needs not to run it",
        {
            *("EnsureShape", "ExtractVolumePatches", "GatherV2", "MatrixDiagV2", "MatrixDiagV3", "Mul", "ReluGrad"),
            *("AddN", "PlaceholderWithDefault", "Reshape", "Shape", "Tanh"),
            *(
                "CollectiveGather",
                "FakeQuantWithMinMaxVarsPerChannelGradient",
                "QueueDequeueManyV2",
                "SoftmaxCrossEntropyWithLogits",
                "SplitV",
                "TensorArrayGradWithShape",
            ),
        },
    ),
    "facts/plain_shapes.cc": (
        "knows its shape without its shape function",
        {"AddN", "MatMul", "Mul", "ReadVariableOp", "ReluGrad", "Reshape", "Sum", "Tanh"},
    ),
    "facts/fold.cc": (FOLDS, None),
    "facts/fold_math.cc": (FOLDS, None),
    "facts/fold_structure.cc": (FOLDS, None),
    "remat/rematerialise.cc": (EMITS, {"XlaOptimizationBarrier"}),
    "read/import.cc": ("hides a shape", {"PlaceholderWithDefault", "Reshape", "Shape"}),
    "remat/schedule.cc": ("is in memory anyway", {"ReadVariableOp"}),
    "loops/backward_loop.cc": (EMITS, {"ZerosLike"}),
    "plan/trip_count.cc": (FOLDS, None),
    "tensorflow1/flows.cc": ("hands a flow on", {"AddN"}),
    "vjp/cotangent.cc": (EMITS, {"VariableShape"}),
    "write/part.cc": ("is a check that vanishes where the shape is known", {"EnsureShape"}),
}


def expect_none(what: str, found: Iterable[Any]) -> None:
    """Fails with everything that was found."""
    if lines := sorted(map(str, found)):
        pytest.fail("\n  ".join([f"{what}:", *lines]), pytrace=False)


@cache
def rules() -> dict[str, bool]:
    return dict(_loader.native().rules())


@cache
def table(family: str) -> list[str]:
    """The ops that csrc/rules/<family>.cc names in its table."""
    source = (SOURCES / f"{family}.cc").read_text()
    rows = source[source.index("constexpr Rule kRules[]") :]
    return [op for groups in ROW.findall(rows) for op in next(filter(None, groups)).split(", ")]


def test_families_are_mirrored() -> None:
    assert sorted(source.stem for source in SOURCES.glob("*.cc")) == list(FAMILIES)
    tests = Path(__file__).parent.glob("test_rules_*.py")
    assert sorted(test.stem.removeprefix("test_rules_") for test in tests) == list(FAMILIES)


def test_every_rule_has_a_case() -> None:
    tested = {case.op for family in FAMILIES for case in cases(family)}.union(*UNTESTED.values())
    expect_none("rules without a case", (op for op, gradient in rules().items() if gradient and op not in tested))


def test_every_case_has_a_rule() -> None:
    tested = {case.op for family in FAMILIES for case in cases(family)}
    expect_none("cases without a rule", (op for op in tested if not rules().get(op)))


def test_every_case_has_an_oracle() -> None:
    everything = (case for family in FAMILIES for case in cases(family))
    expect_none("only the shapes are checked; say expected=", (case for case in everything if not case.has_oracle))


def test_every_op_exists() -> None:
    named = {case.op for family in FAMILIES for case in cases(family)} | set(rules())
    expect_none("TensorFlow has no such op", (op for op in named if op_def_registry.get(op) is None))


def test_no_op_is_in_two_tables() -> None:
    homes = Counter(op for family in FAMILIES for op in table(family))
    expect_none("in more than one table, or twice in one", (op for op, count in homes.items() if count > 1))


def test_the_engine_names_few_ops() -> None:
    """Control flow, what it folds and what it emits: an op is added to a table, not to the engine."""
    names = {}
    stacks = re.compile("(Empty)?TensorList")  # of loops
    for source in [*CSRC.glob("engine/**/*.cc"), *CSRC.glob("engine/**/*.h")]:
        code = re.sub(r"//.*", "", source.read_text())
        names[str(source.relative_to(CSRC / "engine"))] = {
            name
            for name in re.findall(r'"([\w>]{2,})"', code)
            if op_def_registry.get(name) is not None and name not in FLOW and not stacks.match(name)
        }
    named = {file for file, ops in names.items() if ops}
    expect_none("these no longer name ops", ENGINE.keys() - named)
    for file in named:
        _, allowed = ENGINE.get(file, ("", set()))
        expect_none(f"csrc/engine/{file} names", names[file] - allowed if allowed is not None else ())


def test_every_value_of_an_attr_has_a_case() -> None:
    """For each op, and each of its attrs that may change a number: all values, or two where there is no end of them."""
    everything = [case for family in FAMILIES for case in cases(family) if not case.graph_only]
    found = attributes.values_in_cases(everything)
    reasons = {(op, name) for pairs in ONE_VALUE.values() for op, names in pairs.items() for name in names}
    missing, needless = [], set(reasons)
    for op in sorted({case.op for case in everything}):
        for name, values in attributes.choices(op_def_registry.get(op)).items():
            seen = found[op, name]
            lacks = values - seen if values is not None else ({"another value"} if len(seen) < 2 else set())
            if not lacks or name in NO_NUMBERS:
                continue
            needless.discard((op, name))
            if (op, name) not in reasons:
                missing.append(f"{op}: {name} is {', '.join(sorted(seen)) or 'nowhere'}; no case of {sorted(lacks)}")
    expect_none("no case, and no reason", missing)
    expect_none("reasons for what has its cases", needless)


@pytest.mark.parametrize("family", FAMILIES)
def test_cases_stand_beside_their_rules(family: str) -> None:
    home = {op: other for other in FAMILIES for op in table(other)}
    strays = {case.op for case in cases(family) if home.get(case.op, family) != family}
    expect_none(f"tests/cases/{family}.py has cases of another family's ops", (f"{op} ({home[op]})" for op in strays))


def test_no_gradient_only_where_python_has_none() -> None:
    registry = ops.gradient_registry

    def differentiable(op: str) -> bool:
        return op in registry.list() and registry.lookup(op) is not None

    without = {op for op, ours in rules().items() if not ours} - NONE_IN_PYTHON
    expect_none("NO_GRAD, but Python differentiates it", filter(differentiable, without))


def test_stock_registries_are_covered() -> None:
    stock = [line.split()[0] for line in STOCK.read_text().splitlines() if not line.startswith("#")]
    expect_none("stock registries have it", (op for op in stock if not rules().get(op) and op not in STRUCTURAL))


@pytest.mark.parametrize("family", FAMILIES)
def test_closure(family: str) -> None:
    """Every op in a gradient of order 1 or 2 can be differentiated, or has no gradient."""
    without: dict[str, set[str]] = {}
    broken = []
    for case in cases(family):
        for static in (True, False) if case.unknown and not case.graph_only else (True,):
            try:
                emitted = gradient_ops(case, static)
            except Exception as e:  # whatever it is, the other cases are built as well
                broken.append(f"{case}: {e}")
                continue
            for op in emitted - rules().keys() - STRUCTURAL:
                without.setdefault(op, set()).add(case.op)
    lines = [f"{op} has no rule; it is emitted for {', '.join(sorted(by))}" for op, by in without.items()]
    expect_none("open ends", lines + broken)


def gradient_ops(case: Case, static: bool) -> set[str]:
    """The ops in the gradients of a case, of all orders that are checked."""
    letters = case.dtypes or possible_dtypes(case) or "f"
    point = Point(case, next(letter for letter in "dzfcbh" if letter in letters))
    f = structure.concrete(point.f, point.x, static)
    library = structure.library(f)
    name = f.name
    found: set[str] = set()
    for _ in range(1 if case.graph_only else case.orders):
        name, added = structure.build_gradient(library, name)
        found |= structure.op_types(added)
        library.MergeFrom(added)
    return found
