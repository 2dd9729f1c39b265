#include "executor/host/lanes.h"

#include <algorithm>
#include <map>
#include <utility>

namespace mpc::executor {
namespace {

/// Per lane, how much of its work is known to be done: a vector clock.
using Clock = std::vector<PlanIndex>;

/// Pairs of lanes that may work at the same time.
class Concurrency {
 public:
  Concurrency(const Plan& plan, const std::vector<size_t>& lane_of_queue, size_t lane_count)
      : lane_count_(lane_count), is_concurrent_(lane_count * lane_count) {
    std::vector<Clock> known(lane_count, Clock(lane_count));
    std::vector<Clock> at_event(plan.event_count);
    for (const Instruction& instruction : plan.instructions) {
      const size_t lane = lane_of_queue[instruction.queue];
      Clock& clock = known[lane];
      if (instruction.action == Action::record) {
        at_event[instruction.index] = clock;
      } else if (instruction.action == Action::wait) {
        const Clock& event = at_event[instruction.index];
        for (size_t i = 0; i < lane_count; ++i) clock[i] = std::max(clock[i], event[i]);
      } else {
        // The total order holds every dependency: work met before this and not known here is ordered in no way.
        for (size_t other = 0; other < lane_count; ++other) {
          if (known[other][other] > clock[other]) set(lane, other);
        }
        ++clock[lane];
      }
    }
  }

  bool operator()(size_t a, size_t b) const { return is_concurrent_[a * lane_count_ + b]; }

 private:
  void set(size_t a, size_t b) {
    is_concurrent_[a * lane_count_ + b] = true;
    is_concurrent_[b * lane_count_ + a] = true;
  }

  size_t lane_count_;
  std::vector<bool> is_concurrent_;
};

/// Sender and receiver of a link that the queue is one end of.
std::pair<DeviceId, DeviceId> ends_of_link(const PlanQueue& queue) {
  return queue.kind == QueueKind::send ? std::pair(queue.device, queue.peer) : std::pair(queue.peer, queue.device);
}

/// Threads of the lane's kernels; 0 for links alone, which only copy.
int kernel_threads(const Plan& plan, const LaneQueues& lane) {
  int threads = 0;
  for (const PlanIndex q : lane.queues) {
    const PlanQueue& queue = plan.queues[q];
    if (queue.kind == QueueKind::compute) threads = std::max(threads, plan.devices[queue.device.index()].threads);
  }
  return threads;
}

/// Do the devices leave a core to every link?
bool has_cores_for_links(const Plan& plan, int cores) {
  int wanted = 0;
  for (const PlanQueue& queue : plan.queues) {
    if (queue.kind == QueueKind::compute) wanted += plan.devices[queue.device.index()].threads;
    if (queue.kind == QueueKind::recv) ++wanted;
  }
  return wanted <= cores;
}

}  // namespace

std::vector<LaneQueues> divide_into_lanes(const Plan& plan, const LaneRules& rules) {
  std::vector<LaneQueues> lanes;
  std::vector<size_t> lane_of_queue;
  std::map<std::pair<DeviceId, DeviceId>, size_t> lane_of_ends;  // a device is a link to itself
  const bool links_have_lanes = has_cores_for_links(plan, rules.cores);
  for (PlanIndex q = 0; q < plan.queues.size(); ++q) {
    const PlanQueue& queue = plan.queues[q];
    const bool is_compute = queue.kind == QueueKind::compute;
    const auto [from, to] = is_compute ? std::pair(queue.device, queue.device) : ends_of_link(queue);
    const size_t lane = lane_of_ends.try_emplace({from, links_have_lanes ? to : from}, lanes.size()).first->second;
    if (lane == lanes.size()) lanes.emplace_back();
    lanes[lane].queues.push_back(q);
    lane_of_queue.push_back(lane);
  }
  if (!rules.merges_serial) return lanes;

  const Concurrency is_concurrent(plan, lane_of_queue, lanes.size());
  struct Group {
    std::vector<size_t> lanes;
    int threads = 0;
  };
  std::vector<Group> groups;
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    const int threads = kernel_threads(plan, lanes[lane]);
    const auto fits = [&](const Group& group) {
      return (threads == 0 || group.threads == 0 || threads == group.threads) &&
             std::ranges::none_of(group.lanes, [&](size_t member) { return is_concurrent(lane, member); });
    };
    auto group = std::ranges::find_if(groups, fits);
    if (group == groups.end()) group = groups.insert(groups.end(), Group{});
    group->lanes.push_back(lane);
    group->threads = std::max(group->threads, threads);
  }
  std::vector<LaneQueues> merged;
  for (const Group& group : groups) {
    LaneQueues& queues = merged.emplace_back();
    for (const size_t lane : group.lanes)
      queues.queues.insert(queues.queues.end(), lanes[lane].queues.begin(), lanes[lane].queues.end());
    std::ranges::sort(queues.queues);
  }
  return merged;
}

std::vector<SharedQueues> take_shared_links(const Plan& plan, std::vector<LaneQueues>& lanes) {
  const size_t nowhere = lanes.size();
  std::vector<size_t> lane_of_device(plan.devices.size(), nowhere);
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    for (const PlanIndex q : lanes[lane].queues) {
      if (plan.queues[q].kind == QueueKind::compute) lane_of_device[plan.queues[q].device.index()] = lane;
    }
  }
  std::map<std::pair<DeviceId, DeviceId>, SharedQueues> of_ends;
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    std::erase_if(lanes[lane].queues, [&](PlanIndex q) {
      if (plan.queues[q].kind == QueueKind::compute) return false;
      const auto ends = ends_of_link(plan.queues[q]);
      const size_t sender = lane_of_device[ends.first.index()];
      const size_t receiver = lane_of_device[ends.second.index()];
      if (lane != sender || receiver == sender || receiver == nowhere) return false;
      SharedQueues& link = of_ends[ends];
      link.queues.queues.push_back(q);
      link.sender = sender;
      link.receiver = receiver;
      return true;
    });
  }
  std::vector<SharedQueues> links;
  for (auto& [ends, link] : of_ends) links.push_back(std::move(link));
  return links;
}

std::string lane_name(const Plan& plan, const LaneQueues& lane) {
  std::string devices;
  std::string links;
  const auto add = [](std::string& names, const std::string& name) {
    if (!names.empty()) names += '+';
    names += name;
  };
  for (const PlanIndex q : lane.queues) {
    const PlanQueue& queue = plan.queues[q];
    if (queue.kind == QueueKind::compute) {
      add(devices, plan.devices[queue.device.index()].name);
    } else if (queue.kind == QueueKind::recv) {
      const auto [from, to] = ends_of_link(queue);
      add(links, plan.devices[from.index()].name + '>' + plan.devices[to.index()].name);
    }
  }
  return devices.empty() ? links : devices;
}

}  // namespace mpc::executor
