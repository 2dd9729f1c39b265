#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compiler/plan/plan.h"

namespace mpc::test {

/// Puts a plan together by hand, one queue per device and direction. Slices get fresh bytes unless an offset is given;
/// done() sizes the arenas. Indices returned are those of the plan's tables.
class PlanBuilder {
 public:
  explicit PlanBuilder(int device_count, int32_t microbatches);

  Plan plan;

  PlanIndex value(std::string name, std::vector<Shape> shapes, PlanValueKind kind = PlanValueKind::temporary,
                  bool per_step = false, DType dtype = DType::f32);
  /// The row is filled in by the caller; what is given per variant is repeated for all of the plan's.
  PlanIndex node(OpKind op, std::string name, int device, std::vector<PlanIndex> inputs, std::vector<PlanIndex> outputs,
                 PlanPhase phase = PlanPhase::forward, bool per_step = false, Attributes attributes = {});
  PlanIndex transfer(PlanIndex source, PlanIndex destination, int from, int to, PlanPhase phase = PlanPhase::forward);

  /// Fresh bytes for an instance; the same again for one that exists.
  PlanIndex slice(PlanIndex value, int32_t microbatch, int device);
  /// An instance that takes the range of another slice.
  PlanIndex slice_over(PlanIndex value, int32_t microbatch, PlanIndex other_slice);

  /// Instructions; slices that do not exist are made.
  void run(PlanIndex node, int32_t microbatch);
  /// wait for the sender's queue, send, recv, and the receiver's compute queue waits.
  void copy(PlanIndex transfer, int32_t microbatch);
  void feed(PlanIndex input, int32_t microbatch, int device);
  void fetch(PlanIndex output, int32_t microbatch, int device);

  PlanIndex queue(QueueKind kind, int device, int peer = -1) const;
  /// `waiting` goes on after everything that `recording` has done so far.
  void order(PlanIndex recording, PlanIndex waiting);

  Plan done();

 private:
  std::vector<PlanIndex> operands(const std::vector<PlanIndex>& values, int32_t microbatch, int device);
  std::vector<int64_t> next_offset_;
};

/// Inference on two devices in two micro-batches of 4 rows: y = Gemm(Gemm(x, w0), w1), the copy of h between them.
/// Predicted: each Gemm 1 s, each copy 0.5 s.
Plan inference_plan();

/// A training step on two devices: y = x w0 w1, loss = sum(y^2), SGD on both weights, gradients accumulated over the
/// micro-batches, all forwards before all backwards. The last micro-batch has 1 row less when `has_tail`.
Plan training_plan(int32_t microbatches, bool has_tail);

}  // namespace mpc::test
