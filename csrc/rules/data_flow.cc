// Partitions and stitches; variables; and what holds state or text, through which nothing flows.
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

// The elements' positions go through the same partition, which tells where each cotangent belongs. Zeros are not
// stitched in for the parts without one: Grappler folds zeros like one part, whose size it does not know, to those of
// another.
Grads DynamicPartitionGrad(const Op& o) {
  const V data = IN(data), partitions = IN(partitions), count = size(partitions);
  const V position = o.like("DynamicPartition", reshape_like(range(0, count), partitions), partitions);
  Values positions, dys;
  for (int i = 0; i < o.num_out(); ++i) {
    if (!o.has_dy(i)) continue;
    positions.push_back(position.out(i));
    dys.push_back(o.dy(i));
  }
  const bool all = static_cast<int>(dys.size()) == o.num_out();
  return {reshape_like(all ? op("ParallelDynamicStitch", list(positions), list(dys))
                           : segment_sum(concat(dys, 0), concat(positions, 0), count),
                       data)};
}

// merged[indices[i]] = data[i], so data[i] gets dy[indices[i]]. Of several elements for one place one wins: it is that
// whose number, stitched in the same way, is found in the place.
Grads StitchGrad(const Op& o, const char* stitch) {
  const Values indices = INS(indices);
  const size_t n = indices.size();
  Grads dx(2 * n);
  for (size_t i = 0; i < n; ++i) dx[n + i] = gather(o.dy(), indices[i]);
  Values all, numbers;
  for (const V& index : indices) all.push_back(flatten(index));
  if (distinct(concat(all, 0))) return dx;
  V count = 0;
  for (const V& index : indices) {
    const V end = count + size(index);
    numbers.push_back(reshape_like(range(count, end), index));
    count = end;
  }
  const V winners = op(stitch, list(indices), list(numbers));
  for (size_t i = 0; i < n; ++i) dx[n + i] = keep(equal(gather(winners, indices[i]), numbers[i]), dx[n + i]);
  return dx;
}

// clang-format off
constexpr Rule kRules[] = {
    // Text, tables, files.
    NO_GRAD(AsString) NO_GRAD(DecodeBase64) NO_GRAD(DecodePaddedRaw) NO_GRAD(DecodeProtoV2) NO_GRAD(DecodeRaw)
    NO_GRAD(EncodeBase64) NO_GRAD(EncodeProto) NO_GRAD(FixedLengthRecordReader) NO_GRAD(GenerateVocabRemapping)
    NO_GRAD(HashTable) NO_GRAD(HashTableV2) NO_GRAD(IdentityReader) NO_GRAD(InitializeTable)
    NO_GRAD(InitializeTableFromTextFile) NO_GRAD(InitializeTableFromTextFileV2) NO_GRAD(InitializeTableV2)
    NO_GRAD(LMDBReader) NO_GRAD(LoadAndRemapMatrix) NO_GRAD(LookupTableFind) NO_GRAD(LookupTableFindV2)
    NO_GRAD(LookupTableInsert) NO_GRAD(LookupTableInsertV2) NO_GRAD(LookupTableSize) NO_GRAD(LookupTableSizeV2)
    NO_GRAD(MutableDenseHashTable) NO_GRAD(MutableDenseHashTableV2) NO_GRAD(MutableHashTable)
    NO_GRAD(MutableHashTableOfTensors) NO_GRAD(MutableHashTableOfTensorsV2) NO_GRAD(MutableHashTableV2)
    NO_GRAD(ParseTensor) NO_GRAD(ReaderNumRecordsProduced) NO_GRAD(ReaderNumWorkUnitsCompleted) NO_GRAD(ReaderRead)
    NO_GRAD(ReaderReadUpTo) NO_GRAD(ReaderReset) NO_GRAD(ReaderRestoreState) NO_GRAD(ReaderSerializeState)
    NO_GRAD(ReduceDataset) NO_GRAD(ReduceJoin) NO_GRAD(RegexReplace) NO_GRAD(SerializeTensor) NO_GRAD(StringJoin)
    NO_GRAD(StringSplit) NO_GRAD(StringToHashBucket) NO_GRAD(StringToHashBucketFast) NO_GRAD(StringToHashBucketStrong)
    NO_GRAD(StringToNumber) NO_GRAD(TFRecordReader) NO_GRAD(TextLineReader) NO_GRAD(WholeFileReader)

    // Summaries and calls of Python.
    NO_GRAD(Assert) NO_GRAD(AudioSummary) NO_GRAD(AudioSummaryV2) NO_GRAD(HistogramSummary) NO_GRAD(ImageSummary)
    NO_GRAD(MergeSummary) NO_GRAD(PyFunc) NO_GRAD(PyFuncStateless) NO_GRAD(ScalarSummary) NO_GRAD(TensorSummary)
    NO_GRAD(TensorSummaryV2) NO_GRAD(Timestamp)

    // State.
    NO_GRAD(Assign) NO_GRAD(AssignAdd) NO_GRAD(AssignSub) NO_GRAD(DeleteSessionTensor) NO_GRAD(GetSessionHandle)
    NO_GRAD(GetSessionHandleV2) NO_GRAD(GetSessionTensor) NO_GRAD(QueueClose) NO_GRAD(QueueDequeue)
    NO_GRAD(QueueDequeueMany) NO_GRAD(QueueDequeueUpTo) NO_GRAD(QueueEnqueue) NO_GRAD(QueueEnqueueMany)
    NO_GRAD(QueueSize) NO_GRAD(ScatterAdd) NO_GRAD(ScatterDiv) NO_GRAD(ScatterMul) NO_GRAD(ScatterNdAdd)
    NO_GRAD(ScatterNdSub) NO_GRAD(ScatterNdUpdate) NO_GRAD(ScatterSub) NO_GRAD(SdcaFprint) NO_GRAD(SdcaOptimizer)
    NO_GRAD(SdcaOptimizerV2) NO_GRAD(SdcaShrinkL1) NO_GRAD(Stack) NO_GRAD(StackClose) NO_GRAD(StackPop)
    NO_GRAD(StackPush) NO_GRAD(VarIsInitializedOp) NO_GRAD(VariableShape)

    // Making and measuring arrays and ragged tensors.
    NO_GRAD(RaggedRange) NO_GRAD(TensorArray) NO_GRAD(TensorArrayClose) NO_GRAD(TensorArrayCloseV2)
    NO_GRAD(TensorArrayCloseV3) NO_GRAD(TensorArrayGrad) NO_GRAD(TensorArrayGradV2) NO_GRAD(TensorArrayGradV3)
    NO_GRAD(TensorArrayGradWithShape) NO_GRAD(TensorArraySize) NO_GRAD(TensorArraySizeV2) NO_GRAD(TensorArraySizeV3)
    NO_GRAD(TensorArrayV2) NO_GRAD(TensorArrayV3)

    // A resource stands for its variable.
    PASS(ReadVariableOp)

    {"DynamicPartition", DynamicPartitionGrad},
    RULE(DynamicStitch, return StitchGrad(o, "DynamicStitch");)
    RULE(ParallelDynamicStitch, return StitchGrad(o, "ParallelDynamicStitch");)
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
