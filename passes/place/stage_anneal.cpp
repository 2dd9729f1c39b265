#include "passes/place/stage_anneal.h"

#include <algorithm>
#include <utility>

#include "passes/place/evaluate.h"
#include "passes/place/search/contiguous.h"

namespace mpc::place {
namespace {

constexpr double kFirstTemperature = 1;  // shares of the load: links may differ by orders of magnitude
constexpr double kLastTemperature = 0.001;

class StageAnnealer {
 public:
  StageAnnealer(const Problem& problem, const StageInstance& stages, const std::vector<int>& device,
                const AnnealOptions& options, Random& random)
      : problem_(problem),
        stages_(stages),
        instance_(stages.instance()),
        options_(options),
        random_(random),
        pin_(static_cast<size_t>(instance_.blocks), -1),
        best_(device) {
    for (size_t b = 0; b < problem.pinned.size(); ++b) {
      if (problem.pinned[b] >= 0) pin_[static_cast<size_t>(stages.group_of_block()[b])] = problem.pinned[b];
    }
    put_in_order(device);
    now_ = energy_of(best_value_);
  }

  std::vector<int> run() {
    if (instance_.blocks < 2 || problem_.device_count < 2) return best_;
    const int evaluations = options_.evaluations;
    for (int i = 0; i < evaluations; ++i) {
      // Linear in the logarithm, by halves: the same on every machine.
      const double left = 1 - static_cast<double>(i) / evaluations;
      temperature_ = kLastTemperature + (kFirstTemperature - kLastTemperature) * left * left * left;
      propose();
    }
    return best_;
  }

 private:
  /// Stage s is on device order_[s]; some stages at the end may be empty.
  void put_in_order(const std::vector<int>& device) {
    const std::vector<int> stage = stages_of(instance_, stages_.numbers_of(device));
    std::vector<std::pair<int, int>> sorted;  // stage, device; unused ones last
    for (size_t i = 0; i < stage.size(); ++i)
      sorted.emplace_back(stage[i] < 0 ? problem_.device_count : stage[i], stages_.devices()[i]);
    std::ranges::sort(sorted);
    std::vector<int> position(static_cast<size_t>(problem_.device_count));
    for (const auto& [unused, d] : sorted) {
      position[static_cast<size_t>(d)] = static_cast<int>(order_.size());
      order_.push_back(d);
    }
    for (const int d : device) stage_.push_back(position[static_cast<size_t>(d)]);
  }

  /// The goal's value of each device, from which the largest one is to be small.
  std::vector<double> values_of(const Evaluation& evaluation) const {
    if (options_.goal == AnnealGoal::load) return evaluation.load_s;
    std::vector<double> share;
    for (size_t d = 0; d < evaluation.memory_bytes.size(); ++d) {
      share.push_back(static_cast<double>(evaluation.memory_bytes[d]) /
                      static_cast<double>(problem_.capacity_bytes[d]));
    }
    return share;
  }

  /// A soft largest value, so that others count a little; infinite where the split is none.
  double energy_of(double& largest) {
    std::vector<int> device(problem_.pinned.size());
    for (size_t b = 0; b < device.size(); ++b) {
      const int stage = stage_[static_cast<size_t>(stages_.group_of_block()[b])];
      device[b] = order_[static_cast<size_t>(stage)];
    }
    const Evaluation evaluation = evaluate(problem_, device);
    const std::vector<double> values = values_of(evaluation);
    largest = *std::ranges::max_element(values);
    const bool must_fit = options_.goal == AnnealGoal::load && options_.obeys_capacities;
    if (evaluation.devices_used < options_.least_devices || (must_fit && evaluation.overflow_bytes > 0))
      return kForbidden;
    constexpr double kOthers = 0.1;
    double second = 0;
    double sum = 0;
    for (const double value : values) {
      sum += value;
      if (value < largest) second = std::max(second, value);
    }
    return largest + kOthers * second + kOthers * sum / static_cast<double>(values.size());
  }

