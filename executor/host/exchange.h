#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/literal.h"
#include "compiler/plan/plan.h"

// What a step takes from the host and gives to it: `feed` and `fetch` instructions.

namespace mpc::executor {

/// The shape of a value over all micro-batches: dimension 0 is the sum of theirs. @pre rank >= 1 unless there is one.
/// @throws Error(M061) for a scalar in several micro-batches.
Shape whole_shape(const Plan& plan, PlanIndex value);

/// The plan inputs' data: what the caller bound, and what the session supplies.
class HostInputs {
 public:
  explicit HostInputs(const Plan& plan);
  /// @throws Error(M004).
  void bind(const std::string& input, DType dtype, const Shape& shape, std::span<const std::byte> data);
  /// @throws Error(M004) naming the first input that is not bound.
  void require_all() const;
  void set_step(int64_t step, double learning_rate_scale);
  /// Writes the instance of input `index` for a micro-batch.
  void feed(PlanIndex index, int32_t microbatch, std::span<std::byte> to) const;

 private:
  void count_labels();

  struct Input {
    bool is_bound = false;
    std::span<const std::byte> data;
    Shape shape;               // of the whole batch
    int64_t stride_bytes = 0;  // from one micro-batch to the next; 0 when every one gets the whole tensor
  };
  const Plan& plan_;
  std::vector<Input> inputs_;
  int64_t step_ = 0;
  double learning_rate_scale_ = 1;
  double label_share_ = 0;
};

/// The plan outputs' data of the last step. Micro-batches go to disjoint ranges, so that queues may fetch concurrently.
class HostOutputs {
 public:
  explicit HostOutputs(const Plan& plan);
  void fetch(PlanIndex index, int32_t microbatch, std::span<const std::byte> from);
  /// Combines the micro-batches when all were fetched.
  void finish();
  /// @throws Error(M002) for an unknown name or before the first step.
  Literal output(const std::string& name) const;
  /// Output `index` as a number. @pre a scalar, finish() was called.
  double number(PlanIndex index) const;

 private:
  struct Output {
    Shape shape;
    std::vector<std::byte> parts;  // sum: the micro-batches one after the other
    std::vector<std::byte> result;
  };
  void add_up(PlanIndex index);

  const Plan& plan_;
  std::vector<Output> outputs_;
  bool has_results_ = false;
};

}  // namespace mpc::executor
