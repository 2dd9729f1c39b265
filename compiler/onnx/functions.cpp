#include "compiler/onnx/functions.h"

#include <unordered_map>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/onnx/check.h"
#include "compiler/onnx/types.h"

namespace mpc::onnx_io {
namespace {

using Names = std::unordered_map<std::string, std::string>;

class Expander {
 public:
  Expander(const pb::NodeProto& call, const pb::FunctionProto& function) : call_(call), function_(function) {}

  /// Replaces references to the function's attributes and renames values, in a node and in the graphs inside it.
  void rewrite(pb::NodeProto& node, const Names& names) const {
    for (std::string& input : *node.mutable_input()) rename(input, names);
    for (std::string& output : *node.mutable_output()) rename(output, names);
    for (auto& configuration : *node.mutable_device_configurations()) {
      for (auto& specification : *configuration.mutable_sharding_spec())
        rename(*specification.mutable_tensor_name(), names);
    }
    google::protobuf::RepeatedPtrField<pb::AttributeProto> attributes;
    attributes.Swap(node.mutable_attribute());
    for (auto& attribute : attributes) {
      if (!attribute.ref_attr_name().empty()) {
        bind(attribute, *node.mutable_attribute(), describe(node));
        continue;
      }
      if (attribute.has_g()) rewrite(*attribute.mutable_g(), names);
      for (auto& inner : *attribute.mutable_graphs()) rewrite(inner, names);
      node.add_attribute()->Swap(&attribute);
    }
  }

 private:
  static void rename(std::string& text, const Names& names) {
    if (const auto it = names.find(text); it != names.end()) text = it->second;
  }

  void rewrite(pb::GraphProto& graph, Names names) const {
    // What the inner graph defines hides the function's values of the same name.
    for (const auto& input : graph.input()) names.erase(input.name());
    for (const auto& tensor : graph.initializer()) names.erase(tensor.name());
    for (const auto& node : graph.node()) {
      for (const std::string& output : node.output()) names.erase(output);
    }
    for (auto& node : *graph.mutable_node()) rewrite(node, names);
    for (auto& output : *graph.mutable_output()) rename(*output.mutable_name(), names);
  }

  /// The caller's attribute, else the default; an attribute that neither gives stays absent.
  void bind(const pb::AttributeProto& use, google::protobuf::RepeatedPtrField<pb::AttributeProto>& out,
            const std::string& where) const {
    const auto find = [&](const auto& attributes) -> const pb::AttributeProto* {
      for (const auto& attribute : attributes) {
        if (attribute.name() == use.ref_attr_name()) return &attribute;
      }
      return nullptr;
    };
    const pb::AttributeProto* given = find(call_.attribute());
    if (given == nullptr) given = find(function_.attribute_proto());
    if (given == nullptr) return;
    if (given->type() != use.type()) {
      throw Error(ErrorId::M025, describe(call_),
                  fmt::format("attribute '{}' has another type than {} in the function needs",
                              escaped(use.ref_attr_name(), 200), where));
    }
    *out.Add() = *given;
    out.rbegin()->set_name(use.name());
  }

  const pb::NodeProto& call_;
  const pb::FunctionProto& function_;
};

}  // namespace

std::vector<pb::NodeProto> expand_call(const pb::NodeProto& call, const pb::FunctionProto& function,
                                       const std::string& prefix, const NameMaker& unique_name) {
  Names names;
  for (int i = 0; i < function.input_size(); ++i)
    names[function.input(i)] = i < call.input_size() ? call.input(i) : std::string();
  std::vector<std::pair<std::string, std::string>> passed_through;  // parameter -> the caller's name of the output
  for (int i = 0; i < function.output_size(); ++i) {
    const std::string& formal = function.output(i);
    const std::string actual = i < call.output_size() ? call.output(i) : std::string();
    if (actual.empty()) continue;
    const bool is_new = names.emplace(formal, actual).second;
    if (!is_new) passed_through.emplace_back(names[formal], actual);
  }
  for (const auto& node : function.node()) {
    for (const std::string& output : node.output()) {
      if (!output.empty() && !names.contains(output)) names[output] = unique_name(prefix + "/" + output);
    }
  }
  const Expander expander(call, function);
  std::vector<pb::NodeProto> nodes;
  for (const int position : topological_order(function.node(), "function \"" + function.name() + "\"")) {
    pb::NodeProto node = function.node(position);
    node.set_name(prefix + "/" + name_of(node));
    expander.rewrite(node, names);
    if (node.device_configurations_size() == 0) {  // it runs where the call runs
      for (const auto& configuration : call.device_configurations()) {
        auto& inherited = *node.add_device_configurations();
        inherited.set_configuration_id(configuration.configuration_id());
        if (configuration.has_pipeline_stage()) inherited.set_pipeline_stage(configuration.pipeline_stage());
      }
    }
    nodes.push_back(std::move(node));
  }
  for (const auto& [from, to] : passed_through) {
    pb::NodeProto identity;
    identity.set_name(prefix + "/" + to);
    identity.set_op_type("Identity");
    identity.add_input(from);
    identity.add_output(to);
    nodes.push_back(std::move(identity));
  }
  return nodes;
}

}  // namespace mpc::onnx_io
