#include "passes/repetition.h"

#include <algorithm>
#include <map>
#include <string>

#include "compiler/base/text.h"

// Nodes of one class are alike but for where their operands come from. In a model of layers some class has one node per
// layer, so the distance from one node of it to the next is the length of a layer: only distances that are frequent for
// some class are tried. For each, one walk along the nodes finds the longest stretch in which every node equals the one
// a run before.

namespace mpc {
namespace {

constexpr size_t kMostLengths = 12;

class RepetitionFinder {
 public:
  explicit RepetitionFinder(const Graph& graph) : graph_(graph), place_(static_cast<size_t>(graph.node_count()), -1) {
    for (int n = 0; n < graph.node_count(); ++n) {
      if (graph.node(NodeId(n)).phase != Phase::forward) continue;
      place_[static_cast<size_t>(n)] = static_cast<int>(nodes_.size());
      nodes_.push_back(NodeId(n));
    }
    for (const NodeId id : nodes_) class_.push_back(class_of(graph.node(id)));
  }

  Repetition run() const {
    Repetition best;
    int most = 0;  // nodes covered
    for (const int length : lengths()) {
      const Repetition found = longest(length);
      const int covered = found.nodes * found.times;
      if (found.times < 2 || covered < most || (covered == most && found.nodes >= best.nodes)) continue;
      best = found;
      most = covered;
    }
    return best;
  }

 private:
  std::string type_text(ValueId id) const {
    if (!id.is_valid()) return "-";
    const Value& value = graph_.value(id);
    return std::to_string(static_cast<int>(value.kind)) + ":" + std::to_string(static_cast<int>(value.dtype)) +
           to_string(value.shape);
  }

  int class_of(const Node& node) {
    std::string key = std::to_string(static_cast<int>(node.op)) + "|" + std::to_string(static_cast<int>(node.rate));
    for (const ValueId id : node.inputs) key += "|" + type_text(id);
    key += ">";
    for (const ValueId id : node.outputs) key += "|" + type_text(id);
    std::vector<std::pair<const Attributes*, int>>& known = classes_[key];
    for (const auto& [attributes, number] : known) {
      if (*attributes == node.attributes) return number;
    }
    known.emplace_back(&node.attributes, class_count_);
    return class_count_++;
  }

  /// Lengths of runs worth trying: the most frequent distances between one node of a class and the next, by the nodes
  /// that they may cover.
  std::vector<int> lengths() const {
    std::vector<int> last(static_cast<size_t>(class_count_), -1);
    std::map<int, int> count;  // of a distance
    for (int i = 0; i < static_cast<int>(nodes_.size()); ++i) {
      int& previous = last[static_cast<size_t>(class_[static_cast<size_t>(i)])];
      if (previous >= 0) ++count[i - previous];
      previous = i;
    }
    std::vector<std::pair<int, int>> covering;  // (nodes, length)
    for (const auto& [length, times] : count) covering.emplace_back(-length * times, length);
    std::ranges::sort(covering);
    if (covering.size() > kMostLengths) covering.resize(kMostLengths);
    std::vector<int> result;
    for (const auto& [nodes, length] : covering) result.push_back(length);
    return result;
  }

  bool is_equal(int i, int length) const {
    const auto at = static_cast<size_t>(i);
    const size_t before = at - static_cast<size_t>(length);
    if (class_[at] != class_[before]) return false;
    const Node& node = graph_.node(nodes_[at]);
    const Node& other = graph_.node(nodes_[before]);
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const ValueId input = node.inputs[k];
      if (!input.is_valid() || graph_.value(input).kind != ValueKind::node || input == other.inputs[k]) continue;
      const int from = place_[graph_.value(input).producer.index()];
      const int other_from = place_[graph_.value(other.inputs[k]).producer.index()];
      if (from - other_from != length) return false;
    }
    return true;
  }

  Repetition longest(int length) const {
    int best_end = 0;
    int best_stretch = 0;
    int stretch = 0;
    for (int i = length; i < static_cast<int>(nodes_.size()); ++i) {
      stretch = is_equal(i, length) ? stretch + 1 : 0;
      if (stretch <= best_stretch) continue;
      best_stretch = stretch;
      best_end = i;
    }
    const int times = best_stretch / length + 1;
    const int first = best_end - best_stretch + 1 - length;
    if (times < 2) return {};
    return {nodes_[static_cast<size_t>(first)], length, times};
  }

  const Graph& graph_;
  std::vector<NodeId> nodes_;  // forward, in id order
  std::vector<int> place_;     // [node]: its index in nodes_, -1 for others
  std::vector<int> class_;     // [index in nodes_]
  std::map<std::string, std::vector<std::pair<const Attributes*, int>>> classes_;
  int class_count_ = 0;
};

}  // namespace

Repetition find_repetition(const Graph& graph) {
  return RepetitionFinder(graph).run();
}

}  // namespace mpc
