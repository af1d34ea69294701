// Rules of ops that talk across devices: collectives, NCCL, TPU replicas, DTensor meshes, XLA clusters and shardings.
#include <algorithm>
#include <vector>

#include "csrc/rules/compiled.h"
#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

constexpr char kSumsOnly[] = "only its reduction \"sum\" has a gradient";
constexpr char kAddsOnly[] = "only its merge_op \"Add\" has a gradient";
constexpr char kNoKey[] = "it needs an instance key of its own, which a graph can't give: differentiate a function";

// Those who take part in a collective op find each other by the keys of group and instance, and mix up what two ops of
// one key send at a time. So a gradient has an instance of its own, and each derivative another one; a key is the same
// for all who take part, as it is made of the forward op's alone: key * a + (n + 1) * b modulo a prime, as
// pseudorandom numbers are.
constexpr int64_t kFactor = 48271, kStep = 69621, kPrime = 2147483647;

int64_t GradientKey(int64_t key, int64_t n) {
  const int64_t residue = (key * kFactor + (n + 1) * kStep) % kPrime;
  return residue < 0 ? residue + kPrime : residue;
}

V GradientKey(const V& key, int64_t n) {
  if (const auto k = known(key); k && k->size() == 1) return constant(V(GradientKey((*k)[0], n)), DType::kInt32);
  const V mixed = cast(key, DType::kInt64) * kFactor + (n + 1) * kStep;
  return cast(op("FloorMod", mixed, constant(V(kPrime), DType::kInt64)), DType::kInt32);
}

// An op of the second kind, with the forward op's group.
V InGroup(const Op& o, const char* type, const V& x, const V& key) {
  return o.like(type, x, IN(group_size), IN(group_key), key, list(INS(ordering_token)));
}

Grads AllReduceGrad(const Op& o) {
  if (o.text("merge_op") != "Add") return o.unsupported(kAddsOnly);
  const int64_t n = CountDerivative(o);
  if (n < 0) return o.unsupported(kNoKey);
  if (o.op_type() == "CollectiveReduceV2")
    return {InGroup(o, "CollectiveReduceV2", o.dy(), GradientKey(IN(instance_key), n))};
  return {o.like("CollectiveReduce", o.dy(), Attr("instance_key", GradientKey(o.integer("instance_key"), n)))};
}

Grads AllToAllGrad(const Op& o) {
  const int64_t n = CountDerivative(o);
  if (n < 0) return o.unsupported(kNoKey);
  return {InGroup(o, "CollectiveAllToAllV2", o.dy(), GradientKey(IN(instance_key), n))};
}

// The sum of all cotangents of one's own part: each sends the others theirs.
Grads AllGatherGrad(const Op& o) {
  const bool attrs = o.op_type() == "CollectiveGather";
  const int64_t n = CountDerivative(o);
  if (n < 0) return o.unsupported(kNoKey);
  const auto scalar = [&](const char* name) { return constant(V(o.integer(name)), DType::kInt32); };
  const V x = IN(input), devices = attrs ? scalar("group_size") : IN(group_size);
  const V parts = reshape(o.dy(), concat({expand_dims(devices, 0), shape(x)}, 0));
  const V mine = attrs ? o.like("CollectiveAllToAllV2", parts, devices, scalar("group_key"),
                                GradientKey(scalar("instance_key"), n), list({}))
                       : InGroup(o, "CollectiveAllToAllV2", parts, GradientKey(IN(instance_key), n));
  return {sum(mine, 0)};
}

Grads ReduceScatterGrad(const Op& o) {
  if (o.text("merge_op") != "Add") return o.unsupported(kAddsOnly);
  const int64_t n = CountDerivative(o);
  if (n < 0) return o.unsupported(kNoKey);
  const V all = InGroup(o, "CollectiveGatherV2", o.dy(), GradientKey(IN(instance_key), n));
  return {o.text("final_op") == "Div" ? all / cast_like(IN(group_size), all) : all};
}

// From the shape of a shard to that of the whole, which this attr says and which must be known when building.
Grads FullToShardGrad(const Op& o) {
  std::vector<int64_t> full;
  const V x = IN(input);
  for (int i = 0; i < x.rank(); ++i) full.push_back(x.dim(i));
  if (x.rank() < 0 || std::count(full.begin(), full.end(), -1) > 0)
    return o.unsupported("the static shape of its input must be known");
  return {o.like("XlaSpmdShardToFullShape", o.dy(), Attr("full_shape", full))};
}

// clang-format off
constexpr Rule kRules[] = {
    NO_GRAD(TPUReplicatedInput)

    {"CollectiveReduce", AllReduceGrad}, {"CollectiveReduceV2", AllReduceGrad},
    {"CollectiveGather", AllGatherGrad}, {"CollectiveGatherV2", AllGatherGrad},
    {"CollectiveAllToAllV2", AllToAllGrad},
    {"CollectiveReduceScatterV2", ReduceScatterGrad},

    // Each device's output is the sum of all inputs, so that each input's cotangent is the sum of all outputs'.
    RULE(NcclAllReduce, if (o.text("reduction") != "sum") return o.unsupported(kSumsOnly);
         return {o.like("NcclAllReduce", dy, Attr("shared_name", o.text("shared_name") + "_grad"))};)
    // Copies between devices are the runtime's: those of a sum's cotangent, and those that add up to a broadcast's.
    RULE(NcclReduce, if (o.text("reduction") != "sum") return o.unsupported(kSumsOnly);
         return Grads(o.num_in(), dy);)
    PASS(NcclBroadcast)

    // Across TPU replicas, the adjoint sends everything back where it came from.
    RULE(AllToAll, const int64_t split = o.integer("split_dimension"), concat = o.integer("concat_dimension");
         return {o.like("AllToAll", dy, IN(group_assignment), Attr("concat_dimension", split),
                        Attr("split_dimension", concat))};)
    RULE(CollectivePermute, const V reversed = op("StridedSlice", IN(source_target_pairs), ints({0, 0}), ints({0, 0}),
                                                  ints({1, -1}), Attr("begin_mask", 3), Attr("end_mask", 3));
         return {op("CollectivePermute", dy, reversed)};)
    SELF_ADJOINT(CrossReplicaSum)
    RULE(TPUEmbeddingActivations,
         return o.unsupported("the cotangent of a TPU embedding goes to SendTPUEmbeddingGradients, not to an input: "
                              "differentiate with respect to this op's output");)

    // Cotangents have the layout, mesh or sharding of their primal.
    UNARY(Relayout, op("RelayoutLike", dy, x))
    ONLY(RelayoutLike, input, op("RelayoutLike", dy, x))   // of the second input only the layout is used
    UNARY(CopyToMesh, op("CopyToMeshGrad", dy, x))
    ONLY(CopyToMeshGrad, input, op("CopyToMeshGrad", dy, x))
    SELF_ADJOINT(XlaSharding)
    {"XlaSpmdFullToShardShape", FullToShardGrad},
    UNARY(XlaSpmdShardToFullShape, o.like("XlaSpmdFullToShardShape", dy))
    PASS(XlaClusterOutput)
};
// clang-format on
SYMGRAD_REGISTER(kRules)

}  // namespace
}  // namespace symgrad
