#include "passes/skyline.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <queue>
#include <utility>

namespace mpc {
namespace {

/// What is filled from `begin` up to before `end`, in places of the sorted moments.
struct Level {
  int begin = 0;
  int end = 0;
  int64_t height = 0;
};

/// Levels side by side, no two neighbours of one height; the lowest is at hand.
class Skyline {
 public:
  explicit Skyline(int moments) : levels_(static_cast<size_t>(moments)) {
    levels_[0] = {0, moments, 0};
    queue_.push({0, 0});
  }

  /// The first of the lowest.
  Level lowest() {
    while (!is_current(queue_.top())) queue_.pop();
    return levels_[static_cast<size_t>(queue_.top().begin)];
  }
  /// Raises the part of a level from `begin` up to before `end`.
  void raise(const Level& level, int begin, int end, int64_t height) {
    const std::optional<Level> before = before_of(level);
    const std::optional<Level> after = after_of(level);
    Level raised{begin, end, height};
    drop(level);
    if (level.begin < begin) {
      put({level.begin, begin, level.height});
    } else if (before && before->height == height) {
      drop(*before);
      raised.begin = before->begin;
    }
    if (end < level.end) {
      put({end, level.end, level.height});
    } else if (after && after->height == height) {
      drop(*after);
      raised.end = after->end;
    }
    put(raised);
  }
  /// Up to its lower neighbour.
  void fill(const Level& level) {
    int64_t height = kEndless;
    if (const auto before = before_of(level)) height = before->height;
    if (const auto after = after_of(level)) height = std::min(height, after->height);
    raise(level, level.begin, level.end, height);
  }

 private:
  struct Place {
    int64_t height;
    int begin;
    bool operator<(const Place& other) const {  // the queue's top is the largest
      return std::pair(height, begin) > std::pair(other.height, other.begin);
    }
  };

  void put(const Level& level) {
    levels_[static_cast<size_t>(level.begin)] = level;
    levels_[static_cast<size_t>(level.end) - 1] = level;
    queue_.push({level.height, level.begin});
  }
  void drop(const Level& level) {
    levels_[static_cast<size_t>(level.begin)].height = -1;
    levels_[static_cast<size_t>(level.end) - 1].height = -1;
  }
  bool is_current(const Place& place) const {
    const Level& level = levels_[static_cast<size_t>(place.begin)];
    return level.begin == place.begin && level.height == place.height;
  }
  std::optional<Level> before_of(const Level& level) const {
    if (level.begin == 0) return std::nullopt;
    return levels_[static_cast<size_t>(level.begin) - 1];
  }
  std::optional<Level> after_of(const Level& level) const {
    if (static_cast<size_t>(level.end) == levels_.size()) return std::nullopt;
    return levels_[static_cast<size_t>(level.end)];
  }

  std::vector<Level> levels_;  // each at its first and at its last moment
  std::priority_queue<Place> queue_;
};

/// Places in a row, of which some were taken.
class Places {
 public:
  explicit Places(size_t count) : next_(count + 1) { std::iota(next_.begin(), next_.end(), size_t{0}); }
  void take(size_t place) { next_[place] = place + 1; }
  /// The first from here on that was not taken; behind the last when all were.
  size_t from(size_t place) {
    size_t end = place;
    while (next_[end] != end) end = next_[end];
    while (next_[place] != place) place = std::exchange(next_[place], end);
    return end;
  }

 private:
  std::vector<size_t> next_;  // itself, or one behind it when it was taken
};

/// Blocks that are not placed yet: in the order given, and by the moments at which they begin.
class Waiting {
 public:
  Waiting(const std::vector<Item>& items, int moments, const Order& order)
      : items_(items),
        order_(order),
        places_(order.size()),
        by_begin_(order.size()),
        row_of_(order.size()),
        rows_(order.size()),
        first_row_(static_cast<size_t>(moments) + 1, 0) {
    std::iota(by_begin_.begin(), by_begin_.end(), size_t{0});
    std::ranges::stable_sort(by_begin_, {}, [&](size_t place) { return items[order[place]].begin; });
    for (size_t row = 0; row < by_begin_.size(); ++row) row_of_[by_begin_[row]] = row;
    for (const size_t b : order) ++first_row_[static_cast<size_t>(items[b].begin) + 1];
    std::partial_sum(first_row_.begin(), first_row_.end(), first_row_.begin());
  }

  /// The place in the order of the first block that fits into a level; the order's size when none does.
  size_t first_within(const Level& level) {
    const size_t from = first_row_[static_cast<size_t>(level.begin)];
    const size_t to = first_row_[static_cast<size_t>(level.end)];
    // Of a wide level the order soon has one that fits; in a narrow one few begin.
    size_t place = places_.from(0);
    for (size_t i = from; i < to && place < order_.size(); ++i, place = places_.from(place + 1)) {
      if (fits(place, level)) return place;
    }
    size_t first = order_.size();
    for (size_t row = rows_.from(from); row < to; row = rows_.from(row + 1)) {
      if (by_begin_[row] < first && fits(by_begin_[row], level)) first = by_begin_[row];
    }
    return first;
  }
  void take(size_t place) {
    places_.take(place);
    rows_.take(row_of_[place]);
  }

 private:
  bool fits(size_t place, const Level& level) const {
    const Item& item = items_[order_[place]];
    return item.begin >= level.begin && item.end <= level.end;
  }

  const std::vector<Item>& items_;
  const Order& order_;
  Places places_;
  std::vector<size_t> by_begin_;  // places
  std::vector<size_t> row_of_;    // by place: where it is in by_begin_
  Places rows_;
  std::vector<size_t> first_row_;  // by moment: the first in by_begin_ that begins there or later
};

}  // namespace

Packing pack_by_skyline(const std::vector<Item>& items, int moments, const Order& order) {
  Packing result{0, std::vector<int64_t>(items.size(), -1)};
  Skyline skyline(moments);
  Waiting waiting(items, moments, order);
  for (size_t left = order.size(); left > 0;) {
    const Level lowest = skyline.lowest();
    const size_t first = waiting.first_within(lowest);
    if (first == order.size()) {
      skyline.fill(lowest);
      continue;
    }
    const Item& item = items[order[first]];
    result.offsets[order[first]] = lowest.height;
    result.bytes = std::max(result.bytes, lowest.height + item.bytes);
    skyline.raise(lowest, item.begin, item.end, lowest.height + item.bytes);
    waiting.take(first);
    --left;
  }
  return result;
}

}  // namespace mpc
