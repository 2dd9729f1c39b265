// Batch normalization with its gradient. Statistics are f64 sums, one block per channel.

#include <cmath>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

// x (batch, channels, positions).

struct Planes {
  int64_t batch;
  int64_t channels;
  int64_t positions;
  int64_t count() const { return batch * positions; }
  /// Element i of a channel, batch by batch.
  MPC_DEVICE int64_t at(int64_t channel, int64_t i) const {
    return (i / positions * channels + channel) * positions + i % positions;
  }
};

template <class T>
struct BatchInference {
  In<T> x, scale, bias, mean, variance;
  Out<T> y;
  Planes planes;
  double epsilon;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t c = i / planes.positions % planes.channels;
    const double factor = static_cast<double>(scale[c]) / std::sqrt(static_cast<double>(variance[c]) + epsilon);
    const double offset = static_cast<double>(bias[c]) - static_cast<double>(mean[c]) * factor;
    y.set(i, static_cast<T>(static_cast<double>(x[i]) * factor + offset));
  }
};

struct Moments {
  double mean;
  double variance;
};

template <class T>
MPC_DEVICE inline Moments channel_moments(Block& block, const In<T>& x, const Planes& planes, int64_t channel,
                                          int64_t count) {
  Moments m{0, 0};
  if (count == 0) return m;
  m.mean = block.sum(count, [&](int64_t i) { return static_cast<double>(x[planes.at(channel, i)]); }) /
           static_cast<double>(count);
  const double mean = m.mean;
  m.variance = block.sum(count, [&](int64_t i) {
    const double d = static_cast<double>(x[planes.at(channel, i)]) - mean;
    return d * d;
  }) / static_cast<double>(count);
  return m;
}

template <class T>
struct BatchTraining {
  In<T> x, scale, bias, old_mean, old_variance;
  Out<T> y, new_mean, new_variance, saved_mean, saved_inverse;  // any may have no data
  Planes planes;
  int64_t count;
  double epsilon;
  double momentum;
  MPC_DEVICE void operator()(Block& block, int64_t c) const {
    const Moments m = channel_moments<T>(block, x, planes, c, count);
    const double inverse = 1.0 / std::sqrt(m.variance + epsilon);
    const T mean = static_cast<T>(m.mean);
    block.for_each(1, [&](int64_t) {
      // The new statistics may be the bytes of the old ones: element c is read before it is written.
      const double running_mean = static_cast<double>(old_mean[c]) * momentum + m.mean * (1 - momentum);
      const double running_variance = static_cast<double>(old_variance[c]) * momentum + m.variance * (1 - momentum);
      if (new_mean.data != nullptr) new_mean.set(c, static_cast<T>(running_mean));
      if (new_variance.data != nullptr) new_variance.set(c, static_cast<T>(running_variance));
      if (saved_mean.data != nullptr) saved_mean.set(c, mean);
      if (saved_inverse.data != nullptr) saved_inverse.set(c, static_cast<T>(inverse));
    });
    const T factor = static_cast<T>(inverse * static_cast<double>(scale[c]));
    const T offset = bias[c];
    block.for_each(y.data == nullptr ? 0 : count, [&](int64_t i) {
      const int64_t at = planes.at(c, i);
      y.set(at, (x[at] - mean) * factor + offset);
    });
  }
};

/// dx = factor (dy - (dbias + xhat dscale) / count).
template <class T>
struct BatchGrad {
  In<T> dy, x, scale, saved_mean, saved_inverse;  // the last two may have no data
  Out<T> dx, dscale, dbias;                       // any may have no data
  Planes planes;
  int64_t count;
  double epsilon;
  MPC_DEVICE void operator()(Block& block, int64_t c) const {
    T mean;
    T inverse;
    if (saved_mean.data != nullptr) {
      mean = saved_mean[c];
      inverse = saved_inverse[c];
    } else {
      const Moments m = channel_moments<T>(block, x, planes, c, count);
      mean = static_cast<T>(m.mean);
      inverse = static_cast<T>(1.0 / std::sqrt(m.variance + epsilon));
    }
    const double bias_sum = block.sum(count, [&](int64_t i) { return static_cast<double>(dy[planes.at(c, i)]); });
    const double scale_sum = block.sum(count, [&](int64_t i) {
      const int64_t at = planes.at(c, i);
      return static_cast<double>(dy[at]) * static_cast<double>(x[at] - mean);
    }) * static_cast<double>(inverse);
    const T factor = scale[c] * inverse;
    const T bias_term = static_cast<T>(bias_sum / static_cast<double>(count));
    const T scale_term = static_cast<T>(scale_sum / static_cast<double>(count));
    block.for_each(dx.data == nullptr ? 0 : count, [&](int64_t i) {
      const int64_t at = planes.at(c, i);
      const T xhat = (x[at] - mean) * inverse;
      dx.set(at, factor * (dy[at] - (bias_term + xhat * scale_term)));
    });
    block.for_each(1, [&](int64_t) {
      if (dscale.data != nullptr) dscale.set(c, static_cast<T>(scale_sum));
      if (dbias.data != nullptr) dbias.set(c, static_cast<T>(bias_sum));
    });
  }
};

Planes planes_of(const Shape& x) {
  return {x[0], x[1], x.elements(2, x.rank())};
}

std::string batch_refusal(const executor::NodeSpec& node, size_t x_at) {
  if (node.inputs[x_at].shape.rank() < 2) return "batch normalization: x has no channels";
  return first_not_float(node) ? "batch normalization: only floats" : "";
}

