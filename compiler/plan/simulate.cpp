#include "compiler/plan/simulate.h"

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/plan/slices.h"

// A discrete-event replay. Executing in the total order never blocks (plan.h), so one walk over the instructions
// with a ready time per queue and per event gives the times of every instruction.

namespace mpc {
namespace {

// @pre seconds has an entry for the variant, or one for all.
double of_variant(const std::vector<double>& seconds, int variant) {
  return seconds[seconds.size() > 1 ? static_cast<size_t>(variant) : 0];
}

// The moments at which a slice begins and ceases to hold something. Slices that nobody touches stay empty.
struct Life {
  double from_s = 0;
  double to_s = 0;
};

class Lives {
 public:
  explicit Lives(const Plan& plan) : plan_(plan), lives_(plan.slices.size()) {}

  void add(const Instruction& instruction, double start_s, double end_s) {
    for (const PlanIndex slice : instruction.reads) {
      if (slice != kNone) touch(slice, start_s, end_s);
    }
    for (const PlanIndex slice : instruction.writes) {
      // An output that takes the bytes of an input counts from the moment that the input is given up.
      if (slice != kNone) touch(slice, replaces_input(instruction, slice) ? end_s : start_s, end_s);
    }
    if (instruction.workspace != kNone) touch(instruction.workspace, start_s, end_s);
  }

  const std::optional<Life>& operator[](size_t slice) const { return lives_[slice]; }

 private:
  void touch(PlanIndex slice, double from_s, double to_s) {
    std::optional<Life>& life = lives_[slice];
    if (!life) life = Life{from_s, to_s};
    life->to_s = std::max(life->to_s, to_s);
  }

  bool replaces_input(const Instruction& instruction, PlanIndex slice) const {
    return std::ranges::any_of(instruction.reads, [&](PlanIndex read) {
      return read != kNone && plan_.slices[read].offset == plan_.slices[slice].offset &&
             plan_.slices[read].bytes == plan_.slices[slice].bytes;
    });
  }

