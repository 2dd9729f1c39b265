#include <algorithm>
#include <filesystem>
#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <onnx/defs/schema.h>

#include "compiler/onnx/model_data.h"
#include "compiler/onnx/types.h"
#include "compiler/onnx/write_model.h"

// Writing the model back: with other weights, or with the standard multi-device annotations.

namespace mpc::onnx_io {
namespace {

constexpr int64_t kMultiDeviceIrVersion = 11;

/// Puts initializers in the place of the nodes that make generated parameters.
void replace_generated(const Model::Data& data, pb::GraphProto& graph, const std::set<std::string>& replaced) {
  auto& nodes = *graph.mutable_node();
  for (const std::string& name : data.generated_names) {
    if (!replaced.contains(name)) continue;
    const auto makes_it = [&](const pb::NodeProto& node) { return node.output_size() == 1 && node.output(0) == name; };
    const auto node = std::find_if(nodes.begin(), nodes.end(), makes_it);
    if (node == nodes.end())
      throw Error(ErrorId::M046, "weight \"" + name + "\"",
                  "is made inside a function of the model, where a weight cannot be written");
    nodes.erase(node);
    const TensorContent& content = *data.weights.find(name);
    auto& tensor = *graph.add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(to_onnx_type(content.dtype));
    for (const int64_t dim : content.shape) tensor.add_dims(dim);
  }
}

/// Sparse initializers that get other content are dense from then on.
void replace_sparse(const Model::Data& data, pb::GraphProto& graph, const std::set<std::string>& replaced) {
  auto& sparse = *graph.mutable_sparse_initializer();
  for (auto it = sparse.begin(); it != sparse.end();) {
    const std::string name = it->values().name();
    if (!replaced.contains(name)) {
      ++it;
      continue;
    }
    it = sparse.erase(it);
    const TensorContent& content = *data.weights.find(name);
    auto& tensor = *graph.add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(to_onnx_type(content.dtype));
    for (const int64_t dim : content.shape) tensor.add_dims(dim);
  }
}

/// The model with its local functions inlined. Their nodes must mean the same in the model's opset.
void inline_functions(const Model::Data& data, pb::ModelProto& proto) {
  const Opsets& opsets = data.opsets.back();
  google::protobuf::RepeatedPtrField<pb::NodeProto> nodes;
  Opsets all = opsets;
  for (const FlatNode& flat : data.nodes) {
    const std::string domain(canonical_domain(flat.node->domain()));
    const int64_t version = flat.opsets->at(domain);
    const int64_t target = all.emplace(domain, version).first->second;
    const auto* written = pb::OpSchemaRegistry::Schema(flat.node->op_type(), static_cast<int>(version), domain);
    const auto* read = pb::OpSchemaRegistry::Schema(flat.node->op_type(), static_cast<int>(target), domain);
    if (written != read) {
      throw Error(ErrorId::M046, "node \"" + flat.name + "\"",
                  fmt::format("comes from a function of opset {}, in which {} differs from the model's opset {}",
                              version, flat.node->op_type(), target));
    }
    *nodes.Add() = *flat.node;
    nodes.rbegin()->set_name(flat.name);
  }
  proto.mutable_graph()->mutable_node()->Swap(&nodes);
  proto.clear_functions();
  proto.clear_opset_import();
  for (const auto& [domain, version] : all) {
    auto& import = *proto.add_opset_import();
    import.set_domain(domain);
    import.set_version(version);
  }
}

/// Stages of the nodes of `graph`. A node that became several gets the last of their stages; one that became none
/// (constants, shape arithmetic) runs with its first reader, else with what it reads.
std::vector<int> stages_of(const NodeList& nodes, const std::map<std::string, int>& stage_of_node) {
  std::unordered_map<std::string_view, int> producers;
  for (int i = 0; i < nodes.size(); ++i) {
    for (const std::string& output : nodes[i].output()) producers.emplace(output, i);
  }
  std::vector<int> stages(static_cast<size_t>(nodes.size()), -1);
  for (int i = 0; i < nodes.size(); ++i) {
    int& stage = stages[static_cast<size_t>(i)];
    if (const auto exact = stage_of_node.find(nodes[i].name()); exact != stage_of_node.end()) stage = exact->second;
    const std::string prefix = nodes[i].name() + "/";
    const bool has_exact = stage >= 0;
    for (auto it = stage_of_node.lower_bound(prefix);
         !has_exact && it != stage_of_node.end() && it->first.starts_with(prefix); ++it) {
      stage = std::max(stage, it->second);
    }
  }
  const std::vector<int> order = topological_order(nodes, "graph");
  const auto producer_of = [&](const std::string& name) {
    const auto it = producers.find(name);
    return name.empty() || it == producers.end() ? -1 : it->second;
  };
  std::vector<int> of_readers(stages.size(), -1);
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    const auto i = static_cast<size_t>(*it);
    if (stages[i] < 0) stages[i] = of_readers[i];
    for (const std::string& input : nodes[*it].input()) {
      const int producer = producer_of(input);
      if (producer < 0 || stages[i] < 0) continue;
      int& seen = of_readers[static_cast<size_t>(producer)];
      seen = seen < 0 ? stages[i] : std::min(seen, stages[i]);
    }
  }
  for (const int i : order) {
    int& stage = stages[static_cast<size_t>(i)];
    for (const std::string& input : nodes[i].input()) {
      const int producer = producer_of(input);
      if (stage < 0 && producer >= 0) stage = stages[static_cast<size_t>(producer)];
    }
    stage = std::max(stage, 0);
  }
  return stages;
}

void annotate(pb::NodeProto& node, const std::string& configuration, int stage) {
  auto& configurations = *node.mutable_device_configurations();
  for (auto it = configurations.begin(); it != configurations.end();)
    it = it->configuration_id() == configuration ? configurations.erase(it) : it + 1;
  auto& added = *configurations.Add();
  added.set_configuration_id(configuration);
  added.set_pipeline_stage(stage);
  for (const std::string& output : node.output()) {
    if (output.empty()) continue;
    auto& specification = *added.add_sharding_spec();
    specification.set_tensor_name(output);
    specification.add_device(stage);
  }
}

}  // namespace

