#include "tests/passes/brute_force.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "passes/pipeline.h"
#include "passes/place/evaluate.h"
#include "tests/support/random_graph.h"

namespace mpc::test {

using place::Problem;

void for_each_split(const Problem& problem, const std::vector<int>& order, int used,
                    const std::function<void(const std::vector<int>&)>& visit) {
  const auto count = static_cast<size_t>(problem.block_count);
  std::vector<int> stage(count, 0);
  std::vector<int> device(count, 0);
  const std::function<void(size_t)> place = [&](size_t block) {
    if (block == count) {
      std::vector<int> followed = place::with_followers(problem, stage);
      for (const place::Tensor& tensor : problem.tensors) {
        for (const int consumer : tensor.consumers) {
          const bool is_back = followed[static_cast<size_t>(consumer)] < followed[static_cast<size_t>(tensor.producer)];
          if (is_back && !tensor.is_parameter) return;
        }
      }
      if (static_cast<int>(std::set<int>(followed.begin(), followed.end()).size()) != used) return;
      for (size_t b = 0; b < count; ++b) device[b] = order[static_cast<size_t>(followed[b])];
      visit(device);
      return;
    }
    if (problem.follows[block] >= 0) return place(block + 1);
    int first = 0;  // of the stages that its operands allow; those of followers are judged at the end
    for (const int t : problem.tensors_of[block]) {
      const place::Tensor& tensor = problem.tensors[static_cast<size_t>(t)];
      const auto producer = static_cast<size_t>(tensor.producer);
      if (producer < block && !tensor.is_parameter && problem.follows[producer] < 0)
        first = std::max(first, stage[producer]);
    }
    for (int s = first; s < used; ++s) {
      stage[block] = s;
      place(block + 1);
    }
  };
  place(0);
}

std::optional<double> least_largest_load(const Problem& problem, bool in_any_order) {
  std::vector<int> order(static_cast<size_t>(problem.device_count));
  std::iota(order.begin(), order.end(), 0);
  std::optional<double> best;
  do {
    for_each_split(problem, order, problem.device_count, [&](const std::vector<int>& device) {
      const place::Evaluation value = place::evaluate(problem, device);
      if (value.overflow_bytes == 0 && (!best || value.largest_load_s < *best)) best = value.largest_load_s;
    });
  } while (in_any_order && std::ranges::next_permutation(order).found);
  return best;
}

Graph small_graph(uint64_t seed, bool is_training, int microbatches) {
  constexpr int64_t kBatch = 8;
  PlanOptions options;
  options.batch = kBatch;
  options.microbatches = microbatches;
  options.train = is_training;
  options.loss = LossKind::mse;
  options.optimizer.optimizer = parse_optimizer("adam,lr=0.01");
  RandomGraphOptions size;
  size.steps = 5 + static_cast<int>(seed % 4);
  const auto of_rows = [&](int64_t rows) { return random_graph(seed, rows, size); };
  return make_front_graphs(of_rows, kBatch, options, "random graph").main;
}

}  // namespace mpc::test
