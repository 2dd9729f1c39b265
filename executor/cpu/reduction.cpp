// Reductions in f32: sums and extrema over any axes. Dimensions that are all kept or all reduced become one; every run
// of the innermost dimension is then added to its result (if it is reduced), or added to a row of results (if it is
// kept). Sums are kept in f64, extrema as they are; the order is that of the operand's elements.

#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

MPC_CLONES void add_squares(const float* x, double* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
}

MPC_CLONES void max_into(const float* x, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] > out[i] || x[i] != x[i] ? x[i] : out[i];
}

MPC_CLONES void min_into(const float* x, float* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] < out[i] || x[i] != x[i] ? x[i] : out[i];
}

class ReductionKernel final : public Kernel {
 public:
  explicit ReductionKernel(const NodeSpec& node) : op_(node.op), results_(node.outputs[0].shape.elements()) {
    const Shape& x = node.inputs[0].shape;
    const std::vector<int64_t>& axes = node.attributes->integers("axes");
    for (int axis = 0; axis < x.rank(); ++axis) {
      const bool is_reduced = std::find(axes.begin(), axes.end(), axis) != axes.end();
      if (x[axis] == 1) continue;
      if (!dims_.empty() && dims_.back().is_reduced == is_reduced) {
        dims_.back().count *= x[axis];
      } else {
        dims_.push_back({x[axis], is_reduced, 0});
      }
    }
    if (dims_.empty()) dims_.push_back({1, true, 0});
    int64_t step = 1;
    for (size_t d = dims_.size(); d-- > 0;) {
      if (dims_[d].is_reduced) continue;
      dims_[d].result_step = step;
      step *= dims_[d].count;
    }
    group_ = x.elements() / results_;
    for (size_t d = 0; d + 1 < dims_.size(); ++d) runs_ *= dims_[d].count;
  }

  void run(const KernelCall& call) override {
    const float* x = call.inputs[0].as<float>();
    float* y = call.outputs[0].as<float>();
    if (op_ == OpKind::ReduceMax || op_ == OpKind::ReduceMin) {
      run_extremum(x, y);
    } else {
      run_sum(x, y);
    }
  }
  std::string_view name() const override { return "cpu:rows"; }

 private:
  struct Dim {
    int64_t count;
    bool is_reduced;
    int64_t result_step;
  };

  // Where the results of a run of the innermost dimension begin.
  int64_t result_of(int64_t run) const {
    int64_t at = 0;
    for (size_t d = dims_.size() - 1; d-- > 0;) {
      at += run % dims_[d].count * dims_[d].result_step;
      run /= dims_[d].count;
    }
    return at;
  }

  void run_sum(const float* x, float* y) const {
    const bool is_square = op_ == OpKind::ReduceSumSquare || op_ == OpKind::ReduceL2;
    double* sums = reinterpret_cast<double*>(thread_scratch(results_ * static_cast<int64_t>(sizeof(double))).data());
    std::fill_n(sums, results_, 0.0);
    const Dim& inner = dims_.back();
    for (int64_t run = 0; run < runs_; ++run, x += inner.count) {
      double* result = sums + result_of(run);
      if (inner.is_reduced) {
        *result += is_square ? row_dot(x, x, inner.count) : row_sum(x, inner.count);
      } else if (is_square) {
        add_squares(x, result, inner.count);
      } else {
        row_add(x, result, inner.count);
      }
    }
    for (int64_t i = 0; i < results_; ++i) y[i] = static_cast<float>(finished(sums[i]));
  }

  double finished(double sum) const {
    if (op_ == OpKind::ReduceMean) return sum / static_cast<double>(group_);
    return op_ == OpKind::ReduceL2 ? std::sqrt(sum) : sum;
  }

  void run_extremum(const float* x, float* y) const {
    const bool is_max = op_ == OpKind::ReduceMax;
    std::fill_n(y, results_, is_max ? -INFINITY : INFINITY);
    const Dim& inner = dims_.back();
    for (int64_t run = 0; run < runs_; ++run, x += inner.count) {
      float* result = y + result_of(run);
      if (inner.is_reduced) {
        const float best = is_max ? row_max(x, inner.count) : row_min(x, inner.count);
        is_max ? max_into(&best, result, 1) : min_into(&best, result, 1);
      } else {
        is_max ? max_into(x, result, inner.count) : min_into(x, result, inner.count);
      }
    }
  }

  OpKind op_;
  int64_t results_;
  int64_t group_ = 1;
  int64_t runs_ = 1;
  std::vector<Dim> dims_;  // outermost first
};

}  // namespace

KernelOrReason reduction_rows(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return declined("reduction by rows: only f32");
  if (has_empty_operand(node)) return declined("reduction by rows: an operand is empty");
  return {std::make_unique<ReductionKernel>(node), {}};
}

}  // namespace mpc::cpu
