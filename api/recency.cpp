#include "api/recency.h"

#include <list>
#include <unordered_map>

namespace mpc::api {
namespace {

/// Between two of them of a micro-batch lie other micro-batches.
enum class Pass : uint8_t { forward, backward, update };

Pass pass_of(PlanPhase phase) {
  if (phase == PlanPhase::forward) return Pass::forward;
  return phase == PlanPhase::update ? Pass::update : Pass::backward;
}

/// The blocks of memory that were used last, and in which pass.
class Recent {
 public:
  explicit Recent(int64_t bytes) : capacity_(static_cast<size_t>(bytes / kBlock)) {}

  /// Were most blocks of a slice used last in this pass, and not long ago?
  bool holds(const PlanSlice& slice, Pass pass) const {
    int64_t held = 0;
    for (int64_t block = first(slice); block < end(slice); ++block) {
      const auto found = where_.find(block);
      if (found != where_.end() && found->second->pass == pass) ++held;
    }
    return 2 * held > end(slice) - first(slice);
  }
  void use(const PlanSlice& slice, Pass pass) {
    for (int64_t block = first(slice); block < end(slice); ++block) {
      const auto found = where_.find(block);
      if (found != where_.end()) {
        found->second->pass = pass;
        order_.splice(order_.begin(), order_, found->second);
        continue;
      }
      order_.push_front({block, pass});
      where_.emplace(block, order_.begin());
      if (order_.size() <= capacity_) continue;
      where_.erase(order_.back().number);
      order_.pop_back();
    }
  }

 private:
  struct Block {
    int64_t number = 0;
    Pass pass{};
  };
  static constexpr int64_t kBlock = 16 << 10;

  static int64_t first(const PlanSlice& slice) { return slice.offset / kBlock; }
  static int64_t end(const PlanSlice& slice) { return (slice.offset + slice.bytes + kBlock - 1) / kBlock; }

  size_t capacity_;
  std::list<Block> order_;  // the last used first
  std::unordered_map<int64_t, std::list<Block>::iterator> where_;
};

}  // namespace

std::vector<std::vector<bool>> cold_operands(const Plan& plan, int64_t cache_bytes) {
  std::vector<std::vector<bool>> is_cold(plan.nodes.size());
  Recent recent(cache_bytes);
  for (const Instruction& instruction : plan.instructions) {
    if (instruction.action != Action::run) continue;
    const Pass pass = pass_of(plan.nodes[instruction.index].phase);
    std::vector<bool>& of_node = is_cold[instruction.index];
    of_node.clear();
    for (const auto* list : {&instruction.reads, &instruction.writes}) {
      for (const PlanIndex slice : *list)
        of_node.push_back(slice == kNone || !recent.holds(plan.slices[slice], pass));
    }
    for (const auto* list : {&instruction.reads, &instruction.writes}) {
      for (const PlanIndex slice : *list) {
        if (slice != kNone) recent.use(plan.slices[slice], pass);
      }
    }
    if (instruction.workspace != kNone) recent.use(plan.slices[instruction.workspace], pass);
  }
  return is_cold;
}

}  // namespace mpc::api