struct MovingUpdate {
  const float* mean;
  const float* inverse;
  const float* old_mean;
  const float* old_variance;
  float* new_mean;  // these may be null
  float* new_variance;
  double epsilon;
  double momentum;
  MPC_DEVICE void operator()(int64_t c) const {
    const double share = 1 - momentum;
    const double deviation = 1.0 / static_cast<double>(inverse[c]);
    // Of a variance far below epsilon nothing is left in f32, and a rounded one may seem to be below 0.
    const double variance = std::fmax(deviation * deviation - epsilon, 0.0);
    // The new statistics may be the bytes of the old ones: element c is read before it is written.
    const double moved_mean = static_cast<double>(old_mean[c]) * momentum + static_cast<double>(mean[c]) * share;
    const double moved_variance = static_cast<double>(old_variance[c]) * momentum + variance * share;
    if (new_mean != nullptr) new_mean[c] = static_cast<float>(moved_mean);
    if (new_variance != nullptr) new_variance[c] = static_cast<float>(moved_variance);
  }
};

}  // namespace

MovingStatistics::MovingStatistics(const executor::NodeSpec& node)
    : channels_(node.inputs[0].shape[1]),
      epsilon_(node.attributes->number("epsilon")),
      momentum_(node.attributes->number("momentum")) {}

void MovingStatistics::run(const Launch& launch) const {
  const MovingUpdate update{launch.out<float>(3),
                            launch.out<float>(4),
                            launch.in<float>(3),
                            launch.in<float>(4),
                            launch.out<float>(1),
                            launch.out<float>(2),
                            epsilon_,
                            momentum_};
  if (update.new_mean == nullptr && update.new_variance == nullptr) return;
  for_each(launch.stream, channels_, update, "moving statistics");
}

KernelOrReason batch_norm(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = batch_refusal(node, 0); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    BatchInference<T> body{};
    In<T>* inputs[] = {&body.x, &body.scale, &body.bias, &body.mean, &body.variance};
    for (size_t i = 0; i < 5; ++i) inputs[i]->dtype = input_dtype(node, i);
    body.y.dtype = output_dtype(node, 0);
    body.planes = planes_of(node.inputs[0].shape);
    body.epsilon = node.attributes->number("epsilon");
    const int64_t count = node.outputs[0].shape.elements();
    return function_kernel("cuda:channels", [=](const Launch& launch) {
      BatchInference<T> bound = body;
      In<T>* operands[] = {&bound.x, &bound.scale, &bound.bias, &bound.mean, &bound.variance};
      for (size_t i = 0; i < 5; ++i) operands[i]->data = launch.inputs[i];
      bound.y.data = launch.outputs[0];
      for_each(launch.stream, count, bound, "batch normalization");
    });
  });
}

KernelOrReason batch_norm_training(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = batch_refusal(node, 0); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    BatchTraining<T> body{};
    In<T>* inputs[] = {&body.x, &body.scale, &body.bias, &body.old_mean, &body.old_variance};
    Out<T>* outputs[] = {&body.y, &body.new_mean, &body.new_variance, &body.saved_mean, &body.saved_inverse};
    for (size_t i = 0; i < 5; ++i) inputs[i]->dtype = input_dtype(node, i);
    for (size_t i = 0; i < 5; ++i) outputs[i]->dtype = output_dtype(node, i);
    body.planes = planes_of(node.inputs[0].shape);
    body.count = body.planes.count();
    body.epsilon = node.attributes->number("epsilon");
    body.momentum = body.count == 0 ? 1.0 : node.attributes->number("momentum");
    return function_kernel("cuda:channels", [=](const Launch& launch) {
      BatchTraining<T> bound = body;
      In<T>* operands[] = {&bound.x, &bound.scale, &bound.bias, &bound.old_mean, &bound.old_variance};
      Out<T>* results[] = {&bound.y, &bound.new_mean, &bound.new_variance, &bound.saved_mean, &bound.saved_inverse};
      for (size_t i = 0; i < 5; ++i) operands[i]->data = launch.inputs[i];
      for (size_t i = 0; i < 5; ++i) results[i]->data = launch.out<void>(i);
      for_each_block(launch.stream, bound.planes.channels, bound, "batch normalization");
    });
  });
}

KernelOrReason batch_norm_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (std::string reason = batch_refusal(node, 1); !reason.empty()) return declined(reason);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    BatchGrad<T> body{};
    In<T>* inputs[] = {&body.dy, &body.x, &body.scale, &body.saved_mean, &body.saved_inverse};
    Out<T>* outputs[] = {&body.dx, &body.dscale, &body.dbias};
    for (size_t i = 0; i < 5; ++i) inputs[i]->dtype = input_dtype(node, i);
    for (size_t i = 0; i < 3; ++i) outputs[i]->dtype = output_dtype(node, i);
    body.planes = planes_of(node.inputs[1].shape);
    body.count = body.planes.count();
    const bool has_saved = has_input(node, 3);
    body.epsilon = node.attributes->number("epsilon");
    return function_kernel("cuda:channels", [=](const Launch& launch) {
      BatchGrad<T> bound = body;
      In<T>* operands[] = {&bound.dy, &bound.x, &bound.scale, &bound.saved_mean, &bound.saved_inverse};
      Out<T>* results[] = {&bound.dx, &bound.dscale, &bound.dbias};
      for (size_t i = 0; i < 5; ++i) operands[i]->data = i < 3 || has_saved ? launch.in<void>(i) : nullptr;
      for (size_t i = 0; i < 3; ++i) results[i]->data = launch.out<void>(i);
      for_each_block(launch.stream, bound.planes.channels, bound, "batch normalization gradient");
    });
  });
}

}  // namespace mpc::cuda
