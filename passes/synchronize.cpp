#include "passes/synchronize.h"

#include <utility>
#include <vector>

#include "passes/order_queues.h"

namespace mpc {

void synchronize(Plan& plan) {
  const QueueOrder order = order_queues(plan);
  plan.event_count = order.event_count;
  std::vector<Instruction> result;
  size_t waits = 0;
  for (const auto& before : order.waits) waits += before.size();
  result.reserve(plan.instructions.size() + waits + plan.event_count);
  const auto add = [&](Action action, PlanIndex queue, PlanIndex event) {
    Instruction instruction;
    instruction.action = action;
    instruction.queue = queue;
    instruction.index = event;
    result.push_back(std::move(instruction));
  };
  for (size_t i = 0; i < plan.instructions.size(); ++i) {
    for (const QueueOrder::Wait& wait : order.waits[i]) add(Action::wait, wait.queue, wait.event);
    // A send and its recv stay adjacent: records of both come after the pair.
    const size_t last = plan.instructions[i].action == Action::send ? i + 1 : i;
    std::vector<std::pair<PlanIndex, PlanIndex>> records;  // queue, event
    for (size_t k = i; k <= last; ++k) {
      if (order.event[k] != kNone) records.emplace_back(plan.instructions[k].queue, order.event[k]);
      result.push_back(std::move(plan.instructions[k]));
    }
    for (const auto& [queue, event] : records) add(Action::record, queue, event);
    i = last;
  }
  plan.instructions = std::move(result);
}

}  // namespace mpc
