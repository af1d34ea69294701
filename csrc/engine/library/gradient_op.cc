#include "csrc/engine/library/gradient_op.h"

#include <algorithm>

#include "csrc/engine/facts/known_inputs.h"

namespace symgrad {

tf::NameAttrList WithVariableDtypes(tf::NameAttrList f, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout,
                                    const std::vector<bool>& wrt) {
  if (std::find(tin.begin(), tin.end(), tf::DT_RESOURCE) == tin.end()) return f;
  auto* dtypes = (*f.mutable_attr())[kInputDtypes].mutable_list();
  const size_t inputs = std::min(tin.size(), wrt.empty() ? tout.size() : wrt.size());
  for (size_t i = 0, k = 0; i < inputs; ++i) {
    const bool wanted = (wrt.empty() || wrt[i]) && k < tout.size();
    const tf::DataType gradient = wanted ? tout[k++] : tf::DT_INVALID;
    const tf::DataType dtype = tin[i] == tf::DT_RESOURCE ? gradient : tin[i];
    if (const int k = static_cast<int>(i); k >= dtypes->type_size()) dtypes->add_type(dtype);
    else if (dtypes->type(k) == tf::DT_INVALID) dtypes->set_type(k, dtype);
  }
  return f;
}

Asked AskedBy(const tf::NodeDef& node, const tf::DataTypeVector& tin, const tf::DataTypeVector& tout) {
  Asked asked;
  const auto& attrs = node.attr();
  if (const auto it = attrs.find("wrt"); it != attrs.end())
    asked.wrt.assign(it->second.list().b().begin(), it->second.list().b().end());
  if (const auto it = attrs.find("values"); it != attrs.end()) asked.values = it->second.b();
  asked.f = WithVariableDtypes(attrs.at("f").func(), tin, tout, asked.wrt);
  if (const auto it = attrs.find("checkpoint"); it != attrs.end() && !it->second.s().empty())
    (*asked.f.mutable_attr())[kCheckpoint].set_s(it->second.s());
  return asked;
}

}  // namespace symgrad
