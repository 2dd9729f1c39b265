// Dropout, accumulation of gradients and the optimizers. The arithmetic and its order are those of executor/functors.
// What changes from step to step is read from device memory, so that a captured step stays right.

#include <vector>

#include "compiler/base/random.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/tensor_runs.h"
#include "executor/functors/update.h"

namespace mpc::cuda {
namespace {

template <class T>
struct Accumulate {
  In<T> g;
  In<T> sum;
  Out<T> out;
  bool is_first;
  MPC_DEVICE void operator()(int64_t i) const { out.set(i, is_first ? g[i] : sum[i] + g[i]); }
};

/// The scalar operands of an optimizer: step, lr_scale, grad_scale?.
struct Scalars {
  const int64_t* step;
  const float* lr_scale;
  const float* grad_scale;  // may be null
  MPC_DEVICE double scale() const { return grad_scale == nullptr ? 1.0 : static_cast<double>(*grad_scale); }
};

/// What tells the optimizers apart: the constants of a node, the scalars of a step, and the update of one element.
template <class T>
struct SgdRule {
  static constexpr int kStates = 0;
  using Constants = functors::SgdConstants;
  using Step = functors::SgdStep<T>;
  MPC_DEVICE static Step step(const Constants& constants, int64_t, double lr_scale, double grad_scale) {
    return functors::sgd_step<T>(constants, lr_scale, grad_scale);
  }
  MPC_DEVICE static void apply(const Step& step, T& p, T g, T*) { p = step.next(p, g); }
};

template <class T>
struct MomentumRule {
  static constexpr int kStates = 1;
  using Constants = functors::MomentumConstants;
  using Step = functors::MomentumStep<T>;
  MPC_DEVICE static Step step(const Constants& constants, int64_t number, double lr_scale, double grad_scale) {
    return functors::momentum_step<T>(constants, number, lr_scale, grad_scale);
  }
  MPC_DEVICE static void apply(const Step& step, T& p, T g, T* states) { step.apply(p, g, states[0]); }
};

template <class T>
struct AdamRule {
  static constexpr int kStates = 2;
  using Constants = functors::AdamConstants;
  using Step = functors::AdamStep<T>;
  MPC_DEVICE static Step step(const Constants& constants, int64_t number, double lr_scale, double grad_scale) {
    return functors::adam_step<T>(constants, number, lr_scale, grad_scale);
  }
  MPC_DEVICE static void apply(const Step& step, T& p, T g, T* states) { step.apply(p, g, states[0], states[1]); }
};

constexpr int kMostTensors = 400;  // of one launch

template <class Rule, class T>
struct UpdateRuns {
  static constexpr int kStates = Rule::kStates;
  struct Tensor {
    const void* g;
    const void* from[1 + kStates];  // p and the states
    void* to[1 + kStates];
    int64_t count;
    int64_t first_run;  // the runs of all tensors are numbered through
  };
  typename Rule::Constants constants;
  Scalars scalars = {};
  DType dtype = DType::f32;
  int tensor_count = 0;
  Tensor tensors[kMostTensors] = {};