  const Plan& plan_;
  std::vector<std::optional<Life>> lives_;
};

using Ranges = std::set<std::pair<int64_t, int64_t>>;  // (offset, bytes)

// Values that replace a persistent one have its range, which counts once.
std::vector<Ranges> persistent_ranges(const Plan& plan) {
  std::vector<Ranges> ranges(plan.devices.size());
  for (const PlanSlice& slice : plan.slices) {
    if (slice.value != kNone && is_kept(plan.values[slice.value]))
      ranges[slice.device.index()].emplace(slice.offset, slice.bytes);
  }
  return ranges;
}

struct Change {
  double time_s = 0;
  int64_t bytes = 0;
};

/// A range of an arena that holds something.
struct Held {
  uint32_t device = 0;
  int64_t offset = 0;
  int64_t bytes = 0;
  Life life;
};

// Slices in one range at one time (a value and its views) are held once, from the first to the last.
std::vector<Held> held_once(std::vector<Held> all) {
  std::ranges::sort(all, {},
                    [](const Held& h) { return std::tuple(h.device, h.offset, h.bytes, h.life.from_s, h.life.to_s); });
  std::vector<Held> result;
  for (const Held& held : all) {
    const bool is_same = !result.empty() && result.back().device == held.device &&
                         result.back().offset == held.offset && result.back().bytes == held.bytes;
    if (is_same && held.life.from_s <= result.back().life.to_s) {
      result.back().life.to_s = std::max(result.back().life.to_s, held.life.to_s);
    } else {
      result.push_back(held);
    }
  }
  return result;
}

std::vector<MemoryPoint> points_of(std::vector<Change> changes, int64_t persistent_bytes) {
  std::ranges::stable_sort(changes, {}, &Change::time_s);
  std::vector<MemoryPoint> points = {{0, persistent_bytes}};
  int64_t bytes = persistent_bytes;
  for (size_t i = 0; i < changes.size(); ++i) {
    bytes += changes[i].bytes;
    const bool is_last_of_moment = i + 1 == changes.size() || changes[i + 1].time_s != changes[i].time_s;
    if (is_last_of_moment && bytes != points.back().bytes) points.push_back({changes[i].time_s, bytes});
  }
  return points;
}

/// `seconds_of(i)` is how long the run or recv instruction i takes.
template <typename SecondsOf>
Timeline play(const Plan& plan, const SecondsOf& seconds_of) {
  Timeline timeline;
  timeline.device_busy_s.assign(plan.devices.size(), 0);
  std::vector<double> queue_s(plan.queues.size(), 0);
  std::vector<double> event_s(plan.event_count, 0);
  std::vector<char> computes(plan.devices.size(), 0);
  for (size_t i = 0; i < plan.instructions.size(); ++i) {
    const Instruction& instruction = plan.instructions[i];
    const PlanIndex index = static_cast<PlanIndex>(i);
    double& now_s = queue_s[instruction.queue];
    switch (instruction.action) {
      case Action::run: {
        const double seconds = seconds_of(i);
        const size_t device = plan.queues[instruction.queue].device.index();
        timeline.entries.push_back({index, now_s, now_s + seconds});
        timeline.device_busy_s[device] += seconds;
        computes[device] = 1;
        now_s += seconds;
        break;
      }
      case Action::send: {
        // The recv is the next instruction. The queues of a link carry nothing else, so they stand for the link.
        double& peer_s = queue_s[plan.instructions[i + 1].queue];
        const double start_s = std::max(now_s, peer_s);
        now_s = peer_s = start_s + seconds_of(i + 1);
        timeline.entries.push_back({index, start_s, now_s});
        timeline.entries.push_back({index + 1, start_s, now_s});
        break;
      }
      case Action::record:
        event_s[instruction.index] = now_s;
        break;
      case Action::wait:
        now_s = std::max(now_s, event_s[instruction.index]);
        break;
      case Action::recv:
      case Action::feed:
      case Action::fetch:
        break;
    }
  }
  for (const double end_s : queue_s) timeline.step_seconds = std::max(timeline.step_seconds, end_s);
  double busy_s = 0;
  for (const double seconds : timeline.device_busy_s) busy_s += seconds;
  const auto computing = static_cast<double>(std::ranges::count(computes, 1));
  const double available_s = computing * timeline.step_seconds;
  timeline.bubble = available_s > 0 ? 1 - busy_s / available_s : 0;
  return timeline;
}

}  // namespace

Timeline simulate(const Plan& plan) {
  return play(plan, [&](size_t i) {
    const Instruction& instruction = plan.instructions[i];
    const int variant = plan.variant_of(instruction.microbatch);
    if (instruction.action == Action::run) return of_variant(plan.nodes[instruction.index].seconds, variant);
    return of_variant(plan.transfers[instruction.index].seconds, variant);
  });
}

Timeline replay(const Plan& plan, const std::vector<double>& seconds) {
  return play(plan, [&](size_t i) { return seconds[i]; });
}

void for_each_timed(const Plan& plan, const Timeline& timeline,
                    const std::function<void(const Instruction&, double start_s, double end_s)>& visit) {
  std::vector<double> queue_s(plan.queues.size(), 0);
  size_t next = 0;
  for (size_t i = 0; i < plan.instructions.size(); ++i) {
    const Instruction& instruction = plan.instructions[i];
    double& now_s = queue_s[instruction.queue];
    double start_s = now_s;
    if (next < timeline.entries.size() && timeline.entries[next].instruction == i) {
      start_s = timeline.entries[next].start_s;
      now_s = timeline.entries[next].end_s;
      ++next;
    }
    visit(instruction, start_s, now_s);
  }
}

std::vector<std::vector<MemoryPoint>> memory_over_time(const Plan& plan, const Timeline& timeline) {
  Lives lives(plan);
  for_each_timed(plan, timeline, [&](const Instruction& instruction, double start_s, double end_s) {
    lives.add(instruction, start_s, end_s);
  });
  const std::vector<Ranges> persistent = persistent_ranges(plan);
  std::vector<Held> held;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const PlanSlice& slice = plan.slices[i];
    if (!lives[i] || persistent[slice.device.index()].contains({slice.offset, slice.bytes})) continue;
    held.push_back({slice.device.index(), slice.offset, slice.bytes, *lives[i]});
  }
  std::vector<std::vector<Change>> changes(plan.devices.size());
  for (const Held& range : held_once(std::move(held))) {
    changes[range.device].push_back({range.life.from_s, range.bytes});
    changes[range.device].push_back({range.life.to_s, -range.bytes});
  }
  std::vector<std::vector<MemoryPoint>> result(plan.devices.size());
  for (size_t d = 0; d < plan.devices.size(); ++d) {
    int64_t persistent_bytes = 0;
    for (const auto& [offset, bytes] : persistent[d]) persistent_bytes += bytes;
    result[d] = points_of(std::move(changes[d]), persistent_bytes);
  }
  return result;
}

}  // namespace mpc
