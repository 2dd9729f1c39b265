// Layer and RMS normalization with gradients. Statistics are f64 sums, one block per row.

#include <algorithm>
#include <cmath>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/rounded.h"

namespace mpc::cuda {
namespace {

// x (rows, columns), each row is normalized.

/// Scale or bias as x sees it: one number per column, or broadcast to x in any other way.
template <class T>
struct Weights {
  In<T> values;  // a bias may have no data
  bool is_per_column;
  Walk<1> walk;
  MPC_DEVICE T at(int64_t begin, int64_t column) const {
    return values[is_per_column ? column : walk.positions(begin + column).at[0]];
  }
};

template <class T>
struct RowStatistics {
  T mean;     // 0 for RMS
  T inverse;  // 1 / sqrt(variance + epsilon)
};

template <class T>
MPC_DEVICE inline RowStatistics<T> row_statistics(Block& block, const In<T>& x, int64_t begin, int64_t columns,
                                                  double epsilon, bool is_centered) {
  const double count = columns == 0 ? 1.0 : static_cast<double>(columns);
  RowStatistics<T> s{0, 0};
  if (is_centered) {
    const double sum = block.sum(columns, [&](int64_t i) { return static_cast<double>(x[begin + i]); });
    s.mean = static_cast<T>(sum / count);
  }
  const T mean = s.mean;
  const double squares = block.sum(columns, [&](int64_t i) {
    const double d = static_cast<double>(x[begin + i] - mean);
    return d * d;
  });
  s.inverse = static_cast<T>(1.0 / std::sqrt(squares / count + epsilon));
  return s;
}

template <class T>
struct NormalizeRow {
  In<T> x;
  Weights<T> scale;
  Weights<T> bias;
  Out<T> y;  // these four may have no data
  Out<T> mean;
  Out<T> inverse;
  Out<T> low;  // y again, in 16 bits
  int64_t columns;
  double epsilon;
  bool is_centered;
  MPC_DEVICE void operator()(Block& block, int64_t row) const {
    const int64_t begin = row * columns;
    const RowStatistics<T> s = row_statistics<T>(block, x, begin, columns, epsilon, is_centered);
    block.for_each(y.data == nullptr && low.data == nullptr ? 0 : columns, [&](int64_t i) {
      T value = (x[begin + i] - s.mean) * s.inverse * scale.at(begin, i);
      if (bias.values.data != nullptr) value += bias.at(begin, i);
      if (y.data != nullptr) y.set(begin + i, value);
      if (low.data != nullptr) low.set(begin + i, value);
    });
    block.for_each(1, [&](int64_t) {
      if (mean.data != nullptr) mean.set(row, s.mean);
      if (inverse.data != nullptr) inverse.set(row, s.inverse);
    });
  }
};

/// dx = inverse (dy scale - (sum(dy scale) + xhat sum(dy scale xhat)) / columns).
template <class T>
struct NormalizeRowGrad {
  In<T> dy;
  In<T> x;
  Weights<T> scale;
  In<T> added;  // to dx; these three may have no data
  Out<T> dx;
  Out<T> low;  // dx again, in 16 bits
  int64_t columns;
  double epsilon;
  bool is_centered;
  MPC_DEVICE void operator()(Block& block, int64_t row) const {
    const int64_t begin = row * columns;
    const RowStatistics<T> s = row_statistics<T>(block, x, begin, columns, epsilon, is_centered);
    const double sum = block.sum(is_centered ? columns : 0, [&](int64_t i) {
      return static_cast<double>(dy[begin + i]) * static_cast<double>(scale.at(begin, i));
    });
    const double sum_xhat = block.sum(columns, [&](int64_t i) {
      const double xhat = static_cast<double>((x[begin + i] - s.mean) * s.inverse);
      return static_cast<double>(dy[begin + i]) * static_cast<double>(scale.at(begin, i)) * xhat;
    });
    const T mean_term = static_cast<T>(sum / static_cast<double>(columns));
    const T xhat_term = static_cast<T>(sum_xhat / static_cast<double>(columns));
    block.for_each(columns, [&](int64_t i) {
      const T xhat = (x[begin + i] - s.mean) * s.inverse;
      T value = s.inverse * (dy[begin + i] * scale.at(begin, i) - (mean_term + xhat * xhat_term));
      if (added.data != nullptr) {
        if constexpr (std::is_same_v<T, float>) value = rounded(value, dx.dtype);
        value += added[begin + i];
      }
      if (dx.data != nullptr) dx.set(begin + i, value);
      if (low.data != nullptr) low.set(begin + i, value);
    });
  }
};

/// Partial sums over part `part` of the rows: (parts, columns) of each. The team finds the statistics of the part's
/// rows first; then neighbouring threads take neighbouring columns, whose elements the caches still hold.
template <class T>
struct WeightGradParts {
  In<T> dy;
  In<T> x;
  RowStatistics<T>* statistics;  // (rows)
  double* dscale;
  double* dbias;
  int64_t rows;
  int64_t columns;
  int64_t rows_per_part;
  double epsilon;
  bool is_centered;
  MPC_DEVICE void operator()(Block& block, int64_t part) const {
    const int64_t first = part * rows_per_part;
    const int64_t last = first + rows_per_part < rows ? first + rows_per_part : rows;
    for (int64_t row = first; row < last; ++row) {
      const RowStatistics<T> s = row_statistics<T>(block, x, row * columns, columns, epsilon, is_centered);
      block.for_each(1, [&](int64_t) { statistics[row] = s; });
    }
    block.for_each(columns, [&](int64_t column) {
      double scale_sum = 0;
      double bias_sum = 0;
      for (int64_t row = first; row < last; ++row) {
        const T d = dy[row * columns + column];
        const T xhat = (x[row * columns + column] - statistics[row].mean) * statistics[row].inverse;
        scale_sum += static_cast<double>(d) * static_cast<double>(xhat);
        bias_sum += static_cast<double>(d);
      }
      dscale[part * columns + column] = scale_sum;
      dbias[part * columns + column] = bias_sum;
    });
  }
};

template <class T>
struct WeightGradSum {
  const double* dscale_parts;
  const double* dbias_parts;
  Out<T> dscale;  // these two may have no data
  Out<T> dbias;
  int64_t parts;
  int64_t columns;
  MPC_DEVICE void operator()(Block& block, int64_t column) const {
    const auto add_up = [&](const double* from, const Out<T>& to) {
      if (to.data == nullptr) return;
      const double sum = block.sum(parts, [&](int64_t part) { return from[part * columns + column]; });
      block.for_each(1, [&](int64_t) { to.set(column, static_cast<T>(sum)); });
    };
    add_up(dscale_parts, dscale);
    add_up(dbias_parts, dbias);
  }
};

template <class T>
class WeightGradKernel final : public Kernel {
 public:
  WeightGradKernel(const executor::NodeSpec& node, int64_t rows, int64_t columns, bool is_centered)
      : rows_(rows),
        columns_(columns),
        rows_per_part_(std::max<int64_t>(kLeastRowsPerPart, (rows + kMostParts - 1) / kMostParts)),
        parts_((rows + rows_per_part_ - 1) / rows_per_part_),
        epsilon_(node.attributes->number("epsilon")),
        is_centered_(is_centered),
        dy_(input_dtype(node, 0)),
        x_(input_dtype(node, 1)),
        dscale_(output_dtype(node, 0)),
        dbias_(output_dtype(node, 1)) {}

