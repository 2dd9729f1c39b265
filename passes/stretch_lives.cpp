#include "passes/stretch_lives.h"

#include <algorithm>
#include <vector>

namespace mpc {
namespace {

class Stretching {
 public:
  Stretching(const Plan& plan, const QueueOrder& order, DeviceId device, int64_t most_bytes, std::span<Block> blocks)
      : plan_(plan),
        order_(order),
        device_(device),
        blocks_(blocks),
        most_bytes_(most_bytes),
        of_queue_(plan.queues.size()),
        live_(plan.instructions.size() + 1, 0) {
    for (PlanIndex i = 0; i < plan.instructions.size(); ++i) of_queue_[plan.instructions[i].queue].push_back(i);
    for (PlanIndex q = 0; q < plan.queues.size(); ++q) {
      if (plan.queues[q].kind == QueueKind::compute && plan.queues[q].device == device) compute_ = q;
    }
    std::vector<int64_t> change(live_.size() + 1, 0);
    for (const Block& block : blocks) {
      change[static_cast<size_t>(block.begin)] += block.bytes;
      change[static_cast<size_t>(block.end) + 1] -= block.bytes;
    }
    int64_t live = 0;
    for (size_t i = 0; i < live_.size(); ++i) live_[i] = live += change[i];
  }

  void run() {
    if (compute_ == kNone) return;  // memory of the host: no work there could wait
    for (Block& block : blocks_) {
      const int64_t begin = earliest_begin(block);
      const int64_t end = latest_end(block);
      while (block.begin > begin && has_room(block.begin - 1, block))
        live_[static_cast<size_t>(--block.begin)] += block.bytes;
      while (block.end < end && has_room(block.end + 1, block)) live_[static_cast<size_t>(++block.end)] += block.bytes;
    }
  }

 private:
  // The first instruction of the device that what receives the block cannot know to be done.
  int64_t earliest_begin(const Block& block) const {
    const Instruction& first = plan_.instructions[static_cast<size_t>(block.begin)];
    if (first.action != Action::recv) return block.begin;
    const auto known = static_cast<size_t>(order_.known(static_cast<size_t>(block.begin), compute_));
    const std::vector<PlanIndex>& computed = of_queue_[compute_];
    return known < computed.size() ? std::min<int64_t>(block.begin, computed[known]) : block.begin;
  }

  // The send of its link that comes after that of the block; the last one leaves nothing to wait for.
  int64_t latest_end(const Block& block) const {
    const Instruction& last = plan_.instructions[static_cast<size_t>(block.end)];
    // The life of what is sent ends with the recv of the other device.
    if (last.action != Action::recv || plan_.queues[last.queue].device == device_) return block.end;
    const auto send = static_cast<PlanIndex>(block.end - 1);
    const std::vector<PlanIndex>& sends = of_queue_[plan_.instructions[send].queue];
    const auto next = std::ranges::upper_bound(sends, send);
    return next == sends.end() ? static_cast<int64_t>(plan_.instructions.size()) - 1 : *next;
  }

  bool has_room(int64_t moment, const Block& block) const {
    return live_[static_cast<size_t>(moment)] + block.bytes <= most_bytes_;
  }

  const Plan& plan_;
  const QueueOrder& order_;
  DeviceId device_;
  std::span<Block> blocks_;
  int64_t most_bytes_;
  std::vector<std::vector<PlanIndex>> of_queue_;  // instructions
  std::vector<int64_t> live_;                     // bytes, per instruction
  PlanIndex compute_ = kNone;
};

}  // namespace

void stretch_lives(const Plan& plan, const QueueOrder& order, DeviceId device, int64_t most_bytes,
                   std::span<Block> blocks) {
  Stretching(plan, order, device, most_bytes, blocks).run();
}

}  // namespace mpc
