#include "passes/place/stage_moves.h"

#include <algorithm>

#include "passes/place/search/contiguous.h"

namespace mpc::place {
namespace {

class StageMoves {
 public:
  StageMoves(const Problem& problem, const StageInstance& stages, std::vector<int> device, int least_devices,
             bool obeys_capacities, int most_evaluations)
      : problem_(problem),
        stages_(stages),
        instance_(stages.instance()),
        device_(std::move(device)),
        least_devices_(least_devices),
        obeys_capacities_(obeys_capacities),
        left_(most_evaluations),
        pin_(static_cast<size_t>(instance_.blocks), -1) {
    for (size_t b = 0; b < problem.pinned.size(); ++b) {
      if (problem.pinned[b] >= 0) pin_[static_cast<size_t>(stages.group_of_block()[b])] = problem.pinned[b];
    }
    now_ = value_of(device_);
  }

  std::vector<int> run() {
    while (left_ > 0 && (move_blocks() || swap_devices())) {
    }
    return std::move(device_);
  }

 private:
  /// What is made small: the largest load, then what its device and all others send.
  struct Value {
    double load_s = kForbidden;
    double transfer_s = kForbidden;
    int busiest = 0;
    bool is_below(const Value& other) const {
      constexpr double kRounding = 1e-9;
      if (load_s < other.load_s * (1 - kRounding)) return true;
      return load_s <= other.load_s && transfer_s < other.transfer_s * (1 - kRounding);
    }
  };

  Value value_of(const std::vector<int>& device_of_group) {
    --left_;
    std::vector<int> device(problem_.pinned.size());
    for (size_t b = 0; b < device.size(); ++b)
      device[b] = device_of_group[static_cast<size_t>(stages_.group_of_block()[b])];
    const Evaluation value = evaluate(problem_, device);
    if (value.devices_used < least_devices_ || (obeys_capacities_ && value.overflow_bytes > 0)) return {};
    const auto busiest = std::ranges::max_element(value.load_s) - value.load_s.begin();
    return {value.largest_load_s, value.transfer_s, static_cast<int>(busiest)};
  }

  bool try_split(std::vector<int> device_of_group) {
    if (left_ <= 0) return false;
    const Value value = value_of(device_of_group);
    if (!value.is_below(now_)) return false;
    now_ = value;
    device_ = std::move(device_of_group);
    return true;
  }

  /// [device]: its stage, -1 for unused ones; and the devices in the order of stages.
  void number_stages() {
    order_.clear();
    stage_of_.assign(static_cast<size_t>(problem_.device_count), -1);
    std::vector<int> split = stages_.numbers_of(device_);
    const std::vector<int> stage = stages_of(instance_, split);
    order_.resize(static_cast<size_t>(std::ranges::count_if(stage, [](int s) { return s >= 0; })));
    for (size_t i = 0; i < stage.size(); ++i) {
      if (stage[i] < 0) continue;
      const int device = stages_.devices()[i];
      stage_of_[static_cast<size_t>(device)] = stage[i];
      order_[static_cast<size_t>(stage[i])] = device;
    }
  }

  int stage(int group) const { return stage_of_[static_cast<size_t>(device_[static_cast<size_t>(group)])]; }

  /// Is the group on the busiest device, or does a tensor connect it with that?
  bool touches(int group, int device) const {
    const auto is_there = [&](int other) { return device_[static_cast<size_t>(other)] == device; };
    if (is_there(group)) return true;
    for (const int t : instance_.consumed[group]) {
      if (is_there(instance_.producer[static_cast<size_t>(t)])) return true;
    }
    return std::ranges::any_of(instance_.produced[group],
                               [&](int t) { return std::ranges::any_of(instance_.consumers[t], is_there); });
  }

  bool move_blocks() {
    bool improved = false;
    number_stages();
    for (int group = 0; group < instance_.blocks && left_ > 0; ++group) {
      if (pin_[static_cast<size_t>(group)] >= 0 || !touches(group, now_.busiest)) continue;
      int first = 0;
      int last = static_cast<int>(order_.size()) - 1;
      for (const int other : instance_.before[group]) first = std::max(first, stage(other));
      for (const int other : instance_.after[group]) last = std::min(last, stage(other));
      for (int to = first; to <= last; ++to) {
        if (to == stage(group)) continue;
        std::vector<int> moved = device_;
        moved[static_cast<size_t>(group)] = order_[static_cast<size_t>(to)];
        if (!try_split(std::move(moved))) continue;
        improved = true;
        number_stages();
        break;
      }
    }
    return improved;
  }

  bool swap_devices() {
    bool improved = false;
    for (int a = 0; a < problem_.device_count && left_ > 0; ++a) {
      for (int b = 0; b < a && left_ > 0; ++b) {
        std::vector<int> swapped = device_;
        bool obeys_pins = true;
        for (size_t group = 0; group < swapped.size(); ++group) {
          if (swapped[group] != a && swapped[group] != b) continue;
          swapped[group] = swapped[group] == a ? b : a;
          obeys_pins = obeys_pins && (pin_[group] < 0 || pin_[group] == swapped[group]);
        }
        if (obeys_pins) improved = try_split(std::move(swapped)) || improved;
      }
    }
    return improved;
  }

  const Problem& problem_;
  const StageInstance& stages_;
  const Instance& instance_;
  std::vector<int> device_;  // [group]: of the problem
  int least_devices_;
  bool obeys_capacities_;
  int left_;
  std::vector<int> pin_;  // [group]: device, or -1
  Value now_;
  std::vector<int> stage_of_;  // [device]
  std::vector<int> order_;     // [stage]: device
};

}  // namespace

std::vector<int> improve_stages(const Problem& problem, const StageInstance& stages, std::vector<int> device_of_group,
                                int least_devices, bool obeys_capacities, int most_evaluations) {
  return StageMoves(problem, stages, std::move(device_of_group), least_devices, obeys_capacities, most_evaluations)
      .run();
}

}  // namespace mpc::place
