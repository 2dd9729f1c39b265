#include "passes/place/evaluate.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mpc::place {
namespace {

// The devices that have blocks, in the order of their stages.
std::vector<int> used_devices_in_order(const Problem& problem, const std::vector<int>& device_of_block) {
  const auto k = static_cast<size_t>(problem.device_count);
  std::vector<std::pair<int, int>> sends;
  for (const Tensor& tensor : problem.tensors) {
    if (tensor.is_parameter) continue;
    const int from = device_of_block[static_cast<size_t>(tensor.producer)];
    for (const int consumer : tensor.consumers) {
      const int to = device_of_block[static_cast<size_t>(consumer)];
      if (to != from) sends.emplace_back(from, to);
    }
  }
  std::ranges::sort(sends);
  const auto last = std::ranges::unique(sends);
  sends.erase(last.begin(), last.end());
  std::vector<int> senders(k, 0);
  for (const auto& [from, to] : sends) ++senders[static_cast<size_t>(to)];
  std::vector<int> by_first_block;
  std::vector<char> is_used(k, 0);
  for (const int device : device_of_block) {
    if (std::exchange(is_used[static_cast<size_t>(device)], 1) == 0) by_first_block.push_back(device);
  }
  std::vector<int> order;
  for (const int device : by_first_block) {
    if (senders[static_cast<size_t>(device)] == 0) order.push_back(device);
  }
  for (size_t next = 0; next < order.size(); ++next) {
    const auto first = std::ranges::lower_bound(sends, std::pair(order[next], -1));
    for (auto it = first; it != sends.end() && it->first == order[next]; ++it) {
      if (--senders[static_cast<size_t>(it->second)] == 0) order.push_back(it->second);
    }
  }
  for (const int device : order) is_used[static_cast<size_t>(device)] = 0;
  for (const int device : by_first_block) {
    if (is_used[static_cast<size_t>(device)] != 0) order.push_back(device);
  }
  return order;
}

// Seconds of tensors that pass through a device, and the bytes that it holds of them.
struct Traffic {
  double sent_s = 0;
  double received_s = 0;
  int64_t copied_bytes = 0;
  int64_t kept_bytes = 0;  // per micro-batch in flight
};

// Each tensor goes once to every other device with a reader, over a link of its own: its sender is busy for as long as
// the slowest of these takes.
std::vector<Traffic> traffic_of(const Problem& problem, const std::vector<int>& device_of_block, int64_t* sent_bytes) {
  std::vector<Traffic> traffic(static_cast<size_t>(problem.device_count));
  std::vector<size_t> last_tensor(traffic.size(), problem.tensors.size());
  for (size_t t = 0; t < problem.tensors.size(); ++t) {
    const Tensor& tensor = problem.tensors[t];
    const int from = device_of_block[static_cast<size_t>(tensor.producer)];
    double slowest_s = 0;
    for (const int consumer : tensor.consumers) {
      const int to = device_of_block[static_cast<size_t>(consumer)];
      if (to == from || last_tensor[static_cast<size_t>(to)] == t) continue;
      last_tensor[static_cast<size_t>(to)] = t;
      const double seconds = problem.move_seconds(tensor, from, to);
      slowest_s = std::max(slowest_s, seconds);
      traffic[static_cast<size_t>(to)].received_s += seconds;
      traffic[static_cast<size_t>(to)].copied_bytes += tensor.copied_bytes;
      traffic[static_cast<size_t>(to)].kept_bytes += problem.is_training ? tensor.in_flight_bytes : 0;
      *sent_bytes += tensor.forward_bytes + tensor.backward_bytes;
    }
    traffic[static_cast<size_t>(from)].sent_s += slowest_s;
  }
  return traffic;
}

}  // namespace

Evaluation evaluate(const Problem& problem, const std::vector<int>& device_of_block) {
  const auto k = static_cast<size_t>(problem.device_count);
  Evaluation result;
  result.compute_s.assign(k, 0);
  result.memory_bytes.assign(k, 0);
  std::vector<int64_t> kept(k, 0);
  std::vector<int64_t> kept_for_weights(k, 0);
  std::vector<int64_t> working(k, 0);
  for (size_t b = 0; b < device_of_block.size(); ++b) {
    const auto d = static_cast<size_t>(device_of_block[b]);
    result.compute_s[d] += problem.seconds[d][b];
    result.memory_bytes[d] += problem.persistent_bytes[b];
    kept[d] += problem.kept_bytes[b] + (problem.is_training ? problem.input_bytes[b] : 0);
    kept_for_weights[d] += problem.kept_for_weights_bytes[b];
    working[d] = std::max(working[d], problem.working_bytes[b]);
  }
  const std::vector<int> order = used_devices_in_order(problem, device_of_block);
  result.devices_used = static_cast<int>(order.size());
  std::vector<int> stage(k, 0);
  for (size_t i = 0; i < order.size(); ++i) stage[static_cast<size_t>(order[i])] = static_cast<int>(i);
  const std::vector<Traffic> traffic = traffic_of(problem, device_of_block, &result.sent_bytes);
  for (size_t d = 0; d < k; ++d) {
    const Traffic& moved = traffic[d];
    const double load = problem.overlaps_transfers
                            ? std::max(result.compute_s[d], std::max(moved.sent_s, moved.received_s))
                            : result.compute_s[d] + moved.sent_s + moved.received_s;
    result.load_s.push_back(load);
    result.transfer_s += moved.sent_s + moved.received_s;
    result.largest_load_s = std::max(result.largest_load_s, load);
    const Held held = problem.held.of(stage[d], result.devices_used, problem.microbatches);
    const double kept_bytes =
        held.bytes(static_cast<double>(kept[d] + moved.kept_bytes), static_cast<double>(kept_for_weights[d]));
    const int64_t activations = problem.is_training ? std::llround(kept_bytes) : 0;
    result.memory_bytes[d] += moved.copied_bytes + activations + working[d];
    result.overflow_bytes += std::max<int64_t>(0, result.memory_bytes[d] - problem.capacity_bytes[d]);
  }
  return result;
}

std::vector<int> order_of_devices(const Problem& problem, const std::vector<int>& device_of_block) {
  std::vector<int> order = used_devices_in_order(problem, device_of_block);
  for (int device = 0; device < problem.device_count; ++device) {
    if (std::ranges::find(device_of_block, device) == device_of_block.end()) order.push_back(device);
  }
  return order;
}

double largest_share(const Problem& problem, const std::vector<int>& device_of_block) {
  const Evaluation value = evaluate(problem, device_of_block);
  double largest = 0;
  for (size_t d = 0; d < value.memory_bytes.size(); ++d)
    largest =
        std::max(largest, static_cast<double>(value.memory_bytes[d]) / static_cast<double>(problem.capacity_bytes[d]));
  return largest;
}

double critical_path_s(const Problem& problem, const std::vector<int>& device_of_block) {
  return critical_path_s(problem.path(), *problem.cluster, device_of_block);
}

}  // namespace mpc::place
