#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "compiler/base/weights.h"
#include "compiler/plan/plan.h"

namespace mpc::test {

/// Numbers in [-1, 1) that depend on `name` and position alone.
std::vector<float> numbers(const std::string& name, int64_t count);
std::span<const std::byte> bytes_of(const std::vector<float>& numbers);

/// Parameters are numbers(name, ...).
class NumberedWeights final : public WeightSource {
 public:
  void read(const std::string& name, int64_t offset, std::span<std::byte> out) const override;
  DType dtype(const std::string&) const override { return DType::f32; }
};

/// y = Relu(x A) B with x (rows, 6), A (6, 5), B (5, 4): A on the first of `devices`, Relu on the second, B on the
/// third.
struct Placement {
  int device_count = 1;
  int first = 0;
  int second = 0;
  int third = 0;
};
inline constexpr Placement kOneDevice{1, 0, 0, 0};
inline constexpr Placement kTwoDevices{2, 0, 0, 1};
inline constexpr Placement kThreeDevices{3, 0, 1, 2};

struct Batches {
  int32_t microbatches = 1;
  int64_t batch = 8;
  int64_t microbatch_rows = 8;
};

/// Forward only; output "y".
Plan forward_plan(const Placement& placement, const Batches& batches);
/// With loss = sum((x A) B)^2 / 2, accumulated gradients and SGD updates of A and B; outputs "y" and "loss".
Plan training_plan(const Placement& placement, const Batches& batches);

}  // namespace mpc::test
