// LRN (normalization over neighbouring channels) and its gradient, x (N, C, positions); one thread per element, f64.

#include <cmath>

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"

namespace mpc::cuda {
namespace {

struct Channels {
  DoubleIn x;
  int64_t channels;
  int64_t positions;
  int64_t below;  // channels of a window on either side of its own
  int64_t above;
  double alpha_per_size;
  double beta;
  double bias;

  Channels(const executor::NodeSpec& node, size_t x_at) {
    const Axis view = around(node.inputs[x_at].shape, 1);
    const int64_t size = node.attributes->integer("size");
    x.dtype = node.inputs[x_at].dtype;
    channels = view.length;
    positions = view.inner;
    below = (size - 1) / 2;
    above = size - 1 - below;
    alpha_per_size = node.attributes->number("alpha") / static_cast<double>(size);
    beta = node.attributes->number("beta");
    bias = node.attributes->number("bias");
  }

  /// f(position of channel c) for the channels from `before` below to `after` above that of element i.
  template <class F>
  MPC_DEVICE void for_each_near(int64_t i, int64_t before, int64_t after, F f) const {
    const int64_t channel = i / positions % channels;
    const int64_t room = channels - 1 - channel;  // compared first: size may be near the largest int64_t
    const int64_t first = before < channel ? channel - before : 0;
    const int64_t last = after < room ? channel + after : channels - 1;
    for (int64_t c = first; c <= last; ++c) f(i + (c - channel) * positions);
  }
  /// bias + alpha / size * the sum of the squares in the window of element i.
  MPC_DEVICE double base(int64_t i) const {
    double sum = 0;
    for_each_near(i, below, above, [&](int64_t at) { sum += x[at] * x[at]; });
    return bias + alpha_per_size * sum;
  }
};

struct Normalize {
  Channels channels;
  DoubleOut y;
  MPC_DEVICE void operator()(int64_t i) const { y.set(i, channels.x[i] / std::pow(channels.base(i), channels.beta)); }
};

/// dx = dy base^-beta - 2 alpha / size beta x sum over the windows that x lies in of dy x base^(-beta - 1).
struct NormalizeGrad {
  Channels channels;
  DoubleIn dy;
  DoubleOut dx;
  MPC_DEVICE void operator()(int64_t i) const {
    const double beta = channels.beta;
    double sum = 0;
    channels.for_each_near(i, channels.above, channels.below, [&](int64_t at) {
      sum += dy[at] * channels.x[at] * std::pow(channels.base(at), -beta - 1);
    });
    const double factor = 2 * channels.alpha_per_size * beta;
    dx.set(i, dy[i] * std::pow(channels.base(i), -beta) - factor * channels.x[i] * sum);
  }
};

}  // namespace

KernelOrReason lrn(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("LRN: only floats");
  const Normalize body{Channels(node, 0), {nullptr, output_dtype(node, 0)}};
  const int64_t count = node.outputs[0].shape.elements();
  return function_kernel("cuda:window", [=](const Launch& launch) {
    Normalize bound = body;
    bound.channels.x.data = launch.inputs[0];
    bound.y.data = launch.outputs[0];
    for_each(launch.stream, count, bound, "LRN");
  });
}

KernelOrReason lrn_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("LRNGrad: only floats");
  const NormalizeGrad body{Channels(node, 1), {nullptr, input_dtype(node, 0)}, {nullptr, output_dtype(node, 0)}};
  const int64_t count = node.outputs[0].shape.elements();
  return function_kernel("cuda:window", [=](const Launch& launch) {
    NormalizeGrad bound = body;
    bound.channels.x.data = launch.inputs[1];
    bound.dy.data = launch.inputs[0];
    bound.dx.data = launch.outputs[0];
    for_each(launch.stream, count, bound, "LRNGrad");
  });
}

}  // namespace mpc::cuda
