// Resize and its gradient in f32. A Resize is a sparse matrix along each dimension, its gradient the transposed ones;
// both are applied one dimension after the other to what lies inside the first that changes, so that intermediate
// results stay in caches. Sums are f32, in ascending order of what they take.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"
#include "executor/functors/resample.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16'384;

/// y[j] = sum over the entries e of row j of weight[e] x[at[e]].
struct SparseRows {
  int64_t columns = 0;               // of x
  std::vector<int64_t> begin = {0};  // entries of row j: [begin[j], begin[j + 1])
  std::vector<int64_t> at;
  std::vector<float> weight;
  bool copies = true;  // every row is one element of x

  int64_t rows() const { return static_cast<int64_t>(begin.size()) - 1; }
  void add(int64_t column, double value) {
    at.push_back(column);
    weight.push_back(static_cast<float>(value));
  }
  void end_row() {
    begin.push_back(static_cast<int64_t>(at.size()));
    copies = copies && begin.back() - begin[begin.size() - 2] == 1 && weight.back() == 1.0F;
  }
};

using Entry = std::pair<int64_t, double>;

SparseRows rows_of(const std::vector<std::vector<Entry>>& table, int64_t columns) {
  SparseRows rows;
  rows.columns = columns;
  for (const std::vector<Entry>& row : table) {
    for (const auto& [column, value] : row) rows.add(column, value);
    rows.end_row();
  }
  return rows;
}

/// What each coordinate of y takes of x.
std::vector<std::vector<Entry>> taken(const functors::ResizedAxis& axis) {
  std::vector<std::vector<Entry>> table;
  for (int64_t i = 0; i < axis.resized; ++i) {
    const functors::Taps taps = axis.taps_of(i);
    std::vector<Entry>& row = table.emplace_back();
    row.emplace_back(taps.left, 1 - taps.rest);
    if (taps.rest != 0) row.emplace_back(taps.left + 1, taps.rest);
  }
  return table;
}

/// What each of `columns` columns of the table gives to, in ascending order.
std::vector<std::vector<Entry>> transposed(const std::vector<std::vector<Entry>>& table, int64_t columns) {
  std::vector<std::vector<Entry>> result(static_cast<size_t>(columns));
  for (size_t i = 0; i < table.size(); ++i) {
    for (const auto& [column, value] : table[i])
      result[static_cast<size_t>(column)].emplace_back(static_cast<int64_t>(i), value);
  }
  return result;
}

bool is_identity(const functors::ResizedAxis& axis) {
  if (axis.extent != axis.resized) return false;
  for (int64_t i = 0; i < axis.resized; ++i) {
    const functors::Taps taps = axis.taps_of(i);
    if (taps.left != i || taps.rest != 0) return false;
  }
  return true;
}

MPC_CLONES void store_scaled(float* y, const float* x, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = weight * x[i];
}
MPC_CLONES void add_scaled(float* y, const float* x, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += weight * x[i];
}
MPC_CLONES void take(float* y, const float* x, const int64_t* at, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] = x[at[j]];
}

/// One dimension of [rows before it][it][inner].
struct Pass {
  SparseRows matrix;
  int64_t before = 1;  // of a block, with the dimensions that are done
  int64_t inner = 1;

  int64_t results() const { return before * matrix.rows() * inner; }

  void run(const float* x, float* y) const {
    for (int64_t o = 0; o < before; ++o) {
      const float* from = x + o * matrix.columns * inner;
      float* to = y + o * matrix.rows() * inner;
      if (inner > 1) {
        run_rows(from, to);
      } else if (matrix.copies) {
        take(to, from, matrix.at.data(), matrix.rows());
      } else {
        run_elements(from, to);
      }
    }
  }

 private:
  void run_rows(const float* x, float* y) const {
    for (int64_t j = 0; j < matrix.rows(); ++j, y += inner) {
      const int64_t first = matrix.begin[static_cast<size_t>(j)];
      const int64_t last = matrix.begin[static_cast<size_t>(j) + 1];
      if (first == last) std::fill(y, y + inner, 0.0F);
      for (int64_t e = first; e < last; ++e) {
        const float* from = x + matrix.at[static_cast<size_t>(e)] * inner;
        (e == first ? store_scaled : add_scaled)(y, from, matrix.weight[static_cast<size_t>(e)], inner);
      }
    }
  }

