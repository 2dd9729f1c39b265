#include "api/fold.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

#include "api/facts.h"
#include "compiler/base/text.h"

namespace mpc::api {
namespace {

using Key = std::tuple<uint32_t, Block::Direction, std::string>;  // device, direction, name

Block::Direction direction_of(PlanPhase phase) {
  if (phase == PlanPhase::forward) return Block::Direction::forward;
  return phase == PlanPhase::update ? Block::Direction::update : Block::Direction::backward;
}

/// The name whose scopes count: that of the ONNX node for a gradient, so that it folds like its forward node.
std::string scoped_name(const PlanNode& node) {
  const bool is_forward = node.phase == PlanPhase::forward;
  return is_forward || node.origin.empty() ? node.name : onnx_name(node.origin);
}

/// The outermost `depth` scopes of a name; the name itself when it has none.
std::string scope(const std::string& name, size_t depth) {
  std::vector<std::string> parts = split(name, '/');
  std::erase(parts, "");
  if (parts.size() < 2) return parts.empty() ? name : parts.front();
  std::string result = parts[0];
  for (size_t i = 1; i < std::min(depth, parts.size() - 1); ++i) result += "/" + parts[i];
  return result;
}

Folding group_by(const Plan& plan, bool with_backward, const std::vector<std::string>& names) {
  Folding folding;
  folding.block_of_node.assign(plan.nodes.size(), -1);
  std::map<Key, int> known;
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    const PlanNode& node = plan.nodes[n];
    if (node.phase != PlanPhase::forward && !with_backward) continue;
    const Key key{node.device.index(), direction_of(node.phase), names[n]};
    const auto [position, is_new] = known.emplace(key, static_cast<int>(folding.blocks.size()));
    if (is_new) folding.blocks.push_back({names[n], node.device, direction_of(node.phase), {}});
    folding.blocks[static_cast<size_t>(position->second)].nodes.push_back(n);
    folding.block_of_node[n] = position->second;
  }
  return folding;
}

/// Per block: the number of different values that blocks up to it (on its device, of its direction) make and later
/// blocks or other devices read. `sequence` lists the blocks of one device and direction in order.
std::vector<int> values_passing(const Plan& plan, const Folding& folding, const std::vector<int>& sequence,
                                const std::vector<PlanIndex>& producers, const std::vector<PlanIndex>& originals) {
  std::vector<int> place(folding.blocks.size(), -1);
  for (size_t i = 0; i < sequence.size(); ++i) place[static_cast<size_t>(sequence[i])] = static_cast<int>(i);
  std::map<PlanIndex, std::pair<int, int>> spans;  // value -> (place it is made at, last place that reads it)
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    const int reader = folding.block_of_node[n];
    if (reader < 0) continue;
    for (const PlanIndex input : plan.nodes[n].inputs) {
      if (input == kNone || producers[originals[input]] == kNone) continue;
      const int maker = folding.block_of_node[producers[originals[input]]];
      if (maker < 0 || place[static_cast<size_t>(maker)] < 0) continue;
      const int from = place[static_cast<size_t>(maker)];
      const int to = place[static_cast<size_t>(reader)] < 0 ? from + 1 : place[static_cast<size_t>(reader)];
      auto [span, is_new] = spans.emplace(originals[input], std::pair(from, to));
      if (!is_new) span->second.second = std::max(span->second.second, to);
    }
  }
  std::vector<int> passing(sequence.size() + 1, 0);
  for (const auto& [value, span] : spans) {
    for (int i = span.first; i < std::min<int>(span.second, static_cast<int>(sequence.size())); ++i)
      ++passing[static_cast<size_t>(i)];
  }
  return passing;
}

/// Pairs (maker, reader) of blocks of which one reads what the other makes.
std::set<std::pair<int, int>> block_edges(const Plan& plan, const Folding& folding,
                                          const std::vector<PlanIndex>& producers,
                                          const std::vector<PlanIndex>& originals) {
  std::set<std::pair<int, int>> edges;
  for (PlanIndex n = 0; n < plan.nodes.size(); ++n) {
    if (folding.block_of_node[n] < 0) continue;
    for (const PlanIndex input : plan.nodes[n].inputs) {
      const PlanIndex producer = input == kNone ? kNone : producers[originals[input]];
      if (producer != kNone && folding.block_of_node[producer] >= 0)
        edges.emplace(folding.block_of_node[producer], folding.block_of_node[n]);
    }
  }
  return edges;
}

