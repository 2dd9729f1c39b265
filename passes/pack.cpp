#include "passes/pack.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "passes/skyline.h"

// Packing of blocks with lifetimes (dynamic storage allocation, strongly NP-hard), by a tournament of orders and the
// improvement of its best.
//
//  - in time: blocks in the order in which they begin, each in the smallest gap of what is live then. O(n log n).
//  - skyline: the lowest place that is free for the longest, filled with the first block in a given order that fits
//    there; best fit over lifetimes when that order is the longest life first. O(n^2).
//  - greedy: the blocks in a given order, each at the lowest gap among those before it that live with it. O(n^2).
//
// Skyline and greedy go through several orders. The four best results are then improved by squeaky wheels: blocks
// that lie above the bound (the most bytes that live at once) come earlier in the next round. The first result that is
// small enough for the caller ends it. Tries are counted in steps of n^2, so that the answer does not depend on the
// machine. Blocks of less than a ten-thousandth of the bound come last, into what gaps the others leave.
//
// Sources: Sekiyama et al., Profile-guided memory optimization for deep neural networks (2018), section 4 (skyline);
// Pisarchyk and Lee, Efficient memory management for deep neural net inference (2020), section 5.2 (greedy by size);
// Joslin and Clements, Squeaky wheel optimization (1999).

namespace mpc {
namespace {

// Of about 0.6 ns each: some 0.3 s for a device at most.
constexpr size_t kMostSteps = 200'000'000;
constexpr size_t kMostStepsOfQuick = kMostSteps / 10;
constexpr size_t kImproved = 4;
constexpr size_t kMostRounds = 25;
// A block that is blamed passes a quarter of the others.
constexpr size_t kPassed = 4;
constexpr int64_t kSmallShare = 10'000;

// --- In time ---

/// The free ranges below the highest live byte.
class Gaps {
 public:
  int64_t take(int64_t bytes) {
    auto best = gaps_.end();
    for (auto it = gaps_.begin(); it != gaps_.end(); ++it) {
      if (it->second >= bytes && (best == gaps_.end() || it->second < best->second)) best = it;
    }
    if (best == gaps_.end()) {
      top_ += bytes;
      return top_ - bytes;
    }
    const auto [offset, free] = *best;
    gaps_.erase(best);
    if (free > bytes) gaps_.emplace(offset + bytes, free - bytes);
    return offset;
  }

  void give_back(int64_t offset, int64_t bytes) {
    auto it = gaps_.emplace(offset, bytes).first;
    if (const auto next = std::next(it); next != gaps_.end() && it->first + it->second == next->first) {
      it->second += next->second;
      gaps_.erase(next);
    }
    if (it != gaps_.begin()) {
      if (const auto before = std::prev(it); before->first + before->second == it->first) {
        before->second += it->second;
        gaps_.erase(it);
        it = before;
      }
    }
    if (it->first + it->second != top_) return;
    top_ = it->first;
    gaps_.erase(it);
  }

  int64_t top() const { return top_; }

 private:
  std::map<int64_t, int64_t> gaps_;  // offset -> bytes
  int64_t top_ = 0;
};

Packing pack_in_time(std::span<const Block> blocks) {
  Order order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t b) { return blocks[b].begin; });
  Packing result{0, std::vector<int64_t>(blocks.size(), -1)};
  std::multimap<int64_t, size_t> live;  // by end
  Gaps gaps;
  for (const size_t b : order) {
    for (; !live.empty() && live.begin()->first < blocks[b].begin; live.erase(live.begin())) {
      const size_t dead = live.begin()->second;
      gaps.give_back(result.offsets[dead], blocks[dead].bytes);
    }
    result.offsets[b] = gaps.take(blocks[b].bytes);
    live.emplace(blocks[b].end, b);
    result.bytes = std::max(result.bytes, gaps.top());
  }
  return result;
}

// --- Greedy ---

/// Places the blocks of `order` among those that `packing` has placed.
void place_greedily(const std::vector<Item>& items, const Order& order, Packing& packing) {
  struct Placed {
    int64_t offset;
    int64_t top;
    int begin;
    int end;
  };
  std::vector<Placed> placed;  // ascending offset
  const auto placed_at = [&](size_t b) {
    return Placed{packing.offsets[b], packing.offsets[b] + items[b].bytes, items[b].begin, items[b].end};
  };
  placed.reserve(items.size());
  for (size_t b = 0; b < items.size(); ++b) {
    if (packing.offsets[b] >= 0) placed.push_back(placed_at(b));
  }
  std::ranges::stable_sort(placed, {}, &Placed::offset);
  for (const size_t b : order) {
    const Item& item = items[b];
    int64_t offset = 0;
    for (const Placed& other : placed) {
      if (other.end <= item.begin || other.begin >= item.end) continue;
      if (other.offset - offset >= item.bytes) break;
      offset = std::max(offset, other.top);
    }
    packing.offsets[b] = offset;
    packing.bytes = std::max(packing.bytes, offset + item.bytes);
    placed.insert(std::ranges::upper_bound(placed, offset, {}, &Placed::offset), placed_at(b));
  }
}

Packing pack_greedily(const std::vector<Item>& items, int, const Order& order) {
  Packing result{0, std::vector<int64_t>(items.size(), -1)};
  place_greedily(items, order, result);
  return result;
}

// --- The tournament ---

using Method = Packing (*)(const std::vector<Item>&, int moments, const Order&);
using Rank = double (*)(const Item&);  // the largest comes first

