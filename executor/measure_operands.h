#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "executor/backend.h"
#include "executor/host/arena.h"

// What timing a kernel of the host and one of another device have in common.

namespace mpc::executor {

/// How a kernel is timed.
struct MeasureOptions {
  // Integer operands are in [least_integer, least_integer + integers).
  int64_t least_integer = 0;
  int64_t integers = 1;
  double least_seconds = 0.01;  // calls go on until they took this long together
  int least_calls = 5;
  int most_calls = 100;
  // Of inputs, then of outputs: which of them no cache holds any more when a call begins. Empty: a call follows another
  // of the same operands. Kernels of other devices than the host are always timed like that.
  std::vector<bool> is_cold = {};
};

/// Operands of one node in memory of their own, with random content. What is updated in place is so here.
/// @throws Error(M070) when they do not fit in memory.
class MeasuredOperands {
 public:
  MeasuredOperands(const NodeSpec& spec, int64_t workspace_bytes, const MeasureOptions& options);

  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  std::span<std::byte> workspace;

  /// The bytes of all operands.
  std::span<const std::byte> content() const { return {arena_.data(), static_cast<size_t>(used_)}; }
  /// Lets the operands lie in other memory, which has content().
  void move_to(std::byte* memory);

 private:
  TensorView place(const NodeSpec::Operand& operand, std::byte* at = nullptr);

  Arena arena_;
  int64_t used_ = 0;
};

/// The median of what `once` returns in seconds, after a call that is not counted.
template <class Once>
double median_seconds(const MeasureOptions& options, Once once) {
  std::vector<double> seconds;
  double all = 0;
  for (int i = -1; i < options.most_calls; ++i) {
    const double taken = once();
    if (i < 0) continue;
    seconds.push_back(taken);
    all += taken;
    if (all >= options.least_seconds && static_cast<int>(seconds.size()) >= options.least_calls) break;
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

}  // namespace mpc::executor
