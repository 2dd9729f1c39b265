// Accumulation of gradients, optimizers and dropout in f32. The arithmetic and its order are those of
// executor/functors, so the bits are those of the reference kernels.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compiler/base/error.h"
#include "compiler/base/random.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"
#include "executor/functors/update.h"
#include "executor/updated_tensors.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a second thread costs more than it saves

/// The scalar operands of an optimizer, from operand `first` on: step, lr_scale, grad_scale?.
struct StepScalars {
  StepScalars(OpKind op, const KernelCall& call, size_t first)
      : step(*call.inputs[first].as<int64_t>()),
        lr_scale(*call.inputs[first + 1].as<float>()),
        grad_scale(call.has_input(first + 2) ? *call.inputs[first + 2].as<float>() : 1.0) {
    if (step >= 1) return;
    throw Error(ErrorId::M033, std::string(op_name(op)), "step is " + std::to_string(step) + ", it starts at 1");
  }
  int64_t step;
  double lr_scale;
  double grad_scale;
};

MPC_CLONES void add_range(const float* g, const float* sum, float* out, int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) out[i] = sum[i] + g[i];
}

void accumulate(const KernelCall& call, int threads) {
  const float* g = call.inputs[0].as<float>();
  const float* sum = call.inputs[1].as<float>();
  float* out = call.outputs[0].as<float>();
  const bool is_first = call.step.microbatch == 0;
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain, [&](int64_t begin, int64_t end) {
    if (is_first) {
      // The only micro-batch of a step makes its gradient where the sum is to be.
      if (g != out) std::copy(g + begin, g + end, out + begin);
    } else {
      add_range(g, sum, out, begin, end);
    }
  });
}

MPC_CLONES void sgd_range(const functors::SgdStep<float> step, float* p, const float* g, int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) p[i] = step.next(p[i], g[i]);
}

MPC_CLONES void momentum_range(const functors::MomentumStep<float> step, float* p, const float* g, float* m,
                               int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) step.apply(p[i], g[i], m[i]);
}

MPC_CLONES void adam_range(const functors::AdamStep<float> step, float* p, const float* g, float* m, float* v,
                           int64_t begin, int64_t end) {
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) step.apply(p[i], g[i], m[i], v[i]);
}

// The optimizers update in place. Where a result has bytes of its own, its operand is copied there first.
float* in_place(const KernelCall& call, size_t input, size_t output) {
  const TensorView& from = call.inputs[input];
  const TensorView& to = call.outputs[output];
  if (from.data != to.data && to.bytes() > 0) std::memcpy(to.data, from.data, static_cast<size_t>(to.bytes()));
  return to.as<float>();
}

void sgd(const KernelCall& call, int threads) {
  const StepScalars scalars(OpKind::SgdUpdate, call, 2);
  const auto step =
      functors::sgd_step<float>(functors::SgdConstants(call.attributes), scalars.lr_scale, scalars.grad_scale);
  float* p = in_place(call, 0, 0);
  const float* g = call.inputs[1].as<float>();
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain,
               [&](int64_t begin, int64_t end) { sgd_range(step, p, g, begin, end); });
}

void momentum(const KernelCall& call, int threads) {
  const StepScalars scalars(OpKind::MomentumUpdate, call, 3);
  const auto step = functors::momentum_step<float>(functors::MomentumConstants(call.attributes), scalars.step,
                                                   scalars.lr_scale, scalars.grad_scale);
  float* p = in_place(call, 0, 0);
  float* m = in_place(call, 2, 1);
  const float* g = call.inputs[1].as<float>();
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain,
               [&](int64_t begin, int64_t end) { momentum_range(step, p, g, m, begin, end); });
}