double by_begin(const Item& item) {
  return -static_cast<double>(item.begin);
}
double by_bytes(const Item& item) {
  return static_cast<double>(item.bytes);
}
double by_life(const Item& item) {
  return item.end - item.begin;
}
double by_area(const Item& item) {
  return by_bytes(item) * by_life(item);
}
double by_bytes_and_area(const Item& item) {
  return by_bytes(item) * by_area(item);
}
double by_life_and_area(const Item& item) {
  return by_life(item) * by_area(item);
}

struct Entrant {
  Method method;
  Rank rank;
};

// Those that most often win on the zoo come first: large plans do not get to all.
constexpr Entrant kEntrants[] = {
    {pack_by_skyline, by_begin},          {pack_greedily, by_life_and_area},
    {pack_by_skyline, by_life},           {pack_greedily, by_area},
    {pack_by_skyline, by_life_and_area},  {pack_greedily, by_bytes},
    {pack_by_skyline, by_area},           {pack_greedily, by_life},
    {pack_by_skyline, by_bytes_and_area}, {pack_greedily, by_bytes_and_area},
    {pack_by_skyline, by_bytes},          {pack_greedily, by_begin},
};

class Tournament {
 public:
  Tournament(std::span<const Block> blocks, int64_t enough_bytes, PackEffort effort)
      : bound_(largest_live(blocks).bytes), enough_bytes_(enough_bytes) {
    std::vector<int64_t> moments;
    for (const Block& block : blocks) {
      moments.push_back(block.begin);
      moments.push_back(block.end + 1);
    }
    std::ranges::sort(moments);
    moments.erase(std::ranges::unique(moments).begin(), moments.end());
    moments_ = static_cast<int>(moments.size()) - 1;
    const auto place_of = [&](int64_t moment) {
      return static_cast<int>(std::ranges::lower_bound(moments, moment) - moments.begin());
    };
    for (const Block& block : blocks) {
      (block.bytes < bound_ / kSmallShare ? small_ : large_).push_back(items_.size());
      items_.push_back({block.bytes, place_of(block.begin), place_of(block.end + 1)});
    }
    std::ranges::stable_sort(small_, std::ranges::greater(), [&](size_t b) { return items_[b].bytes; });
    const size_t most_steps = effort == PackEffort::quick ? kMostStepsOfQuick : kMostSteps;
    tries_left_ = most_steps / (1 + large_.size() * large_.size());
  }

  /// The best packing, of all blocks; none when a try would take too long.
  Packing run() {
    for (const Entrant& entrant : kEntrants) {
      if (is_done()) break;
      Order order = large_;
      // Alike ones: the longer life first, then the larger.
      std::ranges::stable_sort(order, std::ranges::greater(), [&](size_t b) { return by_bytes(items_[b]); });
      std::ranges::stable_sort(order, std::ranges::greater(), [&](size_t b) { return by_life(items_[b]); });
      std::ranges::stable_sort(order, std::ranges::greater(), [&](size_t b) { return entrant.rank(items_[b]); });
      Packing packing = attempt(entrant.method, order);
      results_.push_back({std::move(packing), entrant.method, std::move(order)});
    }
    std::ranges::stable_sort(results_, {}, [](const Result& result) { return result.packing.bytes; });
    for (size_t i = 0; i < std::min(kImproved, results_.size()); ++i) improve(results_[i]);
    if (best_.offsets.empty()) return best_;
    place_greedily(items_, small_, best_);
    return std::move(best_);
  }

 private:
  struct Result {
    Packing packing;
    Method method;
    Order order;
  };

  bool is_done() const { return tries_left_ == 0 || best_.bytes <= enough_bytes_; }

  Packing attempt(Method method, const Order& order) {
    --tries_left_;
    Packing packing = method(items_, moments_, order);
    if (packing.bytes < best_.bytes) best_ = packing;
    return packing;
  }

  void improve(const Result& result) {
    Order order = result.order;
    const auto step = static_cast<int64_t>(1 + order.size() / kPassed);
    std::vector<int64_t> places(items_.size(), 0);
    for (size_t i = 0; i < order.size(); ++i) places[order[i]] = static_cast<int64_t>(i);
    Packing packing = result.packing;
    for (size_t round = 0; round < kMostRounds && !is_done(); ++round) {
      for (const size_t b : order) {
        if (packing.offsets[b] + items_[b].bytes > bound_) places[b] -= step;
      }
      std::ranges::stable_sort(order, {}, [&](size_t b) { return places[b]; });
      packing = attempt(result.method, order);
    }
  }

  int64_t bound_;  // the most bytes that live at once
  int64_t enough_bytes_;
  int moments_ = 0;
  std::vector<Item> items_;
  Order large_;
  Order small_;
  size_t tries_left_ = 0;
  std::vector<Result> results_;
  Packing best_;
};

}  // namespace

LargestLive largest_live(std::span<const Block> blocks) {
  std::map<int64_t, int64_t> change;
  for (const Block& block : blocks) {
    change[block.begin] += block.bytes;
    change[block.end + 1] -= block.bytes;
  }
  LargestLive largest;
  int64_t live = 0;
  for (const auto& [moment, bytes] : change) {
    live += bytes;
    if (live > largest.bytes) largest = {live, moment};
  }
  return largest;
}

int64_t pack(std::span<Block> blocks, int64_t enough_bytes, PackEffort effort) {
  if (blocks.empty()) return 0;
  Packing best = pack_in_time(blocks);
  if (best.bytes > enough_bytes) {
    Packing other = Tournament(blocks, enough_bytes, effort).run();
    if (other.bytes < best.bytes) best = std::move(other);
  }
  for (size_t b = 0; b < blocks.size(); ++b) blocks[b].offset = best.offsets[b];
  return best.bytes;
}

}  // namespace mpc