void Model::save(const std::string& path, const std::vector<std::string>& replaced, const WeightSource& replacements,
                 int64_t inline_bytes) const {
  const std::set<std::string> names(replaced.begin(), replaced.end());
  for (const std::string& name : names) {
    if (data_->weights.find(name) == nullptr)
      throw Error(ErrorId::M023, "weight \"" + name + "\"", "is not in the model");
  }
  pb::ModelProto proto = data_->proto;
  replace_generated(*data_, *proto.mutable_graph(), names);
  replace_sparse(*data_, *proto.mutable_graph(), names);
  write_model(
      *data_, proto, path, inline_bytes, [&](const std::string& name) { return names.contains(name); },
      [&](const std::string& name, int64_t offset, std::span<std::byte> out) { replacements.read(name, offset, out); });
}

void Model::save_annotated(const std::string& path, const Annotation& annotation) const {
  const int devices = static_cast<int>(annotation.device_names.size());
  for (const auto& [node, stage] : annotation.stage_of_node) {
    MPC_CHECK(stage >= 0 && stage < devices, "the stage of '" + node + "' is a device");
  }
  pb::ModelProto proto = data_->proto;
  if (proto.functions_size() > 0) {
    inline_functions(*data_, proto);
  } else {
    std::unordered_map<const pb::NodeProto*, const std::string*> names;
    for (const FlatNode& flat : data_->nodes) names[flat.node] = &flat.name;
    for (int i = 0; i < proto.graph().node_size(); ++i)
      proto.mutable_graph()->mutable_node(i)->set_name(*names.at(&data_->proto.graph().node(i)));
  }
  const std::vector<int> stages = stages_of(proto.graph().node(), annotation.stage_of_node);
  for (int i = 0; i < proto.graph().node_size(); ++i) {
    annotate(*proto.mutable_graph()->mutable_node(i), annotation.configuration_name, stages[static_cast<size_t>(i)]);
  }
  auto& configurations = *proto.mutable_configuration();
  for (auto it = configurations.begin(); it != configurations.end();)
    it = it->name() == annotation.configuration_name ? configurations.erase(it) : it + 1;
  auto& configuration = *configurations.Add();
  configuration.set_name(annotation.configuration_name);
  configuration.set_num_devices(devices);
  for (const std::string& device : annotation.device_names) configuration.add_device(device);
  proto.set_ir_version(std::max(proto.ir_version(), kMultiDeviceIrVersion));
  write_model(
      *data_, proto, path, kMaxInlineBytes, [](const std::string&) { return false; },
      [](const std::string&, int64_t, std::span<std::byte>) {});
}

}  // namespace mpc::onnx_io
