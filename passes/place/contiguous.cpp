#include "passes/place/contiguous.h"

#include <algorithm>
#include <limits>

namespace mpc::place {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Splitter {
 public:
  Splitter(const Problem& problem, const std::vector<int>& order) : problem_(problem), order_(order), position_(order.size()) {
    for (size_t i = 0; i < order.size(); ++i) position_[static_cast<size_t>(order[i])] = static_cast<int>(i);
    last_use_.resize(problem.tensors.size());
    for (size_t t = 0; t < problem.tensors.size(); ++t) {
      int last = 0;
      for (const int consumer : problem.tensors[t].consumers) last = std::max(last, position_[static_cast<size_t>(consumer)]);
      last_use_[t] = last;
    }
    tensor_seconds_.resize(static_cast<size_t>(problem.device_count));
    for (int d = 0; d < problem.device_count; ++d) {
      for (const Tensor& tensor : problem.tensors) tensor_seconds_[static_cast<size_t>(d)].push_back(tensor_seconds(tensor, d));
    }
  }

  std::optional<std::vector<int>> run() {
    const int n = problem_.block_count;
    const int k = problem_.device_count;
    if (n < k) return std::nullopt;
    best_.assign(static_cast<size_t>(k) + 1, std::vector<double>(static_cast<size_t>(n) + 1, kInfinity));
    from_.assign(static_cast<size_t>(k) + 1, std::vector<int>(static_cast<size_t>(n) + 1, -1));
    best_[0][0] = 0;
    for (int d = 0; d < k; ++d) {
      for (int j = d + 1; j <= n - (k - 1 - d); ++j) extend(d, j);
    }
    if (best_[static_cast<size_t>(k)][static_cast<size_t>(n)] == kInfinity) return std::nullopt;
    std::vector<int> device_of_block(static_cast<size_t>(n));
    int end = n;
    for (int d = k - 1; d >= 0; --d) {
      const int begin = from_[static_cast<size_t>(d) + 1][static_cast<size_t>(end)];
      for (int i = begin; i < end; ++i) device_of_block[static_cast<size_t>(order_[static_cast<size_t>(i)])] = d;
      end = begin;
    }
    return device_of_block;
  }

 private:
  // Seconds that a tensor costs a device when it is sent to (received from) a neighbour.
  double tensor_seconds(const Tensor& tensor, int device) const {
    const int neighbour = device + 1 < problem_.device_count ? device + 1 : device - 1;
    return neighbour < 0 ? 0 : problem_.move_seconds(tensor, device, neighbour);
  }

  // Tries all runs [i, j) of device d.
  void extend(int d, int j) {
    double compute = 0;
    double moves = 0;
    int64_t persistent = 0;
    int64_t kept = 0;
    int64_t working = 0;
    double& best = best_[static_cast<size_t>(d) + 1][static_cast<size_t>(j)];
    for (int i = j - 1; i >= d; --i) {
      const auto block = static_cast<size_t>(order_[static_cast<size_t>(i)]);
      if (problem_.pinned[block] >= 0 && problem_.pinned[block] != d) return;
      compute += problem_.seconds[static_cast<size_t>(d)][block];
      persistent += problem_.persistent_bytes[block];
      kept += problem_.kept_bytes[block] + problem_.input_bytes[block];
      working = std::max(working, problem_.working_bytes[block]);
      moves += change_of_moves(d, block, i, j);
      persistent += change_of_copies_;
      const int64_t received = problem_.is_training ? received_bytes_ : 0;
      const int64_t bytes = persistent + (problem_.is_training ? (kept + received) * problem_.in_flight[static_cast<size_t>(d)] : working);
      if (compute >= best || persistent > problem_.capacity_bytes[static_cast<size_t>(d)]) break;
      if (bytes > problem_.capacity_bytes[static_cast<size_t>(d)]) continue;
      const double value = std::max(best_[static_cast<size_t>(d)][static_cast<size_t>(i)], compute + moves);
      if (value < best) {
        best = value;
        from_[static_cast<size_t>(d) + 1][static_cast<size_t>(j)] = i;
      }
    }
    received_bytes_ = 0;
  }

