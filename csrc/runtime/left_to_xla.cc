#include "csrc/runtime/left_to_xla.h"

#include <vector>

#include "csrc/engine/library/references.h"
#include "tensorflow/core/framework/node_def.pb.h"

namespace symgrad {
namespace {

bool MustCompile(const google::protobuf::Map<std::string, tensorflow::AttrValue>& attrs) {
  const auto it = attrs.find("_XlaMustCompile");
  return it != attrs.end() && it->second.b();
}

}  // namespace

std::atomic<bool>& XlaLaunches() {
  static std::atomic<bool> launches{false};
  return launches;
}

std::set<std::string> CompiledFunctions(const tensorflow::Graph& graph,
                                        const tensorflow::FunctionLibraryDefinition& library) {
  std::set<std::string> compiled;
  std::vector<std::string> pending;
  const auto meet = [&](const std::string& name) {
    if (compiled.insert(name).second) pending.push_back(name);
  };
  for (const tensorflow::Node* node : graph.op_nodes())
    if (MustCompile(node->def().attr())) VisitReferences(node->def(), meet);
  for (const std::string& name : library.ListFunctionNames()) {
    const auto record = library.FindRecord(name);
    if (record == nullptr) continue;
    if (MustCompile(record->fdef().attr())) meet(name);
    for (const tensorflow::NodeDef& node : record->fdef().node_def())
      if (MustCompile(node.attr())) VisitReferences(node, meet);
  }
  while (!pending.empty()) {
    const auto record = library.FindRecord(pending.back());
    pending.pop_back();
    if (record == nullptr) continue;
    for (const tensorflow::NodeDef& node : record->fdef().node_def()) VisitReferences(node, meet);
  }
  return compiled;
}

}  // namespace symgrad
