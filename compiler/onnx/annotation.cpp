#include <algorithm>
#include <set>
#include <unordered_map>

#include <fmt/format.h>

#include "compiler/onnx/model_data.h"
#include "compiler/onnx/types.h"

// Reading the multi-device fields of IR version 11. onnx.checker looks at none of them.

namespace mpc::onnx_io {
namespace {

using Configurations = std::map<std::string, const pb::DeviceConfigurationProto*>;

Configurations check_configurations(const pb::ModelProto& proto) {
  constexpr int kMostDevices = 1 << 20;
  Configurations configurations;
  for (const auto& configuration : proto.configuration()) {
    const std::string where = fmt::format("configuration \"{}\"", configuration.name());
    if (configuration.name().empty()) throw Error(ErrorId::M026, "model", "a device configuration has no name");
    if (!configurations.emplace(configuration.name(), &configuration).second)
      throw Error(ErrorId::M026, where, "is there twice");
    if (configuration.num_devices() < 1 || configuration.num_devices() > kMostDevices)
      throw Error(ErrorId::M026, where, fmt::format("has {} devices", configuration.num_devices()));
    if (configuration.device_size() != 0 && configuration.device_size() != configuration.num_devices()) {
      throw Error(ErrorId::M026, where,
                  fmt::format("names {} of {} devices", configuration.device_size(), configuration.num_devices()));
    }
  }
  return configurations;
}

class NodeChecker {
 public:
  NodeChecker(const FlatNode& flat, const std::unordered_map<std::string, int>& ranks)
      : node_(*flat.node), where_("node \"" + flat.name + "\""), ranks_(ranks) {}

  void check(const Configurations& configurations) const {
    std::set<std::string> seen;
    for (const auto& entry : node_.device_configurations()) {
      const auto configuration = configurations.find(entry.configuration_id());
      if (configuration == configurations.end())
        fail(fmt::format("refers to the configuration '{}', which is not there",
                         escaped(entry.configuration_id(), 100)));
      if (!seen.insert(entry.configuration_id()).second)
        fail(fmt::format("has two entries for the configuration '{}'", escaped(entry.configuration_id(), 100)));
      const int devices = configuration->second->num_devices();
      // Stages counted from 1 are accepted, so the last one may be the number of devices.
      if (entry.has_pipeline_stage() && (entry.pipeline_stage() < 0 || entry.pipeline_stage() > devices))
        fail(fmt::format("is in stage {} of {} devices", entry.pipeline_stage(), devices));
      for (const auto& specification : entry.sharding_spec()) check(specification, devices);
    }
  }

 private:
  [[noreturn]] void fail(std::string message) const { throw Error(ErrorId::M026, where_, std::move(message)); }

  void check(const pb::ShardingSpecProto& specification, int devices) const {
    const std::string& tensor = specification.tensor_name();
    const auto is_it = [&](const std::string& name) { return name == tensor; };
    const bool is_on_node = std::any_of(node_.input().begin(), node_.input().end(), is_it) ||
                            std::any_of(node_.output().begin(), node_.output().end(), is_it);
    if (tensor.empty() || !is_on_node)
      fail(fmt::format("has a sharding of '{}', which is neither its input nor its output", escaped(tensor, 100)));
    std::set<int64_t> groups;
    for (const auto& group : specification.index_to_device_group_map()) {
      if (!groups.insert(group.key()).second) fail(fmt::format("device group {} is there twice", group.key()));
      for (const int64_t device : group.value()) check_device(device, devices);
    }
    std::set<int64_t> placed;
    for (const int64_t device : specification.device()) {
      if (!groups.contains(device)) check_device(device, devices);
      if (!placed.insert(device).second) fail(fmt::format("device {} is there twice", device));
    }
    std::set<int64_t> axes;
    for (const auto& dim : specification.sharded_dim()) {
      const auto rank = ranks_.find(tensor);
      const int64_t limit = rank == ranks_.end() ? kMaxRank : rank->second;
      if (dim.axis() < -limit || dim.axis() >= limit)
        fail(fmt::format("shards axis {} of '{}', which has rank {}", dim.axis(), escaped(tensor, 100), limit));
      if (!axes.insert(dim.axis() < 0 && rank != ranks_.end() ? dim.axis() + limit : dim.axis()).second)
        fail(fmt::format("shards axis {} twice", dim.axis()));
      for (const auto& part : dim.simple_sharding()) {
        if (part.num_shards() < 1) fail(fmt::format("shards axis {} into {} parts", dim.axis(), part.num_shards()));
      }
    }
  }

