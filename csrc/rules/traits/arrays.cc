// The arrays of TensorFlow 1: which ops use one, and the lists that are their cotangents.
#include "csrc/rules/traits/arrays.h"

#include "csrc/rules/traits/trait.h"
#include "csrc/rules/words.h"

namespace symgrad {
namespace {

constexpr Trait kTraits[] = {
    array("TensorArray"),
    array("TensorArrayClose"),
    array("TensorArrayCloseV2"),
    array("TensorArrayCloseV3"),
    array("TensorArrayConcat"),
    array("TensorArrayConcatV2"),
    array("TensorArrayConcatV3"),
    array("TensorArrayGather"),
    array("TensorArrayGatherV2"),
    array("TensorArrayGatherV3"),
    array("TensorArrayGrad"),
    array("TensorArrayGradV2"),
    array("TensorArrayGradV3"),
    array("TensorArrayGradWithShape"),
    array("TensorArrayPack"),
    array("TensorArrayRead"),
    array("TensorArrayReadV2"),
    array("TensorArrayReadV3"),
    array("TensorArrayScatter"),
    array("TensorArrayScatterV2"),
    array("TensorArrayScatterV3"),
    array("TensorArraySize"),
    array("TensorArraySizeV2"),
    array("TensorArraySizeV3"),
    array("TensorArraySplit"),
    array("TensorArraySplitV2"),
    array("TensorArraySplitV3"),
    array("TensorArrayUnpack"),
    array("TensorArrayV2"),
    array("TensorArrayV3"),
    array("TensorArrayWrite"),
    array("TensorArrayWriteV2"),
    array("TensorArrayWriteV3"),

    gradient_array("TensorArrayGrad"),
    gradient_array("TensorArrayGradV2"),
    gradient_array("TensorArrayGradV3"),
    gradient_array("TensorArrayGradWithShape"),
};
SYMGRAD_REGISTER_TRAITS(kTraits)

}  // namespace

V EmptyList(DType element) {
  return op("TensorListReserve", -1, 0, Attr("element_dtype", element), Attr("shape_type", DType::kInt32));
}

V SumOfLists(const Values& lists) {
  V length;
  for (const V& l : lists) {
    const V n = op("TensorListLength", l);
    length = length ? maximum(length, n) : n;
  }
  Values extended;
  for (const V& l : lists) extended.push_back(op("TensorListResize", l, length));
  return extended.size() == 1 ? lists[0] : op("AddN", list(extended));
}

}  // namespace symgrad
