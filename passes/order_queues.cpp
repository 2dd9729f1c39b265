#include "passes/order_queues.h"

#include <algorithm>
#include <functional>
#include <span>
#include <utility>

#include "compiler/plan/views.h"

namespace mpc {
namespace {

/// The accesses to a range of bytes that a later access must come after.
struct Range {
  int64_t writer = -1;          // last instruction that wrote it
  int64_t reader = -1;          // last one that read it since then
  std::vector<int64_t> before;  // those that read it before that one; of one queue in a row the last
};

/// Bytes of an arena in disjoint ranges, cut wherever a slice begins or ends.
class ArenaHistory {
 public:
  void add_slice(const PlanSlice& slice) {
    ends_.push_back(slice.offset);
    ends_.push_back(slice.offset + slice.bytes);
  }
  /// @pre every slice was added.
  void cut() {
    std::ranges::sort(ends_);
    ends_.erase(std::ranges::unique(ends_).begin(), ends_.end());
    ranges_.resize(ends_.size());
  }
  /// @pre the offset is an end of a slice.
  size_t range_at(int64_t offset) const {
    return static_cast<size_t>(std::ranges::lower_bound(ends_, offset) - ends_.begin());
  }
  std::span<Range> ranges(size_t first, size_t behind) { return std::span(ranges_).subspan(first, behind - first); }

 private:
  std::vector<int64_t> ends_;  // range i lies between ends i and i + 1
  std::vector<Range> ranges_;
};

class Ordering {
 public:
  explicit Ordering(const Plan& plan)
      : plan_(plan),
        origins_(origins_of_bytes(plan)),
        arenas_(plan.devices.size()),
        queue_count_(plan.queues.size()),
        clock_(queue_count_ * queue_count_),
        snapshot_(queue_count_, kNone) {
    for (const PlanSlice& slice : plan.slices) arenas_[slice.device.index()].add_slice(slice);
    for (ArenaHistory& arena : arenas_) arena.cut();
    for (const PlanSlice& slice : plan.slices) {
      const ArenaHistory& arena = arenas_[slice.device.index()];
      ranges_of_slice_.emplace_back(arena.range_at(slice.offset), arena.range_at(slice.offset + slice.bytes));
    }
  }

  QueueOrder run() {
    const size_t count = plan_.instructions.size();
    order_.waits.resize(count);
    order_.event.assign(count, kNone);
    order_.queue_count = queue_count_;
    order_.moments.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const bool is_pair = plan_.instructions[i].action == Action::send;
      order_after_dependencies(i, i);
      if (is_pair) {
        order_after_dependencies(i + 1, i);
        execute_pair(i);
        ++i;
      } else {
        execute(i);
      }
    }
    return std::move(order_);
  }

 private:
  // Adds waits, on the queue of instruction i, for what it depends on. They stand before instruction `before`.
  void order_after_dependencies(size_t i, size_t before) {
    const Instruction& instruction = plan_.instructions[i];
    const PlanIndex queue = instruction.queue;
    latest_.assign(queue_count_, -1);
    const auto depend_on = [&](int64_t earlier) {
      if (earlier < 0 || static_cast<size_t>(earlier) == i) return;
      const PlanIndex other = queue_of(earlier);
      if (other == queue || knows(queue, other, earlier)) return;
      latest_[other] = std::max(latest_[other], earlier);
    };
    for_each_range(instruction.reads, [&](Range& range) {
      depend_on(range.writer);
      if (range.reader >= 0 && queue_of(range.reader) != queue) range.before.push_back(range.reader);
      range.reader = static_cast<int64_t>(i);
    });
    const auto write = [&](Range& range) {
      depend_on(range.writer);
      depend_on(range.reader);
      for (const int64_t reader : range.before) depend_on(reader);
      range.writer = static_cast<int64_t>(i);
      range.reader = -1;
      range.before.clear();
    };
    if (!is_view(plan_, origins_, instruction)) for_each_range(instruction.writes, write);
    if (instruction.workspace != kNone) for_each_range({&instruction.workspace, 1}, write);
    // Later queues first bring what earlier ones may already imply: wait for the latest instruction first.
    std::erase(latest_, -1);
    std::ranges::sort(latest_, std::greater<>());
    for (const int64_t earlier : latest_) {
      const PlanIndex other = queue_of(earlier);
      if (knows(queue, other, earlier)) continue;
      for (PlanIndex q = 0; q < queue_count_; ++q) learn(queue, q, order_.known(static_cast<size_t>(earlier), q));
      if (order_.event[static_cast<size_t>(earlier)] == kNone)
        order_.event[static_cast<size_t>(earlier)] = order_.event_count++;
      order_.waits[before].push_back({queue, order_.event[static_cast<size_t>(earlier)]});
    }
  }

  PlanIndex queue_of(int64_t instruction) const { return plan_.instructions[static_cast<size_t>(instruction)].queue; }

  template <class F>
  void for_each_range(std::span<const PlanIndex> slices, F&& f) {
    for (const PlanIndex s : slices) {
      if (s == kNone) continue;
      const auto [first, behind] = ranges_of_slice_[s];
      for (Range& range : arenas_[plan_.slices[s].device.index()].ranges(first, behind)) f(range);
    }
  }

  // Of queue `other`, how many instructions `queue` knows to be done.
  int64_t& clock(PlanIndex queue, PlanIndex other) { return clock_[queue * queue_count_ + other]; }
  bool knows(PlanIndex queue, PlanIndex other, int64_t instruction) {
    return clock(queue, other) >= order_.known(static_cast<size_t>(instruction), other);
  }
  void learn(PlanIndex queue, PlanIndex other, int64_t done) {
    if (clock(queue, other) >= done) return;
    clock(queue, other) = done;
    snapshot_[queue] = kNone;
  }

  void execute(size_t i) {
    const PlanIndex queue = plan_.instructions[i].queue;
    if (snapshot_[queue] == kNone) {
      snapshot_[queue] = static_cast<PlanIndex>(order_.snapshots.size() / queue_count_);
      const auto row = std::span(clock_).subspan(queue * queue_count_, queue_count_);
      order_.snapshots.insert(order_.snapshots.end(), row.begin(), row.end());
    }
    order_.moments[i] = {queue, snapshot_[queue], ++clock(queue, queue)};
  }

  // The recv is done when the bytes have arrived, so the receiver knows what the sender knew. A send may be done before
  // (compiler/plan/plan.h): the sender learns nothing.
  void execute_pair(size_t i) {
    execute(i);
    const PlanIndex receiver = plan_.instructions[i + 1].queue;
    for (PlanIndex q = 0; q < queue_count_; ++q) learn(receiver, q, order_.known(i, q));
    execute(i + 1);
  }

  const Plan& plan_;
  std::vector<PlanIndex> origins_;  // of the values' bytes
  std::vector<ArenaHistory> arenas_;
  std::vector<std::pair<size_t, size_t>> ranges_of_slice_;  // of its arena: the first, and the one behind the last
  size_t queue_count_;
  std::vector<int64_t> clock_;
  std::vector<PlanIndex> snapshot_;  // [queue]: what its next instruction shares; kNone: it has learned more since
  std::vector<int64_t> latest_;      // of one instruction, per queue, the last one to wait for
  QueueOrder order_;
};

}  // namespace

QueueOrder order_queues(const Plan& plan) {
  return Ordering(plan).run();
}

}  // namespace mpc
