#include "passes/offload.h"

#include <algorithm>
#include <string>
#include <utility>

#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "compiler/ir/rewriter.h"
#include "compiler/plan/host_memory.h"

namespace mpc {
namespace {

// An enqueued copy and the event that somebody waits for.
constexpr double kCopyLatency = 10e-6;

bool is_gradient(const Node& node) {
  return node.op != OpKind::Transfer && (node.phase == Phase::input_grad || node.phase == Phase::weight_grad);
}

/// A name that no device has.
std::string host_name(const Cluster& cluster) {
  std::string name = "host";
  while (std::ranges::any_of(cluster.devices, [&](const Device& device) { return device.name == name; })) name += "'";
  return name;
}

/// What the value is another shape of, on its device and in the forward pass: one copy of the bytes serves both.
ValueId viewed(const Graph& graph, ValueId id) {
  const Value& value = graph.value(id);
  if (value.kind != ValueKind::node) return {};
  const Node& node = graph.node(value.producer);
  const bool is_view = node.op == OpKind::Reshape && node.phase == Phase::forward && node.rate != Rate::per_step;
  if (!is_view || graph.value(node.inputs[0]).kind != ValueKind::node) return {};
  return graph.node(graph.value(node.inputs[0]).producer).device == node.device ? node.inputs[0] : ValueId();
}

class Offloader {
 public:
  Offloader(const Graph& graph, const std::vector<ValueId>& values, DeviceId host)
      : graph_(graph),
        rewriter_(graph),
        host_(host),
        is_offloaded_(static_cast<size_t>(graph.value_count()), false),
        fetched_(static_cast<size_t>(graph.value_count())) {
    for (const ValueId id : values) is_offloaded_[id.index()] = true;
  }

  Graph run() {
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& old = graph_.node(NodeId(i));
      std::vector<ValueId> fetched(old.inputs.size());
      for (size_t k = 0; k < old.inputs.size() && is_gradient(old); ++k) {
        if (old.inputs[k].is_valid()) fetched[k] = fetched_for(old.inputs[k]);
      }
      const NodeId copied = rewriter_.copy(NodeId(i));
      for (size_t k = 0; k < fetched.size(); ++k) {
        if (fetched[k].is_valid()) rewriter_.graph().node(copied).inputs[k] = fetched[k];
      }
      for (const ValueId output : old.outputs) {
        if (output.is_valid() && is_offloaded_[output.index()]) add_transfers(output, NodeId(i));
      }
    }
    return rewriter_.finish(Stage::local);
  }

 private:
  /// What comes back of a value, or of what it is a view of; nothing where neither waits in host memory.
  ValueId fetched_for(ValueId id) {
    ValueId& known = fetched_[id.index()];
    if (known.is_valid() || is_offloaded_[id.index()]) return known;
    const ValueId whole = viewed(graph_, id);
    if (!whole.is_valid()) return {};
    const ValueId source = fetched_for(whole);
    if (!source.is_valid()) return {};
    const NodeId maker = graph_.value(id).producer;
    Node view = graph_.node(maker);
    view.name = "fetch/" + view.name;
    view.phase = Phase::input_grad;  // which both kinds of gradients may read
    view.anchor = rewriter_.node_at(view.anchor.is_valid() ? view.anchor : maker);
    view.inputs = {source};
    view.outputs.clear();
    const Value& value = graph_.value(id);
    const NodeId added =
        rewriter_.graph().add_node(std::move(view), {{value.name + "@fetched", value.dtype, value.shape, value.rate}});
    return fetched_[id.index()] = rewriter_.graph().node(added).outputs.front();
  }

  void add_transfers(ValueId id, NodeId maker) {
    const DeviceId device = graph_.node(maker).device;
    const ValueId there = add_transfer("offload/", "@host", id, rewriter_.at(id), maker, host_);
    fetched_[id.index()] = add_transfer("fetch/", "@fetched", id, there, maker, device);
  }

  ValueId add_transfer(const char* prefix, const char* suffix, ValueId id, ValueId source, NodeId maker, DeviceId to) {
    const Value& value = graph_.value(id);
    const Node& made_by = graph_.node(maker);
    Node node;
    node.op = OpKind::Transfer;
    node.name = prefix + value.name;
    node.device = to;
    node.rate = value.rate;
    node.origin = made_by.origin;
    node.anchor = rewriter_.node_at(made_by.anchor.is_valid() ? made_by.anchor : maker);
    node.inputs = {source};
    const NodeId added =
        rewriter_.graph().add_node(std::move(node), {{value.name + suffix, value.dtype, value.shape, value.rate}});
    return rewriter_.graph().node(added).outputs.front();
  }

  const Graph& graph_;
  Rewriter rewriter_;
  DeviceId host_;
  std::vector<bool> is_offloaded_;  // [value]
  std::vector<ValueId> fetched_;    // [value]
};

}  // namespace

Cluster with_host_memory(const Cluster& cluster, int64_t bytes) {
  Cluster result = cluster;
  const size_t count = cluster.devices.size();
  Device host;
  host.name = host_name(cluster);
  host.backend = kHostMemoryBackend;
  host.kind = "host memory";
  host.memory_bytes = bytes;
  result.devices.push_back(std::move(host));
  result.links.assign((count + 1) * (count + 1), {});
  for (size_t from = 0; from <= count; ++from) {
    for (size_t to = 0; to <= count; ++to) {
      Link& link = result.links[from * (count + 1) + to];
      if (from < count && to < count) {
        link = cluster.links[from * count + to];
      } else {
        const double rate = from == to ? 0 : cluster.devices[std::min(from, to)].rates.host_bytes_per_second;
        link = {DeviceId(from), DeviceId(to), rate, kCopyLatency};
      }
    }
  }
  return result;
}

std::vector<Offloadable> offloadable_values(const Graph& graph, const Cluster& cluster) {
  const auto users = users_of(graph);
  const DeviceId host(cluster.devices.size() - 1);
  MPC_CHECK(cluster.device(host).backend == kHostMemoryBackend, "the cluster has no host memory");
  std::vector<Offloadable> large;
  std::vector<Offloadable> small;
  const auto is_kept = [&](ValueId id) {
    return std::ranges::any_of(users[id.index()], [&](NodeId user) { return is_gradient(graph.node(user)); });
  };
  const auto follows = [&](ValueId id) {  // a view of what is kept, too
    for (ValueId whole = viewed(graph, id); whole.is_valid(); whole = viewed(graph, whole)) {
      if (is_kept(whole)) return true;
    }
    return false;
  };
  for (int i = 0; i < graph.node_count(); ++i) {
    const Node& node = graph.node(NodeId(i));
    if (node.phase != Phase::forward || node.rate == Rate::per_step || node.device == host) continue;
    for (const ValueId id : node.outputs) {
      if (!id.is_valid() || !is_kept(id) || follows(id)) continue;
      const int64_t bytes = graph.value(id).bytes();
      if (bytes == 0) continue;
      const Link& out = cluster.link(node.device, host);
      const double seconds = transfer_seconds(bytes, out) + transfer_seconds(bytes, cluster.link(host, node.device));
      const bool is_large = static_cast<double>(bytes) / out.bytes_per_second >= out.latency_s;
      (is_large ? large : small).push_back({id, node.device, bytes, seconds});
    }
  }
  large.insert(large.end(), small.begin(), small.end());
  return large;
}

Graph offload(const Graph& graph, const std::vector<ValueId>& values, const Cluster& cluster) {
  return Offloader(graph, values, DeviceId(cluster.devices.size() - 1)).run();
}

}  // namespace mpc
