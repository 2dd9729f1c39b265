#include "executor/host/lane_order.h"

namespace mpc::executor {

LaneOrder::LaneOrder(const Plan& plan, const LaneQueues& lane)
    : plan_(plan), queues_(lane.queues.size()), slot_of_queue_(plan.queues.size(), queues_.size()) {
  for (size_t slot = 0; slot < lane.queues.size(); ++slot) slot_of_queue_[lane.queues[slot]] = slot;
  for (PlanIndex i = 0; i < plan.instructions.size(); ++i) {
    const size_t slot = slot_of_queue_[plan.instructions[i].queue];
    if (slot < queues_.size()) queues_[slot].instructions.push_back(i);
  }
  restart();
}

void LaneOrder::restart() {
  size_t left = 0;
  for (Queue& queue : queues_) {
    queue.position.store(0, std::memory_order_relaxed);
    left += queue.instructions.size();
  }
  left_.store(left, std::memory_order_relaxed);
}

void LaneOrder::take(PlanIndex instruction) {
  Queue& queue = queues_[slot_of_queue_[plan_.instructions[instruction].queue]];
  queue.position.store(queue.position.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  left_.fetch_sub(1, std::memory_order_relaxed);
}

std::vector<PlanIndex> LaneOrder::heads() const {
  std::vector<PlanIndex> heads;
  for (const Queue& queue : queues_) {
    if (queue.head() != kNone) heads.push_back(queue.head());
  }
  return heads;
}

}  // namespace mpc::executor