  void run(const Launch& launch) override {
    auto* statistics = static_cast<RowStatistics<T>*>(launch.workspace);
    double* dscale = reinterpret_cast<double*>(static_cast<std::byte*>(launch.workspace) + statistics_bytes());
    double* dbias = dscale + parts_ * columns_;
    const In<T> x{launch.inputs[1], x_};
    for_each_block(launch.stream, parts_,
                   WeightGradParts<T>{{launch.inputs[0], dy_},
                                      x,
                                      statistics,
                                      dscale,
                                      dbias,
                                      rows_,
                                      columns_,
                                      rows_per_part_,
                                      epsilon_,
                                      is_centered_},
                   "normalization weight gradient");
    for_each_block(launch.stream, columns_,
                   WeightGradSum<T>{
                       dscale, dbias, {launch.out<void>(0), dscale_}, {launch.out<void>(1), dbias_}, parts_, columns_},
                   "normalization weight gradient");
  }
  int64_t workspace_bytes() const override {
    return statistics_bytes() + 2 * parts_ * columns_ * static_cast<int64_t>(sizeof(double));
  }
  std::string_view name() const override { return "cuda:rows"; }

 private:
  // A team takes its rows one after another, so few of them; but the parts are written and read again.
  static constexpr int64_t kLeastRowsPerPart = 16;
  static constexpr int64_t kMostParts = 1024;
  int64_t statistics_bytes() const {
    return (rows_ * static_cast<int64_t>(sizeof(RowStatistics<T>)) + 255) / 256 * 256;
  }

