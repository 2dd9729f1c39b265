#include "passes/place/search/combine.h"

#include <algorithm>
#include <utility>

#include "passes/place/search/coarsen.h"

namespace mpc::place {
namespace {

/// The number of each block's group: connected blocks that share a device in `a` and in `b`.
std::vector<int> common_groups(const Instance& instance, const Split& a, const Split& b) {
  std::vector<int> group(static_cast<size_t>(instance.blocks), -1);
  std::vector<int> stack;
  std::vector<int> seen(static_cast<size_t>(instance.tensors()),
                        -1);  // [tensor]: the last group that it was looked at for
  int groups = 0;
  const auto are_together = [](const Split& split, int x, int y) {
    return split.device_of_block[static_cast<size_t>(x)] == split.device_of_block[static_cast<size_t>(y)];
  };
  for (int first = 0; first < instance.blocks; ++first) {
    if (group[static_cast<size_t>(first)] >= 0) continue;
    const auto reach = [&](int block) {
      if (group[static_cast<size_t>(block)] >= 0) return;
      if (!are_together(a, first, block) || !are_together(b, first, block)) return;
      group[static_cast<size_t>(block)] = groups;
      stack.push_back(block);
    };
    reach(first);
    while (!stack.empty()) {
      const int block = stack.back();
      stack.pop_back();
      const auto reach_all = [&](int t) {
        if (std::exchange(seen[static_cast<size_t>(t)], groups) == groups) return;
        reach(instance.producer[static_cast<size_t>(t)]);
        for (const int reader : instance.consumers[t]) reach(reader);
      };
      for (const int t : instance.produced[block]) reach_all(t);
      for (const int t : instance.consumed[block]) reach_all(t);
    }
    ++groups;
  }
  return group;
}

}  // namespace

bool is_better(const Split& a, const Split& b) {
  return a.overflow != b.overflow ? a.overflow < b.overflow : a.value < b.value;
}

void Elite::add(const Split& split) {
  if (split.overflow > 0) return;
  if (std::any_of(splits_.begin(), splits_.end(), [&](const Split& other) { return other.value == split.value; }))
    return;
  splits_.push_back(split);
  std::sort(splits_.begin(), splits_.end(), is_better);
  if (splits_.size() > kMost) splits_.pop_back();
}

std::pair<const Split*, const Split*> Elite::any_two(Random& random) const {
  const size_t i = static_cast<size_t>(random.below(static_cast<int>(splits_.size())));
  size_t j = static_cast<size_t>(random.below(static_cast<int>(splits_.size()) - 1));
  if (j >= i) ++j;
  return {&splits_[std::min(i, j)], &splits_[std::max(i, j)]};
}

Split combine(const Instance& instance, const Split& better, const Split& worse, int64_t proposals, Random& random,
              Work& work) {
  const std::vector<int> group = common_groups(instance, better, worse);
  const Instance coarse = grouped(instance, group);
  Split pieces;
  pieces.device_of_block.resize(static_cast<size_t>(coarse.blocks));
  for (size_t i = 0; i < group.size(); ++i)
    pieces.device_of_block[static_cast<size_t>(group[i])] = better.device_of_block[i];
  pieces = anneal(coarse, pieces, {0.02, 5e-6, 4, 2048, 0.7, proposals / 2, Swaps::clumps, Counts::after_heat}, random,
                  work);
  Split split;
  for (const int g : group) split.device_of_block.push_back(pieces.device_of_block[static_cast<size_t>(g)]);
  return anneal(instance, split, {0.0015, 2e-6, 4, 2048, 0.6, proposals / 2}, random, work);
}

}  // namespace mpc::place