  // One thread computes the scalars of the step for all of its block.
  MPC_DEVICE void operator()(Block& block, int64_t run) const {
    using Step = typename Rule::Step;
    const Step step = block.once<Step>(
        [&] { return Rule::step(constants, *scalars.step, static_cast<double>(*scalars.lr_scale), scalars.scale()); });
    const Tensor& tensor = tensors[tensor_of(tensors, tensor_count, run)];
    const int64_t begin = (run - tensor.first_run) * kRun;
    block.for_each(run_length(run - tensor.first_run, tensor.count), [&](int64_t k) {
      const int64_t i = begin + k;
      T values[1 + kStates];
      for (int s = 0; s <= kStates; ++s) values[s] = In<T>{tensor.from[s], dtype}[i];
      Rule::apply(step, values[0], In<T>{tensor.g, dtype}[i], values + 1);
      for (int s = 0; s <= kStates; ++s) Out<T>{tensor.to[s], dtype}.set(i, values[s]);
    });
  }
};

/// One block of four random words per call.
template <class T>
struct DropoutQuad {
  In<T> x;
  Out<T> y;
  const mpc_cuda_step* step;
  int64_t rng;
  int32_t microbatch;
  uint32_t threshold;
  double scale;
  int64_t count;
  MPC_DEVICE void operator()(int64_t quad) const {
    const PhiloxBlock random = random_block(op_stream(step->seed, rng, step->step, microbatch), quad);
    for (int64_t k = 0; k < 4 && 4 * quad + k < count; ++k) {
      const int64_t i = 4 * quad + k;
      const bool is_kept = random.word[k] >= threshold;
      y.set(i, is_kept ? static_cast<T>(static_cast<double>(x[i]) * scale) : T{0});
    }
  }
};

/// The kernel of an optimizer: operands p, g and states of each tensor, then the scalars.
template <template <class> class Rule>
KernelOrReason update(const executor::NodeSpec& node) {
  constexpr size_t kResults = 1 + Rule<float>::kStates;
  constexpr size_t kInputs = 1 + kResults;
  const size_t tensors = node.outputs.size() / kResults;
  const size_t first_scalar = tensors * kInputs;
  const DType dtype = input_dtype(node, 0);  // of all tensors
  if (!is_float(dtype)) return declined("optimizer: only floats");
  if (input_dtype(node, first_scalar) != DType::i64 || input_dtype(node, first_scalar + 1) != DType::f32 ||
      input_dtype(node, first_scalar + 2) != DType::f32) {
    return declined("optimizer: only with an i64 step and f32 scales");
  }
  std::vector<int64_t> counts;
  for (size_t t = 0; t < tensors; ++t) counts.push_back(node.outputs[t * kResults].shape.elements());
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    using Body = UpdateRuns<Rule<T>, T>;
    static_assert(sizeof(Body) <= kMostTableBytes);
    return function_kernel("cuda:functor",
                           [=, constants = typename Rule<T>::Constants(*node.attributes)](const Launch& launch) {
                             for (size_t first = 0; first < counts.size(); first += kMostTensors) {
                               Body body{constants};
                               body.scalars = {launch.in<int64_t>(first_scalar), launch.in<float>(first_scalar + 1),
                                               launch.in<float>(first_scalar + 2)};
                               body.dtype = dtype;
                               int64_t runs = 0;
                               for (size_t t = first; t < counts.size() && t < first + kMostTensors; ++t) {
                                 typename Body::Tensor& tensor = body.tensors[body.tensor_count++];
                                 tensor.g = launch.inputs[t * kInputs + 1];
                                 for (size_t s = 0; s < kResults; ++s) {
                                   tensor.from[s] = launch.inputs[t * kInputs + (s == 0 ? 0 : s + 1)];
                                   tensor.to[s] = launch.outputs[t * kResults + s];
                                 }
                                 tensor.count = counts[t];
                                 tensor.first_run = runs;
                                 runs += runs_of(counts[t]);
                               }
                               for_each_block(launch.stream, runs, body, "optimizer");
                             }
                           });
  });
}

}  // namespace

KernelOrReason accumulate(const executor::NodeSpec& node, const MakeOptions&) {
  if (node.inputs.size() > 2) return accumulate_product(node);
  if (first_not_float(node)) return declined("GradAccumulate: only floats");
  const int64_t count = node.outputs[0].shape.elements();
  const DType g = input_dtype(node, 0);
  const DType sum = input_dtype(node, 1);
  const DType out = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      // The only micro-batch of a step makes its gradient where the sum is to be.
      if (launch.microbatch == 0 && launch.inputs[0] == launch.outputs[0]) return;
      for_each(launch.stream, count,
               Accumulate<T>{
                   {launch.inputs[0], g}, {launch.inputs[1], sum}, {launch.outputs[0], out}, launch.microbatch == 0},
               "GradAccumulate");
    });
  });
}

KernelOrReason sgd(const executor::NodeSpec& node, const MakeOptions&) {
  return update<SgdRule>(node);
}

KernelOrReason momentum(const executor::NodeSpec& node, const MakeOptions&) {
  return update<MomentumRule>(node);
}

KernelOrReason adam(const executor::NodeSpec& node, const MakeOptions&) {
  return update<AdamRule>(node);
}

KernelOrReason dropout(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("Dropout: only floats");
  const double ratio = node.attributes->number("ratio");
  const int64_t count = node.outputs[0].shape.elements();
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    const DropoutQuad<T> body{{nullptr, input_dtype(node, 0)},
                              {nullptr, output_dtype(node, 0)},
                              nullptr,
                              node.attributes->integer("rng"),
                              0,
                              dropout_threshold(ratio),
                              1.0 / (1.0 - ratio),
                              count};
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      DropoutQuad<T> bound = body;
      bound.x.data = launch.inputs[0];
      bound.y.data = launch.outputs[0];
      bound.step = launch.step;
      bound.microbatch = launch.microbatch;
      for_each(launch.stream, (count + 3) / 4, bound, "Dropout");
    });
  });
}

}  // namespace mpc::cuda
