// How ops are best computed: again, rather than kept for each iteration of a loop; once of many rows, rather than row
// by row.
#include <algorithm>

#include "csrc/rules/traits/trait.h"
#include "csrc/rules/words.h"

namespace symgrad {
namespace {

// Whether a reduction is one over dimension 0, and perhaps others.
bool ReducesRows(const Op& o) {
  const auto axes = known(o.in(1));
  if (!axes || o.flag("keep_dims")) return false;
  const int64_t rank = o.in(0).rank();
  return std::any_of(axes->begin(), axes->end(), [&](int64_t axis) { return axis == 0 || axis + rank == 0; });
}

constexpr Trait kTraits[] = {
    cheap("Add"),
    cheap("AddV2"),
    cheap("BroadcastTo"),
    cheap("Cast"),
    cheap("ConcatV2"),
    cheap("Conj"),
    cheap("Equal"),
    cheap("ExpandDims"),
    cheap("Fill"),
    cheap("GatherV2"),
    cheap("Greater"),
    cheap("GreaterEqual"),
    cheap("Identity"),
    cheap("Imag"),
    cheap("Less"),
    cheap("LessEqual"),
    cheap("LogicalAnd"),
    cheap("LogicalNot"),
    cheap("LogicalOr"),
    cheap("Mul"),
    cheap("Neg"),
    cheap("NotEqual"),
    cheap("OnesLike"),
    cheap("Pack"),
    cheap("Rank"),
    cheap("Real"),
    cheap("Relu"),
    cheap("Reshape"),
    cheap("Select"),
    cheap("SelectV2"),
    cheap("Shape"),
    cheap("ShapeN"),
    cheap("Sign"),
    cheap("Size"),
    cheap("Slice"),
    cheap("Square"),
    cheap("Squeeze"),
    cheap("StopGradient"),
    cheap("StridedSlice"),
    cheap("Sub"),
    cheap("TensorListGetItem"),
    cheap("ZerosLike"),

    // Computed again sooner than kept from the forward pass to the way back (checkpoint="cheap", "auto").
    light("Abs"),
    light("AddN"),
    light("All"),
    light("Any"),
    light("BiasAdd"),
    light("Ceil"),
    light("ClipByValue"),
    light("Cos"),
    light("Div"),
    light("DivNoNan"),
    light("Elu"),
    light("Erf"),
    light("Erfc"),
    light("Exp"),
    light("Expm1"),
    light("Floor"),
    light("LeakyRelu"),
    light("Log"),
    light("Log1p"),
    light("LogSoftmax"),
    light("Max"),
    light("Maximum"),
    light("Mean"),
    light("Min"),
    light("Minimum"),
    light("MulNoNan"),
    light("OneHot"),
    light("Pad"),
    light("PadV2"),
    light("Pow"),
    light("Range"),
    light("RealDiv"),
    light("Reciprocal"),
    light("Relu6"),
    light("Rsqrt"),
    light("Selu"),
    light("Sigmoid"),
    light("Sin"),
    light("Softmax"),
    light("Softplus"),
    light("Softsign"),
    light("Split"),
    light("SplitV"),
    light("Sqrt"),
    light("SquaredDifference"),
    light("Sum"),
    light("Tanh"),
    light("Tile"),
    light("Transpose"),
    light("Unpack"),

    // Not computed at all.
    aliases("Bitcast"),
    aliases("EnsureShape"),
    aliases("ExpandDims"),
    aliases("Identity"),
    aliases("IdentityN"),
    aliases("PreventGradient"),
    aliases("Reshape"),
    aliases("Snapshot"),
    aliases("Squeeze"),
    aliases("StopGradient"),

    // Products and sums over rows: in the gradient of a loop, they are taken of the rows of all iterations at once.
    sums_rows("BiasAddGrad", {0}),
    sums_rows("Conv2DBackpropFilter", {0, 2}),
    sums_rows("Conv3DBackpropFilterV2", {0, 2}),
    sums_rows("DepthwiseConv2dNativeBackpropFilter", {0, 2}),
    sums_rows("MatMul", {0, 1}, [](const Op& o) { return o.flag("transpose_a") && !o.flag("transpose_b"); }),
    sums_rows("Sum", {0}, ReducesRows),

    // What may lie between such a sum and the gradient.
    adds("Add"),
    adds("AddN"),
    adds("AddV2"),
    linear("Identity"),
    linear("Neg"),
    linear("Reshape"),
    linear("Transpose"),
};
SYMGRAD_REGISTER_TRAITS(kTraits)

}  // namespace
}  // namespace symgrad
