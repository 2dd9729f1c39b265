#include "passes/place/refine.h"

#include <algorithm>

namespace mpc::place {
namespace {

Score score_without_value(const Problem& problem, const std::vector<int>& device_of_block, Objective objective) {
  const Evaluation value = evaluate(problem, device_of_block);
  Score result;
  result.overflow_bytes = value.overflow_bytes;
  result.sent_bytes = value.sent_bytes;
  if (objective == Objective::throughput)
    result.unused_devices =
        std::max(0, std::min(problem.device_count, static_cast<int>(std::ranges::count(problem.follows, -1))) -
                        value.devices_used);
  return result;
}

// A stream of micro-batches takes the largest load for each, after one has passed through all devices: a placement that
// goes to and fro between devices pays for it there.
double comparable_value(const Problem& problem, const std::vector<int>& device_of_block, Objective objective) {
  if (objective != Objective::throughput) return value_of(problem, device_of_block, objective);
  constexpr double kStream = 8;
  return critical_path_s(problem, device_of_block) + (kStream - 1) * evaluate(problem, device_of_block).largest_load_s;
}

class Refiner {
 public:
  Refiner(const Problem& problem, std::vector<int> start, Objective objective, int most_evaluations)
      : problem_(problem),
        device_(with_followers(problem, std::move(start))),
        objective_(objective),
        left_(most_evaluations),
        best_(score_without_value(problem, device_, objective)) {}

  std::vector<int> run() {
    bool improved = true;
    while (improved && left_ > 0) {
      improved = sweep_single_blocks();
      improved = sweep_runs() || improved;
    }
    return device_;
  }

 private:
  // Devices on which a neighbour of the block runs: moving elsewhere only adds transfers (except for the least loaded
  // one).
  std::vector<int> candidate_devices(size_t block) const {
    std::vector<int> devices;
    for (const int t : problem_.tensors_of[block]) {
      const Tensor& tensor = problem_.tensors[static_cast<size_t>(t)];
      devices.push_back(device_[static_cast<size_t>(tensor.producer)]);
      for (const int consumer : tensor.consumers) devices.push_back(device_[static_cast<size_t>(consumer)]);
    }
    const Evaluation now = evaluate(problem_, device_);
    devices.push_back(static_cast<int>(std::ranges::min_element(now.load_s) - now.load_s.begin()));
    std::ranges::sort(devices);
    const auto last = std::ranges::unique(devices);
    devices.erase(last.begin(), last.end());
    std::erase(devices, device_[block]);
    return devices;
  }

  bool try_assignment(std::vector<int> candidate) {
    if (left_-- <= 0) return false;
    candidate = with_followers(problem_, std::move(candidate));
    // The value takes the longest, and counts only between equals.
    Score value = score_without_value(problem_, candidate, objective_);
    const bool is_equal = value.overflow_bytes == best_.overflow_bytes && value.unused_devices == best_.unused_devices;
    if (!is_equal && !is_worth_it(value)) return false;
    if (is_equal && !has_value_) best_.value = comparable_value(problem_, device_, objective_);
    has_value_ = is_equal;
    if (is_equal) {
      value.value = comparable_value(problem_, candidate, objective_);
      if (!is_worth_it(value)) return false;
    }
    best_ = value;
    device_ = std::move(candidate);
    return true;
  }

  // A move usually adds transfers that the cost model may flatter: seconds must fall by more than its error could
  // explain.
  bool is_worth_it(const Score& value) const {
    constexpr double kLeastGain = 0.005;
    if (value.overflow_bytes != best_.overflow_bytes) return value.overflow_bytes < best_.overflow_bytes;
    if (value.unused_devices != best_.unused_devices) return value.unused_devices < best_.unused_devices;
    return value.value < (1 - kLeastGain) * best_.value;
  }

  bool sweep_single_blocks() {
    bool improved = false;
    for (size_t b = 0; b < device_.size() && left_ > 0; ++b) {
      if (problem_.pinned[b] >= 0 || problem_.follows[b] >= 0) continue;
      for (const int device : candidate_devices(b)) {
        std::vector<int> candidate = device_;
        candidate[b] = device;
        improved = try_assignment(std::move(candidate)) || improved;
      }
    }
    return improved;
  }

  // At each place where the device changes along the block order, moves 2, 4, 8... blocks across.
  bool sweep_runs() {
    bool improved = false;
    for (size_t cut = 1; cut < device_.size() && left_ > 0; ++cut) {
      if (device_[cut] == device_[cut - 1]) continue;
      for (size_t length = 2; length <= device_.size() / 2; length *= 2) {
        improved = move_run(cut, length, device_[cut - 1], device_[cut]) || improved;
        improved = move_run(cut >= length ? cut - length : 0, length, device_[cut], device_[cut - 1]) || improved;
      }
    }
    return improved;
  }

  bool move_run(size_t begin, size_t length, int to, int from) {
    std::vector<int> candidate = device_;
    bool changed = false;
    for (size_t b = begin; b < std::min(begin + length, device_.size()); ++b) {
      if (problem_.pinned[b] >= 0 || candidate[b] != from) continue;
      candidate[b] = to;
      changed = true;
    }
    return changed && try_assignment(std::move(candidate));
  }

  const Problem& problem_;
  std::vector<int> device_;
  Objective objective_;
  int left_;
  Score best_;              // of device_
  bool has_value_ = false;  // in best_
};

}  // namespace

double value_of(const Problem& problem, const std::vector<int>& device_of_block, Objective objective) {
  if (objective == Objective::throughput) return evaluate(problem, device_of_block).largest_load_s;
  if (objective == Objective::memory) return largest_share(problem, device_of_block);
  return critical_path_s(problem, device_of_block);
}

Score score(const Problem& problem, const std::vector<int>& device_of_block, Objective objective) {
  Score result = score_without_value(problem, device_of_block, objective);
  result.value = comparable_value(problem, device_of_block, objective);
  return result;
}

std::vector<int> refine(const Problem& problem, std::vector<int> device_of_block, Objective objective,
                        int most_evaluations) {
  return Refiner(problem, std::move(device_of_block), objective, most_evaluations).run();
}

}  // namespace mpc::place
