#include "passes/place/parallel/alike_stages.h"

#include <algorithm>
#include <bit>

#include "compiler/base/random.h"

namespace mpc::place {
namespace {

bool are_equal(const ParallelChoice& a, const ParallelChoice& b) {
  return a.time == b.time && a.parameter_bytes == b.parameter_bytes &&
         a.bytes_per_microbatch == b.bytes_per_microbatch && a.fixed_bytes == b.fixed_bytes &&
         a.bytes_over_replicas == b.bytes_over_replicas && a.sync_in == b.sync_in && a.sync_out == b.sync_out;
}

class Nodes {
 public:
  explicit Nodes(const ParallelGraph& graph) : graph_(graph) {}

  bool are_alike(int a, int b) const {
    const ParallelNode& first = graph_.nodes[static_cast<size_t>(a)];
    const ParallelNode& second = graph_.nodes[static_cast<size_t>(b)];
    if (first.choices.size() != second.choices.size()) return false;
    for (size_t degree = 0; degree < first.choices.size(); ++degree) {
      const auto& mine = first.choices[degree];
      const auto& others = second.choices[degree];
      if (!std::equal(mine.begin(), mine.end(), others.begin(), others.end(), are_equal)) return false;
    }
    return have_equal_edges(a, first.in, b, second.in) && have_equal_edges(a, first.out, b, second.out);
  }

  /// Equal for nodes that are alike.
  uint64_t hash(int node) const {
    const ParallelNode& row = graph_.nodes[static_cast<size_t>(node)];
    uint64_t hash = mix_bits(row.in.size() * kMostEdges + row.out.size());
    for (const auto& choices : row.choices) {
      for (const ParallelChoice& choice : choices) hash = mix_bits(hash ^ std::bit_cast<uint64_t>(choice.time + 0.0));
    }
    return hash;
  }

 private:
  static constexpr uint64_t kMostEdges = uint64_t{1} << 32;

  bool have_equal_edges(int a, const std::vector<int>& of_a, int b, const std::vector<int>& of_b) const {
    return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), [&](int x, int y) {
      const ParallelEdge& mine = graph_.edges[static_cast<size_t>(x)];
      const ParallelEdge& other = graph_.edges[static_cast<size_t>(y)];
      return mine.bytes == other.bytes && mine.from - a == other.from - b && mine.to - a == other.to - b;
    });
  }

  const ParallelGraph& graph_;
};

}  // namespace

AlikeStages::AlikeStages(const ParallelGraph& graph) {
  const Nodes nodes(graph);
  std::unordered_map<uint64_t, std::vector<int>> firsts;  // by hash; only looked up
  for (int node = 0; node < static_cast<int>(graph.nodes.size()); ++node) {
    std::vector<int>& candidates = firsts[nodes.hash(node)];
    const auto like = std::ranges::find_if(candidates, [&](int other) { return nodes.are_alike(other, node); });
    if (like != candidates.end()) {
      class_of_.push_back(class_of_[static_cast<size_t>(*like)]);
      continue;
    }
    candidates.push_back(node);
    class_of_.push_back(class_count_++);
  }
}

std::pair<size_t, bool> AlikeStages::of(const std::vector<int>& nodes) {
  uint64_t hash = nodes.size();
  for (const int node : nodes) {
    const auto place = static_cast<uint64_t>(node - nodes.front());
    hash = mix_bits(hash ^ (place << 32 | static_cast<uint64_t>(class_of_[static_cast<size_t>(node)])));
  }
  std::vector<size_t>& candidates = known_[hash];
  for (const size_t number : candidates) {
    if (are_alike(firsts_[number], nodes)) return {number, false};
  }
  candidates.push_back(firsts_.size());
  firsts_.push_back(nodes);
  return {firsts_.size() - 1, true};
}

bool AlikeStages::are_alike(const std::vector<int>& a, const std::vector<int>& b) const {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](int x, int y) {
    return x - a.front() == y - b.front() && class_of_[static_cast<size_t>(x)] == class_of_[static_cast<size_t>(y)];
  });
}

}  // namespace mpc::place