void adam(const KernelCall& call, int threads) {
  const StepScalars scalars(OpKind::AdamUpdate, call, 4);
  const auto step = functors::adam_step<float>(functors::AdamConstants(call.attributes), scalars.step, scalars.lr_scale,
                                               scalars.grad_scale);
  float* p = in_place(call, 0, 0);
  float* m = in_place(call, 2, 1);
  float* v = in_place(call, 3, 2);
  const float* g = call.inputs[1].as<float>();
  parallel_for(threads, call.outputs[0].shape.elements(), kGrain,
               [&](int64_t begin, int64_t end) { adam_range(step, p, g, m, v, begin, end); });
}

void dropout(const KernelCall& call, int threads) {
  const float* x = call.inputs[0].as<float>();
  float* y = call.outputs[0].as<float>();
  const double ratio = call.attributes.number("ratio");
  const double scale = 1.0 / (1.0 - ratio);
  const uint32_t threshold = dropout_threshold(ratio);
  const RandomStream stream =
      op_stream(call.step.seed, call.attributes.integer("rng"), call.step.step, call.step.microbatch);
  const int64_t elements = call.outputs[0].shape.elements();
  const int64_t blocks = (elements + 3) / 4;
  parallel_for(threads, blocks, kGrain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const PhiloxBlock random = random_block(stream, block);
      const int64_t last = std::min<int64_t>(4, elements - 4 * block);
      for (int64_t i = 0; i < last; ++i) {
        const bool is_kept = random.word[i] >= threshold;
        y[4 * block + i] = is_kept ? static_cast<float>(x[4 * block + i] * scale) : 0.0f;
      }
    }
  });
}

bool is_f32(const NodeSpec& node, std::initializer_list<size_t> inputs) {
  for (const size_t i : inputs) {
    if (node.inputs[i].is_present && node.inputs[i].dtype != DType::f32) return false;
  }
  for (const NodeSpec::Operand& output : node.outputs) {
    if (output.is_present && output.dtype != DType::f32) return false;
  }
  return true;
}

// The tensors of an optimizer's node one after another.
template <size_t kStates, PlainRun run_one>
void run_each(const KernelCall& call, int threads) {
  for_each_updated<kStates>(call, [&](const KernelCall& one) { run_one(one, threads); });
}

template <size_t kStates, PlainRun run_one>
KernelOrReason make_update(const NodeSpec& node) {
  const size_t first_scalar = node.outputs.size() / (1 + kStates) * (2 + kStates);
  const auto is_type = [&](size_t i, DType dtype) { return !has_input(node, i) || node.inputs[i].dtype == dtype; };
  // All tensors have the dtype of the first, and so have the results.
  if (!is_type(0, DType::f32)) return declined("optimizer loops: only f32");
  if (!is_type(first_scalar, DType::i64) || !is_type(first_scalar + 1, DType::f32) ||
      !is_type(first_scalar + 2, DType::f32)) {
    return declined("optimizer loops: only with an i64 step and f32 scales");
  }
  return plain_kernel("cpu:functor", &run_each<kStates, run_one>, node.threads);
}

}  // namespace

KernelOrReason training_loops(const NodeSpec& node) {
  const auto make = [&](PlainRun run, std::initializer_list<size_t> tensors) -> KernelOrReason {
    if (!is_f32(node, tensors)) return declined("training loops: only f32");
    return plain_kernel("cpu:functor", run, node.threads);
  };
  switch (node.op) {
    case OpKind::GradAccumulate:
      // Plans for CPU devices have a Gemm of its own (passes/fuse_accumulations).
      if (node.inputs.size() > 2) return declined("training loops: no product");
      return make(&accumulate, {0, 1});
    case OpKind::SgdUpdate:
      return make_update<0, &sgd>(node);
    case OpKind::MomentumUpdate:
      return make_update<1, &momentum>(node);
    case OpKind::AdamUpdate:
      return make_update<2, &adam>(node);
    case OpKind::Dropout:
      return make(&dropout, {0});
    default:
      return declined("optimizer loops: not an optimizer");
  }
}

}  // namespace mpc::cpu
