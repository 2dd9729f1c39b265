#include "passes/order_queues.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <utility>

#include "compiler/plan/views.h"

namespace mpc {
namespace {

// The accesses to one range of bytes that a later access must come after.
struct Range {
  int64_t end = 0;
  int64_t writer = -1;           // last instruction that wrote it
  std::vector<int64_t> readers;  // since then; of one queue in a row the last
};

/// Bytes of one arena as disjoint ranges with their last accesses.
class ArenaHistory {
 public:
  // Calls f(range) for the ranges that cover [begin, end), split at its ends.
  template <class F>
  void for_each(int64_t begin, int64_t end, F&& f) {
    if (begin == end) return;
    split_at(begin);
    split_at(end);
    int64_t at = begin;
    while (at < end) {
      auto it = ranges_.lower_bound(at);
      if (it == ranges_.end() || it->first > at) {
        const int64_t gap_end = it == ranges_.end() ? end : std::min(end, it->first);
        it = ranges_.emplace(at, Range{gap_end, -1, {}}).first;
      }
      f(it->second);
      at = it->second.end;
    }
  }

 private:
  void split_at(int64_t offset) {
    auto it = ranges_.upper_bound(offset);
    if (it == ranges_.begin()) return;
    it = std::prev(it);
    if (it->first == offset || it->second.end <= offset) return;
    Range tail = it->second;
    it->second.end = offset;
    ranges_.emplace(offset, std::move(tail));
  }

  std::map<int64_t, Range> ranges_;
};

class Ordering {
 public:
  explicit Ordering(const Plan& plan)
      : plan_(plan),
        origins_(origins_of_bytes(plan)),
        arenas_(plan.devices.size()),
        clock_(plan.queues.size(), std::vector<int64_t>(plan.queues.size(), 0)) {}

  QueueOrder run() {
    const size_t count = plan_.instructions.size();
    order_.known.resize(count);
    order_.waits.resize(count);
    order_.event.assign(count, kNone);
    tick_.resize(count);
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
    latest_.assign(plan_.queues.size(), -1);
    const auto depend_on = [&](int64_t earlier) {
      if (earlier < 0 || static_cast<size_t>(earlier) == i) return;
      const PlanIndex other = queue_of(earlier);
      if (other == queue || clock_[queue][other] >= tick_[static_cast<size_t>(earlier)]) return;
      latest_[other] = std::max(latest_[other], earlier);
    };
    for_each_range(instruction.reads, [&](Range& range) {
      depend_on(range.writer);
      const bool is_next = !range.readers.empty() && queue_of(range.readers.back()) == queue;
      if (is_next) range.readers.pop_back();
      range.readers.push_back(static_cast<int64_t>(i));
    });
    const auto write = [&](Range& range) {
      depend_on(range.writer);
      for (const int64_t reader : range.readers) depend_on(reader);
      range.writer = static_cast<int64_t>(i);
      range.readers.clear();
    };
    if (!is_view(plan_, origins_, instruction)) for_each_range(instruction.writes, write);
    if (instruction.workspace != kNone) for_each_range({instruction.workspace}, write);
    // Later queues first bring what earlier ones may already imply: wait for the latest instruction first.
    std::erase(latest_, -1);
    std::ranges::sort(latest_, std::greater<>());
    for (const int64_t earlier : latest_) {
      const PlanIndex other = queue_of(earlier);
      if (clock_[queue][other] >= tick_[static_cast<size_t>(earlier)]) continue;
      join(queue, order_.known[static_cast<size_t>(earlier)]);
      if (order_.event[static_cast<size_t>(earlier)] == kNone)
        order_.event[static_cast<size_t>(earlier)] = order_.event_count++;
      order_.waits[before].push_back({queue, order_.event[static_cast<size_t>(earlier)]});
    }
  }

  PlanIndex queue_of(int64_t instruction) const { return plan_.instructions[static_cast<size_t>(instruction)].queue; }

  template <class F>
  void for_each_range(const std::vector<PlanIndex>& slices, F&& f) {
    for (const PlanIndex s : slices) {
      if (s == kNone) continue;
      const PlanSlice& slice = plan_.slices[s];
      arenas_[slice.device.index()].for_each(slice.offset, slice.offset + slice.bytes, f);
    }
  }

  void join(PlanIndex queue, const std::vector<int64_t>& other) {
    for (size_t q = 0; q < other.size(); ++q) clock_[queue][q] = std::max(clock_[queue][q], other[q]);
  }

  void execute(size_t i) {
    const PlanIndex queue = plan_.instructions[i].queue;
    tick_[i] = ++clock_[queue][queue];
    order_.known[i] = clock_[queue];
  }

  // The recv is done when the bytes have arrived, so the receiver knows what the sender knew. A send may be done before
  // (compiler/plan/plan.h): the sender learns nothing.
  void execute_pair(size_t i) {
    const PlanIndex sender = plan_.instructions[i].queue;
    const PlanIndex receiver = plan_.instructions[i + 1].queue;
    tick_[i] = ++clock_[sender][sender];
    tick_[i + 1] = ++clock_[receiver][receiver];
    join(receiver, clock_[sender]);
    order_.known[i] = clock_[sender];
    order_.known[i + 1] = clock_[receiver];
  }

  const Plan& plan_;
  std::vector<PlanIndex> origins_;  // of the values' bytes
  std::vector<ArenaHistory> arenas_;
  std::vector<std::vector<int64_t>> clock_;  // [queue][queue]: instructions known to be done
  std::vector<int64_t> tick_;                // [instruction]: its place in its queue, from 1
  std::vector<int64_t> latest_;              // of one instruction, per queue, the last one to wait for
  QueueOrder order_;
};

}  // namespace

QueueOrder order_queues(const Plan& plan) {
  return Ordering(plan).run();
}

}  // namespace mpc