/// Joins neighbours in execution order until about `most_blocks` are left.
Folding join_neighbours(const Plan& plan, const Folding& fine, int most_blocks) {
  const std::vector<PlanIndex> producers = producers_of(plan);
  const std::vector<PlanIndex> originals = originals_of(plan);
  std::map<std::pair<uint32_t, Block::Direction>, std::vector<int>> sequences;
  for (size_t b = 0; b < fine.blocks.size(); ++b) {
    sequences[{fine.blocks[b].device.index(), fine.blocks[b].direction}].push_back(static_cast<int>(b));
  }
  const std::set<std::pair<int, int>> edges = block_edges(plan, fine, producers, originals);
  std::vector<std::string> names(plan.nodes.size());
  for (const auto& [key, sequence] : sequences) {
    const std::vector<int> passing = values_passing(plan, fine, sequence, producers, originals);
    const size_t share = std::max<size_t>(1, static_cast<size_t>(most_blocks) * sequence.size() / fine.blocks.size());
    const size_t target = (sequence.size() + share - 1) / share;
    size_t first = 0;
    for (size_t i = 0; i < sequence.size(); ++i) {
      const size_t count = i - first + 1;
      const bool is_last = i + 1 == sequence.size();
      // A narrow place ends a block early; without one it may grow to twice its share.
      // What has nothing to do with the next block is not joined with it.
      const bool is_linked =
          !is_last && std::any_of(sequence.begin() + static_cast<std::ptrdiff_t>(first),
                                  sequence.begin() + static_cast<std::ptrdiff_t>(i) + 1, [&](int block) {
                                    return edges.contains({block, sequence[i + 1]});
                                  });
      if (is_linked && !(count >= target && passing[i] <= 1) && count < 2 * target) continue;
      const std::string& from = fine.blocks[static_cast<size_t>(sequence[first])].name;
      const std::string& to = fine.blocks[static_cast<size_t>(sequence[i])].name;
      const std::string name = count == 1 ? from : from + " \xE2\x80\xA6 " + to;
      for (size_t j = first; j <= i; ++j) {
        for (const PlanIndex node : fine.blocks[static_cast<size_t>(sequence[j])].nodes) names[node] = name;
      }
      first = i + 1;
    }
  }
  const bool with_backward =
      std::ranges::any_of(fine.blocks, [](const Block& b) { return b.direction != Block::Direction::forward; });
  return group_by(plan, with_backward, names);
}

Folding fold_blocks(const Plan& plan, const v1::DotOptions& options) {
  std::vector<std::string> full(plan.nodes.size());
  size_t deepest = 1;
  for (size_t n = 0; n < full.size(); ++n) {
    full[n] = scoped_name(plan.nodes[n]);
    deepest = std::max(deepest, static_cast<size_t>(std::ranges::count(full[n], '/')));
  }
  std::optional<Folding> best;
  for (size_t depth = 1; depth <= deepest; ++depth) {
    std::vector<std::string> names(full.size());
    for (size_t n = 0; n < full.size(); ++n) names[n] = scope(full[n], depth);
    Folding folding = group_by(plan, options.with_backward, names);
    if (best && folding.blocks.size() > static_cast<size_t>(options.most_blocks)) break;
    best = std::move(folding);
  }
  if (best->blocks.size() > static_cast<size_t>(options.most_blocks))
    return join_neighbours(plan, *best, options.most_blocks);
  return std::move(*best);
}

}  // namespace

Folding fold(const Plan& plan, const v1::DotOptions& options) {
  std::vector<std::string> names(plan.nodes.size());
  switch (options.level) {
    case v1::DotOptions::Level::block:
      return fold_blocks(plan, options);
    case v1::DotOptions::Level::op:
      for (size_t n = 0; n < names.size(); ++n) names[n] = plan.nodes[n].name;
      break;
    case v1::DotOptions::Level::device:
      for (size_t n = 0; n < names.size(); ++n) names[n] = plan.devices[plan.nodes[n].device.index()].name;
      break;
  }
  return group_by(plan, options.with_backward, names);
}

}  // namespace mpc::api