  void propose() {
    const int choice = random_.below(8);
    undo_.clear();
    if (choice == 0) {
      swap_stages();
    } else if (choice < 4) {
      move_one();
    } else {
      move_many();
    }
  }

  void swap_stages() {
    const auto a = static_cast<size_t>(random_.below(problem_.device_count));
    const auto b = static_cast<size_t>(random_.below(problem_.device_count));
    if (a == b) return;
    std::swap(order_[a], order_[b]);
    if (!obeys_pins() || !accept()) std::swap(order_[a], order_[b]);
  }

  bool obeys_pins() const {
    for (size_t group = 0; group < pin_.size(); ++group) {
      if (pin_[group] >= 0 && order_[static_cast<size_t>(stage_[group])] != pin_[group]) return false;
    }
    return true;
  }

  void put(int group, int stage) {
    undo_.emplace_back(group, stage_[static_cast<size_t>(group)]);
    stage_[static_cast<size_t>(group)] = stage;
  }

  void finish_move() {
    if (undo_.empty() || (obeys_pins() && accept())) return;
    for (auto it = undo_.rbegin(); it != undo_.rend(); ++it) stage_[static_cast<size_t>(it->first)] = it->second;
  }

  /// To any stage between its operands and its readers.
  void move_one() {
    const int group = random_.below(instance_.blocks);
    int first = 0;
    int last = problem_.device_count - 1;
    for (const int other : instance_.before[group]) first = std::max(first, stage_[static_cast<size_t>(other)]);
    for (const int other : instance_.after[group]) last = std::min(last, stage_[static_cast<size_t>(other)]);
    if (first == last) return;
    const int to = first + random_.below(last - first + 1);
    if (to != stage_[static_cast<size_t>(group)]) put(group, to);
    finish_move();
  }

  /// To a neighbouring stage, with those of its stage that have to be there then.
  void move_many() {
    const int group = random_.below(instance_.blocks);
    const bool is_forward = random_.below(2) == 0;
    const int from = stage_[static_cast<size_t>(group)];
    const int to = from + (is_forward ? 1 : -1);
    if (to < 0 || to >= problem_.device_count) return;
    const Rows& next = is_forward ? instance_.after : instance_.before;
    put(group, to);
    for (size_t i = 0; i < undo_.size(); ++i) {
      for (const int other : next[undo_[i].first]) {
        if (stage_[static_cast<size_t>(other)] == from) put(other, to);
      }
    }
    finish_move();
  }

  bool accept() {
    double value = 0;
    const double energy = energy_of(value);
    if (energy == kForbidden) return false;
    if (value < best_value_) {
      best_value_ = value;
      for (size_t group = 0; group < best_.size(); ++group) best_[group] = order_[static_cast<size_t>(stage_[group])];
    }
    // A worse one by less than a random share of the load, the smaller shares the likelier.
    const double draw = static_cast<double>(random_.below(1 << 20)) / (1 << 20);
    if (energy > now_ * (1 + temperature_ * draw * draw)) return false;
    now_ = energy;
    return true;
  }

  const Problem& problem_;
  const StageInstance& stages_;
  const Instance& instance_;
  const AnnealOptions& options_;
  Random& random_;
  std::vector<int> pin_;                   // [group]: device, or -1
  std::vector<int> order_;                 // [stage]: device
  std::vector<int> stage_;                 // [group]
  std::vector<std::pair<int, int>> undo_;  // (group, its stage before)
  std::vector<int> best_;                  // [group]: device
  double temperature_ = 0;
  double now_ = 0;
  double best_value_ = 0;
};

}  // namespace

std::vector<int> anneal_stages(const Problem& problem, const StageInstance& stages,
                               const std::vector<int>& device_of_group, const AnnealOptions& options, Random& random) {
  return StageAnnealer(problem, stages, device_of_group, options, random).run();
}

}  // namespace mpc::place
