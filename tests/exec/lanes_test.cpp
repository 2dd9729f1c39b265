#include "executor/host/lanes.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/exec/models.h"

namespace mpc::executor {
namespace {

using test::Batches;
using test::kThreeDevices;

const Batches kWhole{1, 8, 8};
const Batches kFour{4, 8, 2};

constexpr LaneRules kApart{.merges_serial = false, .cores = 64};
constexpr LaneRules kManyCores{.merges_serial = true, .cores = 64};
constexpr LaneRules kThreeCores{.merges_serial = true, .cores = 3};

std::vector<std::string> names_of(const Plan& plan, const LaneRules& rules) {
  std::vector<std::string> names;
  for (const LaneQueues& lane : divide_into_lanes(plan, rules)) names.push_back(lane_name(plan, lane));
  std::ranges::sort(names);
  return names;
}

TEST_CASE("lanes: one per device and per link when none are merged") {
  const Plan plan = test::forward_plan(kThreeDevices, kWhole);
  CHECK(names_of(plan, kApart) == std::vector<std::string>{"cpu:0", "cpu:0>cpu:1", "cpu:1", "cpu:1>cpu:2", "cpu:2"});
}

TEST_CASE("lanes: a chain of devices with one micro-batch is served by one thread") {
  const Plan plan = test::forward_plan(kThreeDevices, kWhole);
  CHECK(names_of(plan, kManyCores) == std::vector<std::string>{"cpu:0+cpu:1+cpu:2"});
}

TEST_CASE("lanes: devices that work at the same time on different micro-batches keep their threads") {
  const Plan plan = test::forward_plan(kThreeDevices, kFour);
  CHECK(names_of(plan, kManyCores) == names_of(plan, kApart));
}

TEST_CASE("lanes: without a core of its own, a link is served by its sender") {
  const Plan plan = test::forward_plan(kThreeDevices, kFour);
  CHECK(names_of(plan, kThreeCores) == std::vector<std::string>{"cpu:0", "cpu:1", "cpu:2"});
}

TEST_CASE("lanes: a link without a thread of its own is shared by the lanes of its ends") {
  const Plan plan = test::forward_plan(kThreeDevices, kFour);
  std::vector<LaneQueues> lanes = divide_into_lanes(plan, kThreeCores);
  const std::vector<SharedQueues> links = take_shared_links(plan, lanes);
  REQUIRE(links.size() == 2);
  for (const SharedQueues& link : links) {
    REQUIRE(link.queues.queues.size() == 2);
    CHECK(lane_name(plan, lanes[link.sender]) == plan.devices[plan.queues[link.queues.queues[0]].device.index()].name);
    CHECK(link.receiver != link.sender);
  }
  for (const LaneQueues& lane : lanes) CHECK(lane.queues.size() == 1);
}

TEST_CASE("lanes: a link with its own thread, or between devices of one lane, is not shared") {
  const Plan plan = test::forward_plan(kThreeDevices, kFour);
  std::vector<LaneQueues> lanes = divide_into_lanes(plan, kManyCores);
  CHECK(take_shared_links(plan, lanes).empty());
  const Plan chain = test::forward_plan(kThreeDevices, kWhole);
  lanes = divide_into_lanes(chain, kThreeCores);
  REQUIRE(lanes.size() == 1);
  CHECK(take_shared_links(chain, lanes).empty());
}

TEST_CASE("lanes: in training, devices stay apart where one updates weights while the other goes on backward") {
  const Plan plan = test::training_plan(kThreeDevices, kWhole);  // parameters on the first and the third
  for (const std::string& name : names_of(plan, kManyCores)) {
    INFO(name);
    const bool has_both = name.find("cpu:0") != std::string::npos && name.find("cpu:2") != std::string::npos;
    CHECK_FALSE(has_both);
  }
}

TEST_CASE("lanes: every queue is served once, and devices with different numbers of threads share none") {
  Plan plan = test::forward_plan(kThreeDevices, kWhole);
  plan.devices[1].threads = 2;
  std::vector<PlanIndex> served;
  for (const LaneQueues& lane : divide_into_lanes(plan, kManyCores)) {
    served.insert(served.end(), lane.queues.begin(), lane.queues.end());
    const std::string name = lane_name(plan, lane);
    if (name.find("cpu:1") != std::string::npos) CHECK(name == "cpu:1");
  }
  std::ranges::sort(served);
  std::vector<PlanIndex> all;
  for (PlanIndex q = 0; q < plan.queues.size(); ++q) all.push_back(q);
  CHECK(served == all);
}

}  // namespace
}  // namespace mpc::executor
