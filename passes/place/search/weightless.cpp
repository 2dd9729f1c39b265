#include "passes/place/search/weightless.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "passes/place/search/coarsen.h"

namespace mpc::place {
namespace {

using Pair = std::pair<int, int>;

class Folder {
 public:
  explicit Folder(const Instance& instance)
      : instance_(instance),
        into_(static_cast<size_t>(instance.blocks)),
        members_(into_.size()),
        has_time_(into_.size(), 0),
        touched_(into_.size(), 0),
        exclusive_(into_.size(), 0) {
    std::iota(into_.begin(), into_.end(), 0);
    for (size_t block = 0; block < into_.size(); ++block) {
      members_[block].assign(1, static_cast<int>(block));
      for (const DeviceKind& kind : instance.kinds) has_time_[block] |= kind.time[block] != 0 ? 1 : 0;
    }
  }

  Folding run() {
    for (bool has_changed = true; has_changed;) {
      has_changed = false;
      for (int block = 0; block < instance_.blocks; ++block) {
        if (into_[static_cast<size_t>(block)] != block || has_time_[static_cast<size_t>(block)] != 0) continue;
        const int neighbour = neighbour_of(block);
        if (neighbour < 0) continue;
        join(block, neighbour);
        has_changed = true;
      }
    }
    return folded();
  }

 private:
  /// The one group on this side of the order, or -1 when there are none or several.
  int only(int group, const Rows& side) const {
    int found = -1;
    for (const int block : members_[static_cast<size_t>(group)]) {
      for (const int other : side[block]) {
        const int root = into_[static_cast<size_t>(other)];
        if (root == group || root == found) continue;
        if (found >= 0) return -1;
        found = root;
      }
    }
    return found;
  }

  /// Where the group never costs more, or -1.
  int neighbour_of(int group) {
    const int candidates[] = {only(group, instance_.before), only(group, instance_.after)};
    if (candidates[0] < 0 && candidates[1] < 0) return -1;
    double total = 0;
    near_.clear();
    for (const int block : members_[static_cast<size_t>(group)]) {
      for (const int t : instance_.produced[block]) total += add(group, t);
      for (const int t : instance_.consumed[block]) {
        if (into_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])] == group) continue;
        if (is_first_reader(group, block, t)) total += add(group, t);
      }
    }
    int best = -1;
    for (const int other : candidates) {
      if (best >= 0 || other < 0) continue;
      const size_t i = static_cast<size_t>(other);
      if (total - touched_[i] <= exclusive_[i]) best = other;
    }
    for (const int other : near_) touched_[static_cast<size_t>(other)] = exclusive_[static_cast<size_t>(other)] = 0;
    return best;
  }

  /// Of the blocks of the group that read the tensor, is this the first?
  bool is_first_reader(int group, int block, int t) const {
    for (const int reader : instance_.consumers[t]) {
      if (into_[static_cast<size_t>(reader)] == group) return reader == block;
    }
    return false;
  }

  /// Counts the tensor for the groups that it goes between, beside `group`. @return its cost, 0 when there are none.
  double add(int group, int t) {
    parties_.assign(1, into_[static_cast<size_t>(instance_.producer[static_cast<size_t>(t)])]);
    for (const int reader : instance_.consumers[t]) parties_.push_back(into_[static_cast<size_t>(reader)]);
    std::sort(parties_.begin(), parties_.end());
    parties_.erase(std::unique(parties_.begin(), parties_.end()), parties_.end());
    if (parties_.size() == 1) return 0;
    const double cost = instance_.cost[static_cast<size_t>(t)];
    for (const int other : parties_) {
      if (other == group) continue;
      near_.push_back(other);
      touched_[static_cast<size_t>(other)] += cost;
      if (parties_.size() == 2) exclusive_[static_cast<size_t>(other)] += cost;
    }
    return cost;
  }

  void join(int group, int neighbour) {
    std::vector<int>& mine = members_[static_cast<size_t>(group)];
    for (const int block : mine) into_[static_cast<size_t>(block)] = neighbour;
    std::vector<int>& all = members_[static_cast<size_t>(neighbour)];
    all.insert(all.end(), mine.begin(), mine.end());
    mine.clear();
  }

  Folding folded() const {
    Folding result;
    std::vector<int> number(into_.size(), -1);
    int groups = 0;
    for (size_t block = 0; block < into_.size(); ++block) {
      if (into_[block] == static_cast<int>(block)) number[block] = groups++;
    }
    for (const int root : into_) result.group_of_block.push_back(number[static_cast<size_t>(root)]);
    result.instance = grouped(instance_, result.group_of_block);
    std::vector<Pair> before, after;
    for (size_t block = 0; block < into_.size(); ++block) {
      const int mine = result.group_of_block[block];
      if (number[block] >= 0) result.instance.memory[static_cast<size_t>(mine)] = instance_.memory[block];
      for (const int next : instance_.after[static_cast<int>(block)]) {
        const int other = result.group_of_block[static_cast<size_t>(next)];
        if (other == mine) continue;
        after.emplace_back(mine, other);
        before.emplace_back(other, mine);
      }
    }
    result.instance.after = unique_rows(std::move(after), groups);
    result.instance.before = unique_rows(std::move(before), groups);
    return result;
  }

  const Instance& instance_;
  std::vector<int> into_;                  // [block]: the block that stands for its group
  std::vector<std::vector<int>> members_;  // [block that stands for a group]
  std::vector<char> has_time_;             // [block]
  std::vector<double> touched_;            // [group]: cost of tensors that go there too
  std::vector<double> exclusive_;          // [group]: of those that go nowhere else
  std::vector<int> near_, parties_;
};

}  // namespace

Folding fold_weightless(const Instance& instance) {
  return Folder(instance).run();
}

}  // namespace mpc::place
