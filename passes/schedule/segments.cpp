#include "passes/schedule/segments.h"

#include <algorithm>
#include <map>
#include <set>
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

SegmentPhase segment_phase(Phase phase, SegmentCut cut) {
  switch (phase) {
    case Phase::forward:
      return SegmentPhase::forward;
    case Phase::input_grad:
      return SegmentPhase::backward;
    case Phase::weight_grad:
      return cut == SegmentCut::whole ? SegmentPhase::backward : SegmentPhase::weight;
    case Phase::update:
      return SegmentPhase::update;
  }
  return SegmentPhase::forward;
}

/// What one segment waits for from another one.
struct EdgeNeeds {
  std::vector<double> seconds;  // per variant
  std::set<NodeId> transfers;
};
using Edges = std::map<std::pair<int, int>, EdgeNeeds>;  // by (from, to)

class SegmentBuilder {
 public:
  SegmentBuilder(const std::vector<const Graph*>& graphs, const Cluster& cluster, SegmentCut cut)
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
      const int level = cut_ == SegmentCut::single ? i : levels[static_cast<size_t>(i)];
      groups[{level, node.device, phase, node.rate == Rate::per_step}].push_back(NodeId(i));
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
    Edges edges;
    for (int i = 0; i < graph_.node_count(); ++i) {
      const int to = result_.segment_of_node[static_cast<size_t>(i)];
      if (to < 0) continue;
      for (const ValueId input : graph_.node(NodeId(i)).inputs) {
        if (!input.is_valid() || graph_.value(input).kind != ValueKind::node) continue;
        add_edge(edges, graph_.value(input).producer, input, to);
      }
    }
    add_edges_to_updates(edges);
    size_t first = 0;  // of the edges from the same segment
    for (auto it = edges.begin(); it != edges.end(); ++it) {
      if (!result_.edges.empty() && result_.edges.back().from != it->first.first) first = result_.edges.size();
      const int brought_by = find_bringer(edges, it, first);
      result_.edges.push_back({it->first.first, it->first.second, it->second.seconds, brought_by});
    }
  }

  // Which of result_.edges[first..] brings what this one needs?
  int find_bringer(const Edges& edges, Edges::const_iterator edge, size_t first) const {
    if (edge->second.transfers.empty()) return -1;
    auto other = edges.lower_bound({edge->first.first, 0});
    for (size_t i = first; other != edge; ++i, ++other) {
      const bool is_there = std::ranges::includes(other->second.transfers, edge->second.transfers);
      if (is_there) return static_cast<int>(i);
    }
    return -1;
  }

  // What is updated in place has been read by all who want the content before: also by gradients that no sum waits for.
  void add_edges_to_updates(Edges& edges) {
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
          edges.try_emplace({from, to}, EdgeNeeds{std::vector<double>(graphs_.size(), 0), {}});
        }
      }
    }
  }

  // What is sent together leaves when the last of it is made.
  void add_edge(Edges& edges, NodeId producer, ValueId value, int to) {
    if (graph_.node(producer).op != OpKind::Transfer) {
      add_edge_from(edges, producer, to, {});
      return;
    }
    EdgeNeeds needs{std::vector<double>(graphs_.size(), 0), {}};
    // Through host memory a value takes several transfers, and is alone in them.
    while (true) {
      const Node& node = graph_.node(producer);
      needs.transfers.insert(producer);
      value = node.inputs[static_cast<size_t>(graph_.value(value).output_index)];
      if (graph_.value(value).kind != ValueKind::node) return;  // a parameter, sent before the step's first task
      const NodeId made_by = graph_.value(value).producer;
      const Link& link = cluster_.link(graph_.node(made_by).device, node.device);
      for (size_t v = 0; v < graphs_.size(); ++v)
        needs.seconds[v] += transfer_seconds(bytes_of(*graphs_[v], graphs_[v]->node(producer)), link);
      if (graph_.node(made_by).op != OpKind::Transfer) break;
      producer = made_by;
    }
    for (const ValueId sent : graph_.node(producer).inputs) {
      if (graph_.value(sent).kind == ValueKind::node) add_edge_from(edges, graph_.value(sent).producer, to, needs);
    }
  }

  void add_edge_from(Edges& edges, NodeId producer, int to, const EdgeNeeds& needs) {
    const int from = result_.segment_of_node[producer.index()];
    if (from == to) return;
    EdgeNeeds& edge = edges[{from, to}];
    edge.seconds.resize(graphs_.size(), 0);
    for (size_t v = 0; v < needs.seconds.size(); ++v) edge.seconds[v] = std::max(edge.seconds[v], needs.seconds[v]);
    edge.transfers.insert(needs.transfers.begin(), needs.transfers.end());
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
  SegmentCut cut_;
  Segments result_;
};

}  // namespace

Segments make_segments(const std::vector<const Graph*>& graphs, const Cluster& cluster, SegmentCut cut) {
  return SegmentBuilder(graphs, cluster, cut).run();
}

}  // namespace mpc
