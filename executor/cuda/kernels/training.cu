// Dropout, accumulation of gradients and the optimizers. The arithmetic and its order are those of executor/functors.
// What changes from step to step is read from device memory, so that a captured step stays right.

#include "compiler/base/random.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
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

// Each block updates a run of this many elements: one thread computes the scalars of the step for all.
constexpr int64_t kRun = 4096;

MPC_DEVICE inline int64_t run_length(int64_t run, int64_t count) {
  return (run + 1) * kRun <= count ? kRun : count - run * kRun;
}

template <class T>
struct SgdRun {
  functors::SgdConstants constants;
  Scalars scalars;
  In<T> p, g;
  Out<T> new_p;
  int64_t count;
  MPC_DEVICE void operator()(Block& block, int64_t run) const {
    using Step = functors::SgdStep<T>;
    const Step step = block.once<Step>(
        [&] { return functors::sgd_step<T>(constants, static_cast<double>(*scalars.lr_scale), scalars.scale()); });
    block.for_each(run_length(run, count), [&](int64_t k) {
      const int64_t i = run * kRun + k;
      new_p.set(i, step.next(p[i], g[i]));
    });
  }
};

template <class T>
struct MomentumRun {
  functors::MomentumConstants constants;
  Scalars scalars;
  In<T> p, g, m;
  Out<T> new_p, new_m;
  int64_t count;
  MPC_DEVICE void operator()(Block& block, int64_t run) const {
    using Step = functors::MomentumStep<T>;
    const Step step = block.once<Step>([&] {
      return functors::momentum_step<T>(constants, *scalars.step, static_cast<double>(*scalars.lr_scale),
                                        scalars.scale());
    });
    block.for_each(run_length(run, count), [&](int64_t k) {
      const int64_t i = run * kRun + k;
      T p_i = p[i];
      T m_i = m[i];
      step.apply(p_i, g[i], m_i);
      new_p.set(i, p_i);
      new_m.set(i, m_i);
    });
  }
};

template <class T>
struct AdamRun {
  functors::AdamConstants constants;
  Scalars scalars;
  In<T> p, g, m, v;
  Out<T> new_p, new_m, new_v;
  int64_t count;
  MPC_DEVICE void operator()(Block& block, int64_t run) const {
    using Step = functors::AdamStep<T>;
    const Step step = block.once<Step>([&] {
      return functors::adam_step<T>(constants, *scalars.step, static_cast<double>(*scalars.lr_scale), scalars.scale());
    });
    block.for_each(run_length(run, count), [&](int64_t k) {
      const int64_t i = run * kRun + k;
      T p_i = p[i];
      T m_i = m[i];
      T v_i = v[i];
      step.apply(p_i, g[i], m_i, v_i);
      new_p.set(i, p_i);
      new_m.set(i, m_i);
      new_v.set(i, v_i);
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

/// Why the optimizer kernels do not take the node: tensors are the first `tensors` operands.
std::string refusal(const executor::NodeSpec& node, size_t tensors) {
  for (size_t i = 0; i < tensors; ++i) {
    if (!is_float(input_dtype(node, i))) return "optimizer: only floats";
  }
  const bool fits = input_dtype(node, tensors) == DType::i64 && input_dtype(node, tensors + 1) == DType::f32 &&
                    input_dtype(node, tensors + 2) == DType::f32;
  return fits ? "" : "optimizer: only with an i64 step and f32 scales";
}

Scalars scalars_of(const Launch& launch, size_t first) {
  return {launch.in<int64_t>(first), launch.in<float>(first + 1), launch.in<float>(first + 2)};
}

int64_t runs_of(int64_t count) {
  return (count + kRun - 1) / kRun;
}

}  // namespace

KernelOrReason accumulate(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("GradAccumulate: only floats");
  const int64_t count = node.outputs[0].shape.elements();
  const DType g = input_dtype(node, 0);
  const DType sum = input_dtype(node, 1);
  const DType out = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      for_each(launch.stream, count,
               Accumulate<T>{
                   {launch.inputs[0], g}, {launch.inputs[1], sum}, {launch.outputs[0], out}, launch.microbatch == 0},
               "GradAccumulate");
    });
  });
}

KernelOrReason sgd(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node, 2); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    const SgdRun<T> body{functors::SgdConstants(*node.attributes), {},
                         {nullptr, input_dtype(node, 0)},          {nullptr, input_dtype(node, 1)},
                         {nullptr, output_dtype(node, 0)},         node.outputs[0].shape.elements()};
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      SgdRun<T> bound = body;
      bound.scalars = scalars_of(launch, 2);
      bound.p.data = launch.inputs[0];
      bound.g.data = launch.inputs[1];
      bound.new_p.data = launch.outputs[0];
      for_each_block(launch.stream, runs_of(bound.count), bound, "SgdUpdate");
    });
  });
}

KernelOrReason momentum(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node, 3); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    const MomentumRun<T> body{functors::MomentumConstants(*node.attributes),
                              {},
                              {nullptr, input_dtype(node, 0)},
                              {nullptr, input_dtype(node, 1)},
                              {nullptr, input_dtype(node, 2)},
                              {nullptr, output_dtype(node, 0)},
                              {nullptr, output_dtype(node, 1)},
                              node.outputs[0].shape.elements()};
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      MomentumRun<T> bound = body;
      bound.scalars = scalars_of(launch, 3);
      bound.p.data = launch.inputs[0];
      bound.g.data = launch.inputs[1];
      bound.m.data = launch.inputs[2];
      bound.new_p.data = launch.outputs[0];
      bound.new_m.data = launch.outputs[1];
      for_each_block(launch.stream, runs_of(bound.count), bound, "MomentumUpdate");
    });
  });
}

KernelOrReason adam(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = refusal(node, 4); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    const AdamRun<T> body{functors::AdamConstants(*node.attributes), {},
                          {nullptr, input_dtype(node, 0)},           {nullptr, input_dtype(node, 1)},
                          {nullptr, input_dtype(node, 2)},           {nullptr, input_dtype(node, 3)},
                          {nullptr, output_dtype(node, 0)},          {nullptr, output_dtype(node, 1)},
                          {nullptr, output_dtype(node, 2)},          node.outputs[0].shape.elements()};
    return function_kernel("cuda:functor", [=](const Launch& launch) {
      AdamRun<T> bound = body;
      bound.scalars = scalars_of(launch, 4);
      bound.p.data = launch.inputs[0];
      bound.g.data = launch.inputs[1];
      bound.m.data = launch.inputs[2];
      bound.v.data = launch.inputs[3];
      bound.new_p.data = launch.outputs[0];
      bound.new_m.data = launch.outputs[1];
      bound.new_v.data = launch.outputs[2];
      for_each_block(launch.stream, runs_of(bound.count), bound, "AdamUpdate");
    });
  });
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
