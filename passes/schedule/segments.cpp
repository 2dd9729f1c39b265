#include "passes/schedule/segments.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "compiler/base/error.h"
#include "compiler/cost/estimate.h"
#include "passes/levels.h"

namespace mpc {
namespace {

int64_t bytes_of(const Graph& graph, const Node& transfer) {
  int64_t bytes = 0;
  for (const ValueId id : transfer.inputs) bytes += graph.value(id).bytes();
  return bytes;
}

SegmentPhase segment_phase(Phase phase, BackwardCut cut) {
  switch (phase) {
    case Phase::forward:
      return SegmentPhase::forward;
    case Phase::input_grad:
      return SegmentPhase::backward;
    case Phase::weight_grad:
      return cut == BackwardCut::split ? SegmentPhase::weight : SegmentPhase::backward;
    case Phase::update:
      return SegmentPhase::update;
  }
  return SegmentPhase::forward;
}

class SegmentBuilder {
 public:
  SegmentBuilder(const std::vector<const Graph*>& graphs, const Cluster& cluster, BackwardCut cut)
      : graphs_(graphs), graph_(*graphs[0]), cluster_(cluster), cut_(cut) {}

  Segments run() {
    result_.device_count = cluster_.count();
    group_nodes();
    add_seconds();
    add_edges();
    add_kept_bytes();
    return std::move(result_);
  }

 private:
  void group_nodes() {
    const std::vector<int> levels = levels_of(graph_);
    std::map<std::tuple<int, DeviceId, SegmentPhase, bool>, std::vector<NodeId>> groups;
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (node.op == OpKind::Transfer) continue;
      const SegmentPhase phase = segment_phase(node.phase, cut_);
      groups[{levels[static_cast<size_t>(i)], node.device, phase, node.rate == Rate::per_step}].push_back(NodeId(i));
    }
    result_.segment_of_node.assign(static_cast<size_t>(graph_.node_count()), -1);
    for (auto& [key, nodes] : groups) {
      const auto& [level, device, phase, per_step] = key;
      for (const NodeId id : nodes) result_.segment_of_node[id.index()] = static_cast<int>(result_.segments.size());
      result_.segments.push_back({device, phase, level, per_step, std::move(nodes), {}});
    }
  }

  void add_seconds() {
    for (Segment& segment : result_.segments) {
      for (const Graph* graph : graphs_) {
        double seconds = 0;
        for (const NodeId id : segment.nodes) seconds += node_seconds(*graph, id, cluster_.device(segment.device));
        segment.seconds.push_back(seconds);
      }
    }
  }

  void add_edges() {
    std::map<std::pair<int, int>, std::vector<double>> edges;
    for (int i = 0; i < graph_.node_count(); ++i) {
      const int to = result_.segment_of_node[static_cast<size_t>(i)];
      if (to < 0) continue;
      for (const ValueId input : graph_.node(NodeId(i)).inputs) {
        if (!input.is_valid() || graph_.value(input).kind != ValueKind::node) continue;
        add_edge(edges, graph_.value(input).producer, input, to);
      }
    }
    add_edges_to_updates(edges);
    for (auto& [key, seconds] : edges) result_.edges.push_back({key.first, key.second, std::move(seconds)});
  }

  // What is updated in place has been read by all who want the content before: also by gradients that no sum waits for.
  void add_edges_to_updates(std::map<std::pair<int, int>, std::vector<double>>& edges) {
    const auto users = users_of(graph_);
    for (int i = 0; i < graph_.node_count(); ++i) {
      const Node& node = graph_.node(NodeId(i));
      if (node.phase != Phase::update) continue;
      const int to = result_.segment_of_node[static_cast<size_t>(i)];
      for (size_t k = 0; k < node.outputs.size(); ++k) {
        const auto input = aliased_input(node.op, static_cast<int>(k));
        if (!input || !node.inputs[static_cast<size_t>(*input)].is_valid()) continue;
        for (const NodeId user : users[node.inputs[static_cast<size_t>(*input)].index()]) {
          const int from = result_.segment_of_node[user.index()];
          if (from < 0 || from == to) continue;
          edges.try_emplace({from, to}, std::vector<double>(graphs_.size(), 0));
        }
      }
    }
  }

  void add_edge(std::map<std::pair<int, int>, std::vector<double>>& edges, NodeId producer, ValueId value, int to) {
    std::vector<double> seconds(graphs_.size(), 0);
    // Through host memory a value takes several transfers.
    while (graph_.node(producer).op == OpKind::Transfer) {
      const Node& node = graph_.node(producer);
      value = node.inputs[static_cast<size_t>(graph_.value(value).output_index)];
      if (graph_.value(value).kind != ValueKind::node) return;  // a parameter, sent before the step's first task
      const NodeId made_by = graph_.value(value).producer;
      const Link& link = cluster_.link(graph_.node(made_by).device, node.device);
      for (size_t v = 0; v < graphs_.size(); ++v)
        seconds[v] += transfer_seconds(bytes_of(*graphs_[v], graphs_[v]->node(producer)), link);
      producer = made_by;
    }
    const int from = result_.segment_of_node[producer.index()];
    if (from == to) return;
    auto& edge = edges[{from, to}];
    if (edge.empty()) edge.assign(graphs_.size(), 0);
    for (size_t v = 0; v < graphs_.size(); ++v) edge[v] = std::max(edge[v], seconds[v]);
  }

  void add_kept_bytes() {
    std::map<std::pair<ValueId, DeviceId>, std::vector<int>> users;  // the segments that read a value on a device
    for (int i = 0; i < graph_.node_count(); ++i) {
      const int reader = result_.segment_of_node[static_cast<size_t>(i)];
      if (reader < 0) continue;
      for (const ValueId input : graph_.node(NodeId(i)).inputs) {
        if (!input.is_valid() || graph_.value(input).rate == Rate::per_step) continue;
        users[{input, graph_.node(NodeId(i)).device}].push_back(reader);
      }
    }
    std::map<std::pair<int, std::vector<int>>, std::vector<int64_t>> kept;
    for (auto& [key, readers] : users) {
      const Value& value = graph_.value(key.first);
      const int made_by = value.kind == ValueKind::node ? result_.segment_of_node[value.producer.index()] : -1;
      std::ranges::sort(readers);
      readers.erase(std::unique(readers.begin(), readers.end()), readers.end());
      const int maker = made_by >= 0 ? made_by : readers.front();
      std::erase(readers, maker);
      if (readers.empty()) continue;
      auto& bytes = kept[{maker, readers}];
      bytes.resize(graphs_.size(), 0);
      for (size_t v = 0; v < graphs_.size(); ++v) bytes[v] += graphs_[v]->value(key.first).bytes();
    }
    for (auto& [key, bytes] : kept) result_.kept.push_back({key.first, key.second, std::move(bytes)});
  }

  const std::vector<const Graph*>& graphs_;
  const Graph& graph_;
  const Cluster& cluster_;
  BackwardCut cut_;
  Segments result_;
};

}  // namespace

Segments make_segments(const std::vector<const Graph*>& graphs, const Cluster& cluster, BackwardCut cut) {
  return SegmentBuilder(graphs, cluster, cut).run();
}

}  // namespace mpc
