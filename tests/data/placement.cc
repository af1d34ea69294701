// Where TensorFlow puts the nodes of functions when there is a GPU, and which tensors are copied between memories then:
// asked of the placer and of the kernels' registrations, with a device that computes nothing. Reads a
// FunctionDefLibrary from the file that is named first, and prints a line for each function.
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <tuple>

#include "tensorflow/core/common_runtime/device.h"
#include "tensorflow/core/common_runtime/device_set.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/common_runtime/function_def_utils.h"
#include "tensorflow/core/common_runtime/placer.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/memory_types.h"
#include "tensorflow/core/graph/graph.h"
#include "tensorflow/core/platform/load_library.h"
#include "tensorflow/core/public/version.h"

namespace tf = tensorflow;

class FakeDevice : public tf::Device {
 public:
  explicit FakeDevice(const tf::DeviceAttributes& attributes) : Device(nullptr, attributes) {}
  absl::Status Sync() override { return absl::OkStatus(); }
  tf::Allocator* GetAllocator(tf::AllocatorAttributes) override { return nullptr; }

  static std::unique_ptr<FakeDevice> Make(const std::string& type) {
    tf::DeviceAttributes attributes;
    attributes.set_name("/job:localhost/replica:0/task:0/device:" + type + ":0");
    attributes.set_device_type(type);
    return std::make_unique<FakeDevice>(attributes);
  }
};

bool OnHost(tf::DataType type) { return type == tf::DT_INT32 || type == tf::DT_STRING; }

struct Placement {
  absl::Status status;
  std::set<std::string> ops_on_cpu;
  std::vector<std::string> copies;  // from which op to which
};

Placement Place(const tf::FunctionDef& fdef, const tf::FunctionLibraryDefinition& library, const FakeDevice& cpu,
                const FakeDevice& gpu, const tf::DeviceSet& devices) {
  Placement result;
  std::unique_ptr<tf::FunctionBody> body;
  result.status = tf::FunctionDefToBodyHelper(fdef, tf::AttrSlice(), &library, &body);
  if (!result.status.ok()) return result;
  // As the runtime has arguments of a function that is called on a GPU: what it keeps on the host is there.
  for (size_t i = 0; i < body->arg_nodes.size(); ++i)
    body->arg_nodes[i]->set_assigned_device_name(OnHost(body->arg_types[i]) ? cpu.name() : gpu.name());
  for (size_t i = 0; i < body->ret_nodes.size(); ++i)
    body->ret_nodes[i]->set_assigned_device_name(OnHost(body->ret_types[i]) ? cpu.name() : gpu.name());
  result.status = tf::Placer(body->graph, "", &library, &devices, nullptr, true, false).Run();
  if (!result.status.ok()) return result;

  std::set<std::tuple<int, int, bool>> copied;  // which output of which node, to where
  const auto host = [&](const tf::Node* node, bool output, int slot) -> bool {
    if (node->assigned_device_name() == cpu.name()) return true;
    tf::MemoryTypeVector in, out;
    result.status.Update(tf::MemoryTypesForNode(&library, tf::DeviceType("GPU"), node->def(), &in, &out));
    const tf::MemoryTypeVector& types = output ? out : in;
    return slot < static_cast<int>(types.size()) && types[slot] == tf::HOST_MEMORY;
  };
  for (const tf::Node* node : body->graph->op_nodes()) {
    if (node->IsArg() || node->IsRetval()) continue;
    if (node->assigned_device_name() == cpu.name()) result.ops_on_cpu.insert(node->type_string());
  }
  for (const tf::Edge* edge : body->graph->edges()) {
    if (edge->IsControlEdge() || !edge->src()->IsOp() || !edge->dst()->IsOp()) continue;
    const bool from = host(edge->src(), true, edge->src_output()), to = host(edge->dst(), false, edge->dst_input());
    if (from != to && copied.insert({edge->src()->id(), edge->src_output(), to}).second)
      result.copies.push_back(edge->src()->type_string() + ">" + edge->dst()->type_string());
  }
  return result;
}

// In which memory a GPU has the arguments of a call: the op of tf_symgrad and one of TensorFlow's.
void PrintMemoryOfArguments(const std::string& op) {
  tf::NodeDef node;
  node.set_name("node");
  node.set_op(op);
  auto& attrs = *node.mutable_attr();
  for (const char* name : {"Tin", "Tout"})
    for (const tf::DataType type : {tf::DT_FLOAT, tf::DT_INT32, tf::DT_RESOURCE, tf::DT_VARIANT})
      attrs[name].mutable_list()->add_type(type);
  attrs["f"].mutable_func()->set_name("f");
  const tf::OpDef* def = nullptr;
  absl::Status status = tf::OpRegistry::Global()->LookUpOpDef(op, &def);
  if (status.ok()) tf::AddDefaultsToNodeDef(*def, &node);
  tf::MemoryTypeVector in, out;
  if (status.ok()) status = tf::MemoryTypesForNode(tf::OpRegistry::Global(), tf::DeviceType("GPU"), node, &in, &out);
  std::cout << "memory\t" << op << "\t" << status.message() << "\t";
  for (const tf::MemoryType type : in) std::cout << (type == tf::HOST_MEMORY ? "host " : "device ");
  std::cout << "\n";
}

int main(int argc, char** argv) {
  void* handle = nullptr;
  const absl::Status loaded = tf::internal::LoadDynamicLibrary(argv[2], &handle);
  if (!loaded.ok()) return std::cerr << loaded << "\n", 1;
  for (const char* op : {"TfSymgrad>SymbolicGradient", "PartitionedCall"}) PrintMemoryOfArguments(op);
  tf::FunctionDefLibrary functions;
  std::ifstream file(argv[1], std::ios::binary);
  if (!functions.ParseFromIstream(&file)) return 1;
  const tf::FunctionLibraryDefinition library(tf::OpRegistry::Global(), functions);
  const auto cpu = FakeDevice::Make("CPU"), gpu = FakeDevice::Make("GPU");
  tf::DeviceSet devices;
  devices.AddDevice(cpu.get());
  devices.AddDevice(gpu.get());
  devices.set_client_device(cpu.get());
  for (const tf::FunctionDef& fdef : functions.function()) {
    const Placement p = Place(fdef, library, *cpu, *gpu, devices);
    std::cout << "function\t" << fdef.signature().name() << "\t" << p.status.message() << "\t";
    for (const std::string& op : p.ops_on_cpu) std::cout << op << " ";
    std::cout << "\t";
    for (const std::string& copy : p.copies) std::cout << copy << " ";
    std::cout << "\n";
  }
  return argc == 3 ? 0 : 1;
}
