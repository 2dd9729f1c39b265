#include "api/node_timer.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>

#include "executor/host/threads.h"

namespace mpc::api {

NodeTimer::NodeTimer(const Device& device) : threads_(device.threads) {
  if (device.backend != "cuda") return;
  strict_.emplace(device.name, "f32");
  rounded_.emplace(device.name, "tf32");
}

std::optional<double> NodeTimer::seconds_of(const ProfileNode& node) {
  executor::NodeSpec spec = node.spec;
  spec.attributes = &node.attributes;
  spec.threads = threads_;
  if (!is_gpu()) return host_.seconds_of(spec, node.workspace_bytes, node.options);
  return (node.key.arithmetic == Arithmetic::tf32 ? rounded_ : strict_)->seconds_of(spec, node.options);
}

NodeTimers::NodeTimers(const std::vector<Device>& devices) : threads_(std::max(1, devices.front().threads)) {
  const bool is_host = devices.front().backend == "cpu";
  const size_t with_cores = executor::usable_cores().size() / static_cast<size_t>(threads_);
  const size_t count = is_host ? std::clamp<size_t>(devices.size(), 1, std::max<size_t>(1, with_cores)) : 1;
  for (size_t i = 0; i < count; ++i) timers_.emplace_back(devices[i]);
}

void NodeTimers::at_once(const std::function<void(size_t, NodeTimer&)>& work) {
  if (timers_.size() == 1) return work(0, timers_.front());
  const std::vector<int> cores = executor::usable_cores();
  std::vector<std::future<void>> running;
  for (size_t i = 0; i < timers_.size(); ++i) {
    running.push_back(std::async(std::launch::async, [&, i] {
      const auto first = cores.begin() + static_cast<std::ptrdiff_t>(i) * threads_;
      executor::stay_on_cores({first, first + threads_});
      work(i, timers_[i]);
    }));
  }
  for (const std::future<void>& one : running) one.wait();
  for (std::future<void>& one : running) one.get();
}

std::vector<std::optional<double>> NodeTimers::seconds_of(
    const std::vector<const ProfileNode*>& nodes,
    const std::function<void(int64_t, int64_t, const std::string&)>& progress) {
  std::vector<std::optional<double>> seconds(nodes.size());
  std::mutex mutex;  // of progress
  std::atomic<size_t> next = 0;
  std::atomic<size_t> done = 0;
  std::atomic<bool> has_failed = false;
  const auto begin = [&](size_t i) {
    if (!progress) return;
    const std::lock_guard lock(mutex);
    progress(static_cast<int64_t>(done), static_cast<int64_t>(nodes.size()), std::string(op_name(nodes[i]->key.op)));
  };
  at_once([&](size_t, NodeTimer& timer) {
    try {
      while (done < nodes.size() && !has_failed) {
        const size_t i = next++;
        if (i < nodes.size()) {
          begin(i);
          seconds[i] = timer.seconds_of(*nodes[i]);
          ++done;
        } else {  // only to be a neighbour of those that are still at work
          timer.seconds_of(*nodes[i % nodes.size()]);
        }
      }
    } catch (...) {
      has_failed = true;  // the others need not go on
      throw;
    }
  });
  return seconds;
}

}  // namespace mpc::api