  int64_t rows_;
  int64_t columns_;
  int64_t rows_per_part_;
  int64_t parts_;
  double epsilon_;
  bool is_centered_;
  DType dy_, x_, dscale_, dbias_;
};

std::string refusal(const executor::NodeSpec& node) {
  return first_not_float(node) ? "normalization: only floats" : "";
}

struct RowShape {
  RowShape(const executor::NodeSpec& node, size_t x_at) {
    const Shape& x = node.inputs[x_at].shape;
    const int axis = static_cast<int>(node.attributes->integer("axis"));
    columns = x.elements(axis, x.rank());
    rows = x.elements(0, axis);
  }
  int64_t rows;
  int64_t columns;
};

template <class T>
Weights<T> weights_of(const executor::NodeSpec& node, size_t operand, size_t x_at, int64_t columns) {
  if (!has_input(node, operand)) return {{}, true, {}};
  const Shape& x = node.inputs[x_at].shape;
  const Shape& shape = node.inputs[operand].shape;
  return {{nullptr, node.inputs[operand].dtype},
          shape.elements() == columns && shape == Shape(x.dims().last(static_cast<size_t>(shape.rank()))),
          make_walk<1>(x, {broadcast_steps(shape, x)})};
}

}  // namespace

KernelOrReason layer_norm(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  const RowShape shape(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    NormalizeRow<T> body{};
    body.x.dtype = input_dtype(node, 0);
    body.scale = weights_of<T>(node, 1, 0, shape.columns);
    body.bias = weights_of<T>(node, 2, 0, shape.columns);
    body.y.dtype = output_dtype(node, 0);
    const bool is_centered = node.op == OpKind::LayerNormalization;
    const size_t low_at = is_centered ? 3 : 1;  // behind the statistics
    body.mean.dtype = output_dtype(node, 1);
    body.inverse.dtype = output_dtype(node, 2);
    body.low.dtype = output_dtype(node, low_at);
    body.columns = shape.columns;
    body.epsilon = node.attributes->number("epsilon");
    body.is_centered = is_centered;
    const int64_t rows = shape.rows;
    return function_kernel("cuda:rows", [=](const Launch& launch) {
      NormalizeRow<T> bound = body;
      bound.x.data = launch.inputs[0];
      bound.scale.values.data = launch.inputs[1];
      bound.bias.values.data = launch.in<void>(2);
      bound.y.data = launch.out<void>(0);
      if (is_centered) {
        bound.mean.data = launch.out<void>(1);
        bound.inverse.data = launch.out<void>(2);
      }
      bound.low.data = launch.out<void>(low_at);
      for_each_block(launch.stream, rows, bound, "normalization");
    });
  });
}

KernelOrReason layer_norm_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  const RowShape shape(node, 1);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    NormalizeRowGrad<T> body{};
    body.dy.dtype = input_dtype(node, 0);
    body.x.dtype = input_dtype(node, 1);
    body.scale = weights_of<T>(node, 2, 1, shape.columns);
    body.added.dtype = input_dtype(node, 3);
    body.dx.dtype = output_dtype(node, 0);
    body.low.dtype = output_dtype(node, 1);
    body.columns = shape.columns;
    body.epsilon = node.attributes->number("epsilon");
    body.is_centered = node.op == OpKind::LayerNormalizationGrad;
    const int64_t rows = shape.columns == 0 ? 0 : shape.rows;
    return function_kernel("cuda:rows", [=](const Launch& launch) {
      NormalizeRowGrad<T> bound = body;
      bound.dy.data = launch.inputs[0];
      bound.x.data = launch.inputs[1];
      bound.scale.values.data = launch.inputs[2];
      bound.added.data = launch.in<void>(3);
      bound.dx.data = launch.out<void>(0);
      bound.low.data = launch.out<void>(1);
      for_each_block(launch.stream, rows, bound, "normalization gradient");
    });
  });
}

KernelOrReason layer_norm_weight_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  const RowShape shape(node, 1);
  const bool is_centered = node.op == OpKind::LayerNormalizationWeightGrad;
  return with_float_type(node, [&](auto tag) {
    return KernelOrReason{
        std::make_unique<WeightGradKernel<decltype(tag)>>(node, shape.rows, shape.columns, is_centered), {}};
  });
}

}  // namespace mpc::cuda
