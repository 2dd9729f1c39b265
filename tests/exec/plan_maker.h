#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc::test {

/// Stands for the rows of the micro-batch in the shapes given to PlanMaker.
inline constexpr int64_t kRows = -1;

/// Makes small plans for tests of the executor, straight from nodes: micro-batch after micro-batch, every instance in a
/// slice of its own, transfers where an operand is on another device, an event wherever queues meet.
class PlanMaker {
 public:
  using Dims = std::vector<int64_t>;

  PlanMaker(int device_count, int32_t microbatches, int64_t batch, int64_t microbatch_rows);

  PlanIndex input(const std::string& name, DType dtype, const Dims& dims);
  PlanIndex supplied(const std::string& name, PlanInput::Role role, DType dtype);
  PlanIndex parameter(const std::string& name, const Dims& dims);
  PlanIndex state(const std::string& name, const Literal& content);
  PlanIndex constant(const std::string& name, const Literal& content);
  struct NodeOptions {
    Attributes attributes;
    PlanPhase phase = PlanPhase::forward;
    bool per_step = false;
    DType dtype = DType::f32;
  };
  /// A node with one output, named after it.
  PlanIndex node(OpKind op, const std::string& name, int device, const std::vector<PlanIndex>& inputs, const Dims& dims,
                 const NodeOptions& options);
  PlanIndex node(OpKind op, const std::string& name, int device, const std::vector<PlanIndex>& inputs,
                 const Dims& dims) {
    return node(op, name, device, inputs, dims, NodeOptions{});
  }
  void output(const std::string& name, PlanIndex value, PlanOutput::Combine combine);
  Plan finish();

  Plan plan;

 private:
  PlanIndex add_value(PlanValue value, const Dims& dims);
  PlanIndex slice_of(PlanIndex value, int32_t microbatch, uint32_t device);
  PlanIndex queue_of(uint32_t device, QueueKind kind, uint32_t peer);
  Instruction& emit(Action action, PlanIndex queue, PlanIndex index, int32_t microbatch);
  void order_queues(PlanIndex first, PlanIndex second);
  PlanIndex local_copy(PlanIndex value, int32_t microbatch, uint32_t device);
  void send(PlanIndex value, PlanIndex copy, int32_t microbatch, uint32_t device);
  void run(PlanIndex node, int32_t microbatch);
  void fetch(PlanIndex value, int32_t microbatch);
  void collect_transfers();
  void read_copies();

  std::vector<std::vector<PlanIndex>> operands_;                // per node, before copies take their place
  std::map<PlanIndex, uint32_t> device_of_;                     // values that nodes make
  std::map<std::pair<PlanIndex, uint32_t>, PlanIndex> copies_;  // (value, device) -> its copy
  std::map<std::pair<PlanIndex, uint32_t>, PlanIndex> transfers_;
  std::map<std::tuple<PlanIndex, int32_t, uint32_t>, PlanIndex> slices_;
  std::map<std::tuple<PlanIndex, int32_t, uint32_t>, bool> is_there_;  // fed or received
  std::map<std::tuple<uint32_t, QueueKind, uint32_t>, PlanIndex> queues_;
};

}  // namespace mpc::test
