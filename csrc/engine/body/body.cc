#include "csrc/engine/body/body.h"

#include "tensorflow/core/framework/node_def_util.h"

namespace symgrad {

Body::Body() : arena_(0, tf::AttrSlice(arena_node_), arena_op_, std::vector<Shape>(), {}, {}, {}) {}

std::string Body::name(int node) const {
  const Node& n = nodes_[node];
  return n.is_arg() ? arg_names_.at(node) : n.def->name();
}

int Body::AddArg(std::string name, tf::DataType dtype) {
  const int id = AddNode(nullptr, nullptr, {}, {dtype}, -1);
  arg_names_[id] = std::move(name);
  args.push_back(id);
  return id;
}

int Body::AddNode(const tf::OpRegistrationData* op, const tf::NodeDef* def, absl::Span<const Port> inputs,
                  const tf::DataTypeVector& dtypes, int origin) {
  const int id = num_nodes();
  Node& n = nodes_.emplace_back();
  n.op = op;
  n.def = def;
  n.inputs.assign(inputs.begin(), inputs.end());
  n.origin = origin;
  ReplaceOutputs(id, dtypes);
  return id;
}

void Body::ReplaceOutputs(int node, const tf::DataTypeVector& dtypes) {
  const int kept = nodes_[node].num_outputs, old = nodes_[node].first_output;
  nodes_[node].first_output = num_outputs();
  nodes_[node].num_outputs = static_cast<int>(dtypes.size());
  for (int i = 0; i < static_cast<int>(dtypes.size()); ++i) {
    Output out = i < kept ? outputs_[old + i] : Output{dtypes[i], arena_.UnknownShape(), nullptr};
    outputs_.push_back(std::move(out));
  }
}

int64_t Body::dim(Port p, int axis) const {
  const int r = rank(p);
  if (r < 0 || axis < -r || axis >= r) return -1;
  return InferenceContext::Value(InferenceContext::DimKnownRank(output(p).shape, axis < 0 ? axis + r : axis));
}

bool Body::SameShape(Port a, Port b) const {
  const Shape s = output(a).shape, t = output(b).shape;
  if (s.SameHandle(t)) return true;
  const int r = InferenceContext::Rank(s);
  if (r < 0 || r != InferenceContext::Rank(t)) return false;
  for (int i = 0; i < r; ++i) {
    const Dim d = InferenceContext::DimKnownRank(s, i), e = InferenceContext::DimKnownRank(t, i);
    if (d.SameHandle(e)) continue;
    if (!InferenceContext::ValueKnown(d) || InferenceContext::Value(d) != InferenceContext::Value(e)) return false;
  }
  return true;
}

bool Body::FullyDefined(Port p) const {
  const int r = rank(p);
  for (int i = 0; i < r; ++i)
    if (dim(p, i) < 0) return false;
  return r >= 0;
}

Port Origin(const Body& body, Port p) {
  while (!body.node(p.node).is_arg() && body.node(p.node).type() == "Identity") p = body.node(p.node).inputs[0];
  return p;
}

}  // namespace symgrad
