#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "compiler/plan/plan.h"
#include "executor/host/lanes.h"

namespace mpc::executor {

/// What a lane does next: its queues go on each for itself, so one that waits for an event holds up no other. Among
/// those that can go on, the instruction that comes first in the plan is taken. The recv of a transfer moves the bytes,
/// so its send begins when the recv can follow, and nothing behind the send comes before the recv.
class LaneOrder {
 public:
  LaneOrder(const Plan& plan, const LaneQueues& lane);

  /// Back to the beginning of a step.
  void restart();
  bool is_done() const { return left_.load(std::memory_order_relaxed) == 0; }
  /// The instruction to execute now; kNone while every queue waits. `is_recorded(event)`: was it, in this step?
  template <class IsRecorded>
  PlanIndex next(const IsRecorded& is_recorded) const {
    PlanIndex first = kNone;
    for (const Queue& queue : queues_) {
      const PlanIndex head = queue.head();
      if (head < first && may_go(head, is_recorded)) first = head;
    }
    return first;
  }
  /// Tells that an instruction, which next() gave, was executed.
  void take(PlanIndex instruction);
  /// Where the queues stand, without those that are done. Any thread may ask.
  std::vector<PlanIndex> heads() const;

 private:
  struct Queue {
    std::vector<PlanIndex> instructions;
    std::atomic<size_t> position{0};  // written by who takes; others look
    PlanIndex head() const {
      const size_t at = position.load(std::memory_order_relaxed);
      return at < instructions.size() ? instructions[at] : kNone;
    }
  };

  template <class IsRecorded>
  bool may_go(PlanIndex index, const IsRecorded& is_recorded) const {
    const Instruction& instruction = plan_.instructions[index];
    switch (instruction.action) {
      case Action::wait:
        return is_recorded(instruction.index);
      case Action::send:
        return queue_of(index + 1).head() == index + 1;
      case Action::recv:
        return queue_of(index - 1).head() > index;
      default:
        return true;
    }
  }
  const Queue& queue_of(PlanIndex instruction) const {
    return queues_[slot_of_queue_[plan_.instructions[instruction].queue]];
  }

  const Plan& plan_;
  std::vector<Queue> queues_;
  std::vector<size_t> slot_of_queue_;  // by plan queue; only those of the lane mean something
  std::atomic<size_t> left_{0};        // written by who takes; others look
};

}  // namespace mpc::executor
