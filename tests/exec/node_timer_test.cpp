#include "api/node_timer.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <thread>

#include <doctest/doctest.h>

#include "executor/host/threads.h"

namespace mpc::api {
namespace {

std::vector<Device> one_thread_devices(int count) {
  std::vector<Device> devices = parse_devices("cpu:" + std::to_string(count), "h100-80g").devices;
  for (Device& device : devices) device.threads = 1;
  return devices;
}

/// Relus of 16 to 128 KiB.
std::vector<ProfileNode> relus(size_t count) {
  std::vector<ProfileNode> nodes;
  for (size_t i = 0; i < count; ++i) {
    nodes.push_back(node_alone(OpKind::Relu, DType::f32, {Shape{int64_t{1024} * (4 << (i % 4))}}));
    nodes.back().options.least_seconds = 1e-4;
  }
  return nodes;
}

std::vector<const ProfileNode*> all_of(const std::vector<ProfileNode>& nodes) {
  std::vector<const ProfileNode*> all;
  for (const ProfileNode& node : nodes) all.push_back(&node);
  return all;
}

TEST_CASE("node timer: devices of the host work at the same time where each has cores of its own") {
  constexpr size_t kDevices = 3;
  NodeTimers timers(one_thread_devices(kDevices));
  std::mutex mutex;
  std::set<NodeTimer*> called;
  std::set<std::vector<int>> cores;
  std::set<std::thread::id> threads;
  timers.at_once([&](size_t, NodeTimer& timer) {
    const std::lock_guard lock(mutex);
    called.insert(&timer);
    threads.insert(std::this_thread::get_id());
    cores.insert(executor::usable_cores());
  });
  const size_t expected = std::min(kDevices, executor::usable_cores().size());
  CHECK(called.size() == expected);
  CHECK(threads.size() == expected);
  CHECK(cores.size() == expected);
  // One device stays on the thread that asks, and where that may run.
  NodeTimers one(one_thread_devices(1));
  one.at_once([&](size_t i, NodeTimer&) {
    CHECK(i == 0);
    CHECK(cores.insert(executor::usable_cores()).second == (expected > 1));
    CHECK(threads.insert(std::this_thread::get_id()).second == (expected > 1));
  });
}

TEST_CASE("node timer: every node is timed once, however many devices there are") {
  const std::vector<ProfileNode> nodes = relus(9);
  for (const int devices : {1, 2}) {
    NodeTimers timers(one_thread_devices(devices));
    int64_t told = 0;
    int64_t last = -1;
    const auto seconds = timers.seconds_of(all_of(nodes), [&](int64_t done, int64_t total, const std::string& op) {
      CHECK(total == 9);
      CHECK(done >= last);
      CHECK(done <= told);
      CHECK(op == "Relu");
      last = done;
      ++told;
    });
    CHECK(told == 9);
    REQUIRE(seconds.size() == nodes.size());
    CHECK(std::ranges::all_of(seconds, [](const std::optional<double>& one) { return one && *one > 0; }));
  }
  NodeTimers timers(one_thread_devices(2));
  CHECK(timers.seconds_of({}, {}).empty());
}

TEST_CASE("node timer: an error on one device is the caller's, and the others stop") {
  const std::vector<ProfileNode> nodes = relus(40);
  NodeTimers timers(one_thread_devices(2));
  int64_t told = 0;
  const auto fails_at_the_third = [&](int64_t, int64_t, const std::string&) {
    if (++told == 3) throw std::runtime_error("enough");
  };
  CHECK_THROWS_WITH(timers.seconds_of(all_of(nodes), fails_at_the_third), "enough");
  CHECK(told < 40);
}

}  // namespace
}  // namespace mpc::api