  void run_elements(const float* x, float* y) const {
    const int64_t* at = matrix.at.data();
    const float* weight = matrix.weight.data();
    int64_t e = 0;
    for (int64_t j = 0; j < matrix.rows(); ++j) {
      const int64_t last = matrix.begin[static_cast<size_t>(j) + 1];
      float sum = e < last ? weight[e] * x[at[e]] : 0.0F;  // not from 0: -0 stays -0
      for (++e; e < last; ++e) sum += weight[e] * x[at[e]];
      e = last;
      y[j] = sum;
    }
  }
};

class ResizeKernel final : public Kernel {
 public:
  ResizeKernel(const std::vector<functors::ResizedAxis>& axes, bool is_gradient, int threads) : threads_(threads) {
    size_t first = 0;
    for (; first < axes.size() && is_identity(axes[first]); ++first) blocks_ *= axes[first].extent;
    const auto from = [&](size_t d) { return is_gradient ? axes[d].resized : axes[d].extent; };
    for (size_t d = first; d < axes.size(); ++d) block_in_ *= from(d);
    block_out_ = block_in_;
    int64_t before = 1;
    for (size_t d = first; d < axes.size(); ++d) {
      const int64_t to = is_gradient ? axes[d].extent : axes[d].resized;
      if (!is_identity(axes[d])) {
        Pass& pass = passes_.emplace_back();
        const auto table = taken(axes[d]);
        pass.matrix = rows_of(is_gradient ? transposed(table, to) : table, from(d));
        pass.before = before;
        for (size_t k = d + 1; k < axes.size(); ++k) pass.inner *= from(k);
        block_out_ = pass.results();
        largest_ = std::max(largest_, block_out_);
      }
      before *= to;
    }
  }

  void run(const KernelCall& call) override {
    const float* x = call.inputs[0].as<const float>();
    float* y = call.outputs[0].as<float>();
    if (passes_.empty()) {
      std::copy(x, x + blocks_ * block_in_, y);
      return;
    }
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, largest_));
    parallel_for(threads_, blocks_, grain, [&](int64_t begin, int64_t end) {
      const auto bytes = 2 * largest_ * static_cast<int64_t>(sizeof(float));
      auto* const halves = reinterpret_cast<float*>(thread_scratch(bytes).data());
      for (int64_t block = begin; block < end; ++block) {
        const float* from = x + block * block_in_;
        for (size_t p = 0; p < passes_.size(); ++p) {
          float* const to = p + 1 == passes_.size() ? y + block * block_out_ : halves + (p % 2 == 0 ? 0 : largest_);
          passes_[p].run(from, to);
          from = to;
        }
      }
    });
  }
  std::string_view name() const override { return "cpu:sparse rows"; }

 private:
  std::vector<Pass> passes_;
  int64_t blocks_ = 1;  // before the first dimension that changes
  int64_t block_in_ = 1, block_out_ = 1, largest_ = 0;
  int threads_;
};

}  // namespace

KernelOrReason resize_rows(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return declined("resizes by rows: only f32");
  if (has_empty_operand(node)) return declined("resizes by rows: an operand is empty");
  if (node.attributes->text("coordinate_transformation_mode") == "tf_crop_and_resize")
    return declined("resizes by rows: no extrapolation");
  const bool is_gradient = node.op == OpKind::ResizeGrad;
  const Shape& x = is_gradient ? node.outputs[0].shape : node.inputs[0].shape;
  const Shape& y = is_gradient ? node.inputs[0].shape : node.outputs[0].shape;
  const auto axes = functors::resized_axes(*node.attributes, x, y);
  return {std::make_unique<ResizeKernel>(axes, is_gradient, node.threads), {}};
}

}  // namespace mpc::cpu
