// Dropout, accumulation of gradients, optimizers and Transfer. Results may take the bytes of the operands they update:
// every kernel reads element i of all operands before it writes element i of any result.

#include <algorithm>
#include <cstring>

#include "compiler/base/random.h"
#include "executor/functors/update.h"
#include "executor/reference/support.h"
#include "executor/updated_tensors.h"

namespace mpc::reference {
namespace {

// The scalar operands of an optimizer that start at operand `first`: step, lr_scale, grad_scale?.
struct StepScalars {
  int64_t step;
  double lr_scale;
  double grad_scale;
};

StepScalars step_scalars(OpKind op, const KernelCall& call, size_t first) {
  const StepScalars scalars{integer(call.inputs[first], 0), number(call.inputs[first + 1], 0),
                            call.has_input(first + 2) ? number(call.inputs[first + 2], 0) : 1.0};
  if (scalars.step < 1) fail(op, "step is " + std::to_string(scalars.step) + ", it starts at 1");
  return scalars;
}

// Calls f(T{}) with the type that an optimizer computes in: f64 for f64 parameters, else f32.
template <class F>
void with_update_type(DType dtype, F&& f) {
  if (dtype == DType::f64) return f(double{});
  f(float{});
}

// For every element i: f(values) with values[k] = element i of operand operands[k]; then result r is
// values[results[r]].
template <class T, size_t kOperands, size_t kResults, class F>
void update_elements(const KernelCall& call, const std::array<size_t, kOperands>& operands,
                     const std::array<size_t, kResults>& results, F&& f) {
  std::array<T, kOperands> values;
  const int64_t elements = call.outputs[0].shape.elements();
  for (int64_t i = 0; i < elements; ++i) {
    for (size_t k = 0; k < kOperands; ++k) values[k] = static_cast<T>(number(call.inputs[operands[k]], i));
    f(values);
    for (size_t r = 0; r < kResults; ++r) set_number(call.outputs[r], i, static_cast<double>(values[results[r]]));
  }
}

void sgd(const KernelCall& call) {
  const StepScalars scalars = step_scalars(OpKind::SgdUpdate, call, 2);
  with_update_type(call.inputs[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto step =
        functors::sgd_step<T>(functors::SgdConstants(call.attributes), scalars.lr_scale, scalars.grad_scale);
    update_elements<T, 2, 1>(call, {0, 1}, {0}, [&](std::array<T, 2>& v) { v[0] = step.next(v[0], v[1]); });
  });
}

void momentum(const KernelCall& call) {
  const StepScalars scalars = step_scalars(OpKind::MomentumUpdate, call, 3);
  with_update_type(call.inputs[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto step = functors::momentum_step<T>(functors::MomentumConstants(call.attributes), scalars.step,
                                                 scalars.lr_scale, scalars.grad_scale);
    update_elements<T, 3, 2>(call, {0, 1, 2}, {0, 2}, [&](std::array<T, 3>& v) { step.apply(v[0], v[1], v[2]); });
  });
}

void adam(const KernelCall& call) {
  const StepScalars scalars = step_scalars(OpKind::AdamUpdate, call, 4);
  with_update_type(call.inputs[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto step = functors::adam_step<T>(functors::AdamConstants(call.attributes), scalars.step, scalars.lr_scale,
                                             scalars.grad_scale);
    update_elements<T, 4, 3>(call, {0, 1, 2, 3}, {0, 2, 3},
                             [&](std::array<T, 4>& v) { step.apply(v[0], v[1], v[2], v[3]); });
  });
}

// What an addition of two f32 gives, also for operands that come from f16 or bf16.
double added_in_f32(double a, double b) {
  return static_cast<float>(a) + static_cast<float>(b);
}

}  // namespace

void Dropout(const KernelCall& call) {
  const TensorView& x = call.inputs[0];
  const double ratio = call.attributes.number("ratio");
  const double scale = 1.0 / (1.0 - ratio);
  const uint32_t threshold = dropout_threshold(ratio);
  const RandomStream stream =
      op_stream(call.step.seed, call.attributes.integer("rng"), call.step.step, call.step.microbatch);
  const int64_t elements = x.shape.elements();
  PhiloxBlock block{};
  for (int64_t i = 0; i < elements; ++i) {
    if (i % 4 == 0) block = random_block(stream, i / 4);
    const bool is_kept = block.word[i % 4] >= threshold;
    set_number(call.outputs[0], i, is_kept ? number(x, i) * scale : 0.0);
  }
}

namespace {

/// (a, acc, b): the product by the kernel of Gemm, then its addition.
void accumulate_product(const KernelCall& call) {
  const TensorView& sum = call.outputs[0];
  std::vector<std::byte> own(static_cast<size_t>(sum.bytes()));
  const TensorView results[] = {{sum.dtype, sum.shape, own.data()},
                                call.has_output(1) ? call.outputs[1] : TensorView{}};
  const TensorView operands[] = {call.inputs[0], call.inputs[2]};
  reference_kernel(OpKind::Gemm)({call.attributes, operands, results, call.step, {}});
  const TensorView addends[] = {results[0], call.inputs[1]};
  reference_kernel(OpKind::GradAccumulate)({call.attributes, addends, call.outputs.first(1), call.step, {}});
}

}  // namespace

void GradAccumulate(const KernelCall& call) {
  if (call.inputs.size() > 2) return accumulate_product(call);
  std::array<double, kChunk> g;
  std::array<double, kChunk> sum{};
  const bool is_first = call.step.microbatch == 0;
  const bool is_f64 = call.outputs[0].dtype == DType::f64;
  const int64_t elements = call.outputs[0].shape.elements();
  for (int64_t begin = 0; begin < elements; begin += kChunk) {
    const size_t count = static_cast<size_t>(std::min(kChunk, elements - begin));
    load<double>(call.inputs[0], begin, std::span(g.data(), count));
    if (!is_first) {
      load<double>(call.inputs[1], begin, std::span(sum.data(), count));
      for (size_t i = 0; i < count; ++i) g[i] = is_f64 ? sum[i] + g[i] : added_in_f32(sum[i], g[i]);
    }
    store<double>(call.outputs[0], begin, std::span<const double>(g.data(), count));
  }
}

void SgdUpdate(const KernelCall& call) {
  for_each_updated<0>(call, sgd);
}

void MomentumUpdate(const KernelCall& call) {
  for_each_updated<1>(call, momentum);
}

void AdamUpdate(const KernelCall& call) {
  for_each_updated<2>(call, adam);
}

void Transfer(const KernelCall& call) {
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    if (!call.has_output(i)) continue;
    if (call.outputs[i].bytes() > 0) {
      std::memmove(call.outputs[i].data, call.inputs[i].data, static_cast<size_t>(call.outputs[i].bytes()));
    }
  }
}

}  // namespace mpc::reference
