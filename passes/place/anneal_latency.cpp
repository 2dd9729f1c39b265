#include "passes/place/anneal_latency.h"

#include <algorithm>
#include <utility>

#include "passes/place/evaluate.h"
#include "passes/place/place.h"
#include "passes/place/search/random.h"

namespace mpc::place {
namespace {

constexpr uint64_t kSeed = 20;
constexpr double kWorkPerSecond = 3.75e7;  // nodes and values that evaluations look at
constexpr double kMostEvaluationsPerSecond = 1.5e5;
constexpr int kRounds = 3;                 // from the start, then from the best; every later one is twice as long
constexpr double kFirstTemperature = 0.3;  // shares of the critical path
constexpr double kLastTemperature = 0.0005;
constexpr int kLongestRun = 8;

class LatencyAnnealer {
 public:
  LatencyAnnealer(const Problem& problem, const std::vector<int>& start)
      : problem_(problem),
        random_(kSeed),
        device_(with_followers(problem, start)),
        best_(device_),
        most_overflow_(evaluate(problem, device_).overflow_bytes),
        now_s_(critical_path_s(problem, device_)),
        best_s_(now_s_) {
    for (int b = 0; b < problem.block_count; ++b) {
      if (problem.pinned[static_cast<size_t>(b)] < 0 && problem.follows[static_cast<size_t>(b)] < 0) free_.push_back(b);
    }
  }

  // A longer search begins as a shorter one does, so it finds nothing worse.
  std::vector<int> run(double budget_s) {
    if (free_.empty() || problem_.device_count < 2) return best_;
    const auto once = static_cast<double>(problem_.path().block.size() + problem_.path().values.size());
    const double per_second = std::min(kMostEvaluationsPerSecond, kWorkPerSecond / once);
    auto left = static_cast<int64_t>(budget_s * per_second);
    auto length = std::max<int64_t>(1, static_cast<int64_t>(kLatencyBudget * per_second) / kRounds);
    for (int round = 0; left > 0; ++round) {
      if (round >= kRounds) length *= 2;
      anneal(length, std::min(length, left));
      left -= length;
    }
    return best_;
  }

 private:
  // The first `evaluations` of a round of `length`, from the best placement.
  void anneal(int64_t length, int64_t evaluations) {
    device_ = best_;
    now_s_ = best_s_;
    for (int64_t i = 0; i < evaluations; ++i) {
      const double left = 1 - static_cast<double>(i) / static_cast<double>(length);
      propose(kLastTemperature + (kFirstTemperature - kLastTemperature) * left * left * left);
    }
  }

  void propose(double temperature) {
    std::vector<int> moved = device_;
    const int to = random_.below(problem_.device_count);
    int block = free_[static_cast<size_t>(random_.below(static_cast<int>(free_.size())))];
    const int length = random_.below(2) == 0 ? 1 : 1 + random_.below(kLongestRun);
    for (int i = 0; i < length && block >= 0; ++i) {
      moved[static_cast<size_t>(block)] = to;
      block = reader_of(block);
    }
    moved = with_followers(problem_, std::move(moved));
    if (moved == device_) return;
    const double seconds = critical_path_s(problem_, moved);
    const double draw = static_cast<double>(random_.below(1 << 20)) / (1 << 20);
    if (seconds > now_s_ * (1 + temperature * draw * draw)) return;
    if (evaluate(problem_, moved).overflow_bytes > most_overflow_) return;
    now_s_ = seconds;
    device_ = std::move(moved);
    if (now_s_ >= best_s_) return;
    best_s_ = now_s_;
    best_ = device_;
  }

  /// A block that reads what this one makes and may move, or -1.
  int reader_of(int block) {
    const std::vector<int>& tensors = problem_.tensors_of[static_cast<size_t>(block)];
    if (tensors.empty()) return -1;
    const Tensor& tensor = problem_.tensors[static_cast<size_t>(
        tensors[static_cast<size_t>(random_.below(static_cast<int>(tensors.size())))])];
    if (tensor.producer != block) return -1;
    const int reader = tensor.consumers[static_cast<size_t>(random_.below(static_cast<int>(tensor.consumers.size())))];
    return std::ranges::binary_search(free_, reader) ? reader : -1;
  }

  const Problem& problem_;
  Random random_;
  std::vector<int> device_;
  std::vector<int> best_;
  int64_t most_overflow_;
  double now_s_;
  double best_s_;
  std::vector<int> free_;  // blocks that may move, ascending
};

}  // namespace

std::vector<int> anneal_latency(const Problem& problem, const std::vector<int>& device_of_block, double budget_s) {
  return LatencyAnnealer(problem, device_of_block).run(budget_s);
}

}  // namespace mpc::place