  // How the run's transfers change when `block` (at position i) joins [i + 1, j).
  double change_of_moves(int d, size_t block, int i, int j) {
    double change = 0;
    change_of_copies_ = 0;
    if (i == j - 1) received_bytes_ = 0;
    for (const int t : problem_.tensors_of[block]) {
      const Tensor& tensor = problem_.tensors[static_cast<size_t>(t)];
      const double seconds = tensor_seconds_[static_cast<size_t>(d)][static_cast<size_t>(t)];
      if (static_cast<size_t>(tensor.producer) == block) {
        const bool is_read_inside = first_use_from(tensor, i + 1) < j;
        if (is_read_inside) {
          change -= seconds;  // it was received; it is local now
          received_bytes_ -= tensor.forward_bytes;
          change_of_copies_ -= tensor.copied_bytes;
        }
        if (last_use_[static_cast<size_t>(t)] >= j) change += seconds;  // sent
      } else if (first_use_from(tensor, i + 1) >= j) {
        change += seconds;  // its first reader in the run: received
        received_bytes_ += tensor.forward_bytes;
        change_of_copies_ += tensor.copied_bytes;
      }
    }
    return change;
  }

  // Position of the first reader at or after `from` (n when there is none).
  int first_use_from(const Tensor& tensor, int from) const {
    int first = problem_.block_count;
    for (const int consumer : tensor.consumers) {
      const int position = position_[static_cast<size_t>(consumer)];
      if (position >= from) first = std::min(first, position);
    }
    return first;
  }

  const Problem& problem_;
  const std::vector<int>& order_;
  std::vector<int> position_;
  std::vector<int> last_use_;
  std::vector<std::vector<double>> tensor_seconds_;  // [device][tensor]; looked up once per run of blocks tried
  std::vector<std::vector<double>> best_;
  std::vector<std::vector<int>> from_;
  int64_t received_bytes_ = 0;
  int64_t change_of_copies_ = 0;  // of weights, when the last block joined the run
};

std::vector<int> depth_first_order(const Problem& problem) {
  const auto n = static_cast<size_t>(problem.block_count);
  std::vector<int> missing(n, 0);
  std::vector<std::vector<int>> successors(n);
  for (const Tensor& tensor : problem.tensors) {
    // Backward tensors run from later blocks to earlier ones: they do not order the blocks.
    for (const int consumer : tensor.consumers) {
      if (consumer <= tensor.producer) continue;
      successors[static_cast<size_t>(tensor.producer)].push_back(consumer);
      ++missing[static_cast<size_t>(consumer)];
    }
  }
  std::vector<int> ready;
  for (int b = problem.block_count - 1; b >= 0; --b) {
    if (missing[static_cast<size_t>(b)] == 0) ready.push_back(b);
  }
  std::vector<int> order;
  while (!ready.empty()) {
    const int block = ready.back();
    ready.pop_back();
    order.push_back(block);
    auto& next = successors[static_cast<size_t>(block)];
    std::sort(next.rbegin(), next.rend());
    for (const int b : next) {
      if (--missing[static_cast<size_t>(b)] == 0) ready.push_back(b);
    }
  }
  return order;
}

}  // namespace

std::optional<std::vector<int>> split_contiguous(const Problem& problem, const std::vector<int>& order) {
  return Splitter(problem, order).run();
}

std::vector<std::vector<int>> linear_orders(const Problem& problem) {
  std::vector<int> by_id(static_cast<size_t>(problem.block_count));
  for (size_t i = 0; i < by_id.size(); ++i) by_id[i] = static_cast<int>(i);
  std::vector<std::vector<int>> orders = {by_id};
  std::vector<int> depth_first = depth_first_order(problem);
  if (depth_first != by_id && depth_first.size() == by_id.size()) orders.push_back(std::move(depth_first));
  return orders;
}

}  // namespace mpc::place
