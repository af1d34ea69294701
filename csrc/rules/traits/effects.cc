// What ops do besides computing, where that is not what TensorFlow's flag "stateful" would make one think: an op that
// is stateful is otherwise taken to read and write.
#include "csrc/rules/traits/trait.h"

namespace symgrad {
namespace {

constexpr Trait kTraits[] = {
    effects("Assert", kChecks),
    effects("CheckNumerics", kChecks),
    effects("CheckNumericsV2", kChecks),
    effects("EnsureShape", kChecks),

    // What only looks at a variable or a table.
    effects("LookupTableExportV2", kReads),
    effects("LookupTableFindV2", kReads),
    effects("LookupTableSizeV2", kReads),
    effects("ReadVariableOp", kReads),
    effects("ResourceGather", kReads),
    effects("ResourceGatherNd", kReads),
    effects("VarIsInitializedOp", kReads),
    effects("VariableShape", kNoEffects),  // shapes stay

    // What the world sees.
    effects("AudioSummary", kShows),
    effects("AudioSummaryV2", kShows),
    effects("HistogramSummary", kShows),
    effects("ImageSummary", kShows),
    effects("Print", kShows),
    effects("PrintV2", kShows),
    effects("ScalarSummary", kShows),
    effects("TensorSummary", kShows),
    effects("TensorSummaryV2", kShows),

    // Collectives are functions of their inputs, which several processes compute.
    effects("CollectiveAllToAllV2", kNoEffects),
    effects("CollectiveAllToAllV3", kNoEffects),
    effects("CollectiveAssignGroupV2", kNoEffects),
    effects("CollectiveBcastRecv", kNoEffects),
    effects("CollectiveBcastRecvV2", kNoEffects),
    effects("CollectiveBcastSend", kNoEffects),
    effects("CollectiveBcastSendV2", kNoEffects),
    effects("CollectiveGather", kNoEffects),
    effects("CollectiveGatherV2", kNoEffects),
    effects("CollectiveInitializeCommunicator", kNoEffects),
    effects("CollectivePermute", kNoEffects),
    effects("CollectiveReduce", kNoEffects),
    effects("CollectiveReduceScatterV2", kNoEffects),
    effects("CollectiveReduceV2", kNoEffects),
    effects("CollectiveReduceV3", kNoEffects),
    effects("NcclAllReduce", kNoEffects),
    effects("NcclBroadcast", kNoEffects),
    effects("NcclReduce", kNoEffects),
};
SYMGRAD_REGISTER_TRAITS(kTraits)

}  // namespace
}  // namespace symgrad
