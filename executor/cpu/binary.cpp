// Elementwise operators with two operands and broadcasting in f32, f64 and i64. When the kernel is made, neighbouring
// dimensions along which both operands go the same way become one; what is left is an inner loop of one of a few forms.
// Loops say "ivdep": a result may take the bytes of an operand of its own shape, and nothing else overlaps.

#include "executor/functors/binary.h"

#include <array>
#include <vector>

#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves

/// Dimensions of the result, outermost first, with the steps of both operands (in elements; 0 where it is repeated).
struct Walk {
  struct Dim {
    int64_t count;
    int64_t a_step;
    int64_t b_step;
  };
  std::vector<Dim> outer;
  Dim inner{1, 1, 1};
};

// Steps of an operand along the dimensions of the result.
std::vector<int64_t> steps_of(const Shape& shape, const Shape& result) {
  std::vector<int64_t> steps(static_cast<size_t>(result.rank()), 0);
  int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (shape[axis] > 1) steps[static_cast<size_t>(axis + result.rank() - shape.rank())] = step;
    step *= shape[axis];
  }
  return steps;
}

Walk plan_walk(const Shape& a, const Shape& b, const Shape& result) {
  const std::vector<int64_t> a_steps = steps_of(a, result);
  const std::vector<int64_t> b_steps = steps_of(b, result);
  std::vector<Walk::Dim> dims;  // innermost first
  for (int axis = result.rank() - 1; axis >= 0; --axis) {
    if (result[axis] == 1) continue;
    const Walk::Dim dim{result[axis], a_steps[static_cast<size_t>(axis)], b_steps[static_cast<size_t>(axis)]};
    if (!dims.empty()) {
      Walk::Dim& last = dims.back();
      if (dim.a_step == last.a_step * last.count && dim.b_step == last.b_step * last.count) {
        last.count *= dim.count;
        continue;
      }
    }
    dims.push_back(dim);
  }
  Walk walk;
  if (dims.empty()) return walk;
  walk.inner = dims.front();
  walk.outer.assign(dims.rbegin(), dims.rend() - 1);
  return walk;
}

template <class F, class T, class R>
void inner_loop(const T* a, const T* b, R* out, const Walk::Dim& dim) {
  const int64_t count = dim.count;
  if (dim.a_step == 1 && dim.b_step == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<R>(F::value(a[i], b[i]));
  } else if (dim.a_step == 1 && dim.b_step == 0) {
    const T right = *b;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<R>(F::value(a[i], right));
  } else if (dim.a_step == 0 && dim.b_step == 1) {
    const T left = *a;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<R>(F::value(left, b[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<R>(F::value(a[i * dim.a_step], b[i * dim.b_step]));
  }
}

template <class F, class T, class R>
class BinaryKernel final : public Kernel {
 public:
  BinaryKernel(const NodeSpec& node)
      : walk_(plan_walk(node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape)), threads_(node.threads) {
    for (const Walk::Dim& dim : walk_.outer) rows_ *= dim.count;
    if (node.outputs[0].shape.elements() == 0) rows_ = 0;
  }

  void run(const KernelCall& call) override {
    if (rows_ == 0) return;
    const T* a = call.inputs[0].as<T>();
    const T* b = call.inputs[1].as<T>();
    R* out = call.outputs[0].as<R>();
    const Walk::Dim& inner = walk_.inner;
    if (rows_ == 1) {  // one long row: cut it
      parallel_for(threads_, inner.count, kGrain, [&](int64_t begin, int64_t end) {
        inner_loop<F>(a + begin * inner.a_step, b + begin * inner.b_step, out + begin,
                      {end - begin, inner.a_step, inner.b_step});
      });
      return;
    }
    parallel_for(threads_, rows_, 1 + kGrain / inner.count, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) run_row(a, b, out, row);
    });
  }
  std::string_view name() const override { return "cpu:functor"; }

 private:
  void run_row(const T* a, const T* b, R* out, int64_t row) const {
    int64_t rest = row;
    for (size_t d = walk_.outer.size(); d-- > 0;) {
      const int64_t index = rest % walk_.outer[d].count;
      rest /= walk_.outer[d].count;
      a += index * walk_.outer[d].a_step;
      b += index * walk_.outer[d].b_step;
    }
    inner_loop<F>(a, b, out + row * walk_.inner.count, walk_.inner);
  }

  Walk walk_;
  int64_t rows_ = 1;
  int threads_;
};

bool have_types(const NodeSpec& node, DType operand, DType result) {
  return node.inputs[0].dtype == operand && node.inputs[1].dtype == operand && node.outputs[0].dtype == result;
}

template <class F>
KernelOrReason arithmetic(const NodeSpec& node) {
  if (have_types(node, DType::f32, DType::f32)) return {std::make_unique<BinaryKernel<F, float, float>>(node), {}};
  if (have_types(node, DType::f64, DType::f64)) return {std::make_unique<BinaryKernel<F, double, double>>(node), {}};
  return declined("broadcasting loops: only f32 and f64");
}

template <class F>
KernelOrReason arithmetic_with_integers(const NodeSpec& node) {
  if (have_types(node, DType::i64, DType::i64)) return {std::make_unique<BinaryKernel<F, int64_t, int64_t>>(node), {}};
  return arithmetic<F>(node);
}

template <class F>
KernelOrReason comparison(const NodeSpec& node) {
  if (have_types(node, DType::f32, DType::boolean))
    return {std::make_unique<BinaryKernel<F, float, uint8_t>>(node), {}};
  if (have_types(node, DType::i64, DType::boolean))
    return {std::make_unique<BinaryKernel<F, int64_t, uint8_t>>(node), {}};
  if (have_types(node, DType::i32, DType::boolean))
    return {std::make_unique<BinaryKernel<F, int32_t, uint8_t>>(node), {}};
  return declined("broadcasting loops: comparisons only of f32, i32 and i64");
}

}  // namespace

KernelOrReason binary_loops(const NodeSpec& node) {
  switch (node.op) {
    case OpKind::Add:
      return arithmetic_with_integers<functors::Add>(node);
    case OpKind::Sub:
      return arithmetic_with_integers<functors::Sub>(node);
    case OpKind::Mul:
      return arithmetic_with_integers<functors::Mul>(node);
    case OpKind::Div:
      return arithmetic<functors::Div>(node);
    case OpKind::Max:
      return arithmetic<functors::Max>(node);
    case OpKind::Min:
      return arithmetic<functors::Min>(node);
    case OpKind::PRelu:
      return arithmetic<functors::PRelu>(node);
    case OpKind::Pow:
      return arithmetic<functors::Pow>(node);
    case OpKind::Equal:
      return comparison<functors::Equal>(node);
    case OpKind::Greater:
      return comparison<functors::Greater>(node);
    case OpKind::GreaterOrEqual:
      return comparison<functors::GreaterOrEqual>(node);
    case OpKind::Less:
      return comparison<functors::Less>(node);
    case OpKind::LessOrEqual:
      return comparison<functors::LessOrEqual>(node);
    default:
      return declined("broadcasting loops: no functor");
  }
}

}  // namespace mpc::cpu
