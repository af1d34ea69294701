// Rules of ops that talk across devices: NCCL, TPU replicas, DTensor meshes, XLA clusters and shardings.
#include <algorithm>
#include <vector>

#include "csrc/rules/rule.h"

namespace symgrad {
namespace {

constexpr char kSumsOnly[] = "only its reduction \"sum\" has a gradient";

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