  void check_device(int64_t device, int devices) const {
    if (device < 0 || device >= devices) fail(fmt::format("is on device {} of {}", device, devices));
  }

  const pb::NodeProto& node_;
  std::string where_;
  const std::unordered_map<std::string, int>& ranks_;
};

std::unordered_map<std::string, int> declared_ranks(const pb::GraphProto& graph) {
  std::unordered_map<std::string, int> ranks;
  for (const auto* values : {&graph.input(), &graph.output(), &graph.value_info()}) {
    for (const auto& value : *values) {
      if (value.type().tensor_type().has_shape()) ranks[value.name()] = value.type().tensor_type().shape().dim_size();
    }
  }
  for (const auto& tensor : graph.initializer()) ranks[tensor.name()] = tensor.dims_size();
  return ranks;
}

/// The stage a node states for a configuration, or nothing.
std::optional<int> stated_stage(const pb::NodeProto& node, const std::string& configuration) {
  for (const auto& entry : node.device_configurations()) {
    if (entry.configuration_id() != configuration) continue;
    if (entry.has_pipeline_stage()) return entry.pipeline_stage();
  }
  return std::nullopt;
}

/// The one device that a node's results are placed on, or nothing.
std::optional<int> placed_device(const pb::NodeProto& node, const std::string& configuration) {
  for (const auto& entry : node.device_configurations()) {
    if (entry.configuration_id() != configuration) continue;
    for (const auto& specification : entry.sharding_spec()) {
      const bool is_placement = specification.device_size() == 1 && specification.sharded_dim_size() == 0 &&
                                specification.index_to_device_group_map_size() == 0;
      if (is_placement &&
          std::find(node.output().begin(), node.output().end(), specification.tensor_name()) != node.output().end())
        return static_cast<int>(specification.device(0));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Model::Annotation> Model::annotation() const {
  const Configurations configurations = check_configurations(data_->proto);
  const auto ranks = declared_ranks(data_->proto.graph());
  for (const FlatNode& flat : data_->nodes) NodeChecker(flat, ranks).check(configurations);
  if (configurations.empty()) return std::nullopt;

  const pb::DeviceConfigurationProto& configuration = data_->proto.configuration(0);
  Annotation annotation{configuration.name(), {configuration.device().begin(), configuration.device().end()}, {}};
  for (int i = configuration.device_size(); i < configuration.num_devices(); ++i)
    annotation.device_names.push_back(fmt::format("device:{}", i));
  int lowest = configuration.num_devices();
  int highest = 0;
  for (const FlatNode& flat : data_->nodes) {
    const auto stage = stated_stage(*flat.node, configuration.name());
    lowest = std::min(lowest, stage.value_or(lowest));
    highest = std::max(highest, stage.value_or(highest));
  }
  const bool counts_from_one = highest == configuration.num_devices();
  if (counts_from_one && lowest == 0)
    throw Error(ErrorId::M026, fmt::format("configuration \"{}\"", configuration.name()),
                fmt::format("has stages 0 to {} for {} devices", highest, configuration.num_devices()));

  std::unordered_map<std::string_view, int> stage_of_value;
  std::map<std::string, int> stages;
  for (const FlatNode& flat : data_->nodes) {
    std::optional<int> stage = placed_device(*flat.node, configuration.name());
    if (const auto stated = stated_stage(*flat.node, configuration.name())) stage = *stated - (counts_from_one ? 1 : 0);
    for (const std::string& input : flat.node->input()) {
      if (const auto it = stage_of_value.find(input); !stage && it != stage_of_value.end()) stage = it->second;
    }
    if (!stage) continue;
    stages[flat.name] = *stage;
    for (const std::string& output : flat.node->output()) stage_of_value[output] = *stage;
  }
  // What is left reads nothing that has a stage: it runs with its first reader.
  std::unordered_map<std::string_view, int> stage_of_reader;
  for (auto it = data_->nodes.rbegin(); it != data_->nodes.rend(); ++it) {
    auto stage = stages.find(it->name);
    if (stage == stages.end()) {
      int of_reader = 0;
      for (const std::string& output : it->node->output()) {
        if (const auto reader = stage_of_reader.find(output); reader != stage_of_reader.end())
          of_reader = reader->second;
      }
      stage = stages.emplace(it->name, of_reader).first;
    }
    for (const std::string& input : it->node->input()) stage_of_reader[input] = stage->second;
  }
  annotation.stage_of_node = std::move(stages);
  return annotation;
}

}  // namespace mpc::onnx_io
