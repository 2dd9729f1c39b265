// Convolution and its gradients without a library: one thread or block per result, f64 sums. Slow; what is taken when
// cuDNN is not there or declines.

#include "compiler/base/channels_last.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/window.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

/// The sizes of a convolution: x (N, C, in), w (M, C / group, kernel), y (N, M, out).
struct Sizes {
  Window window;
  PlaneOrder x, w, y;
  int64_t batch = 0;
  int64_t group_channels = 0;
  int64_t maps = 0;
  int64_t group_maps = 0;
};

template <class T>
struct Forward {
  In<T> x, w, bias;  // bias may have no data
  Out<T> y;
  Sizes s;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t m = s.y.plane_of(i) % s.maps;
    const int64_t n = s.y.plane_of(i) / s.maps;
    const Window::Index o = Window::unravel(s.y.position_of(i), s.window.out);
    double sum = 0;
    for (int64_t c = 0; c < s.group_channels; ++c) {
      const int64_t plane = n * s.x.channels + m / s.group_maps * s.group_channels + c;
      const int64_t filter = m * s.group_channels + c;
      s.window.for_each_tap(o, [&](int64_t k, int64_t at) {
        sum += static_cast<double>(w[s.w.at(filter, k)]) * static_cast<double>(x[s.x.at(plane, at)]);
      });
    }
    if (bias.data != nullptr) sum += static_cast<double>(bias[m]);
    y.set(i, static_cast<T>(sum));
  }
};

template <class T>
struct InputGrad {
  In<T> dy, w;
  Out<T> dx;
  Sizes s;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t channel = s.x.plane_of(i) % s.x.channels;
    const int64_t n = s.x.plane_of(i) / s.x.channels;
    const int64_t group = channel / s.group_channels;
    const int64_t c = channel % s.group_channels;
    const Window::Index at = Window::unravel(s.x.position_of(i), s.window.in);
    double sum = 0;
    for (int64_t m = group * s.group_maps; m < (group + 1) * s.group_maps; ++m) {
      const int64_t filter = m * s.group_channels + c;
      s.window.for_each_window(at, [&](int64_t k, int64_t o) {
        sum += static_cast<double>(w[s.w.at(filter, k)]) * static_cast<double>(dy[s.y.at(n * s.maps + m, o)]);
      });
    }
    dx.set(i, static_cast<T>(sum));
  }
};

template <class T>
struct WeightGrad {
  In<T> dy, x;
  Out<T> dw;
  Sizes s;
  MPC_DEVICE void operator()(Block& block, int64_t i) const {
    const Window& window = s.window;
    const Window::Index k = Window::unravel(s.w.position_of(i), window.kernel);
    const int64_t c = s.w.plane_of(i) % s.group_channels;
    const int64_t m = s.w.plane_of(i) / s.group_channels;
    const int64_t channel = m / s.group_maps * s.group_channels + c;
    const int64_t outputs = s.y.positions;
    const double sum = block.sum(s.batch * outputs, [&](int64_t j) {
      const int64_t n = j / outputs;
      const Window::Index o = Window::unravel(j % outputs, window.out);
      Window::Index at;
      for (int axis = 0; axis < Window::kAxes; ++axis) {
        at.at[axis] = o.at[axis] * window.stride[axis] - window.begin_pad[axis] + k.at[axis] * window.dilation[axis];
        if (at.at[axis] < 0 || at.at[axis] >= window.in[axis]) return 0.0;
      }
      return static_cast<double>(dy[s.y.at(n * s.maps + m, j % outputs)]) *
             static_cast<double>(x[s.x.at(n * s.x.channels + channel, Window::ravel(at, window.in))]);
    });
    block.for_each(1, [&](int64_t) { dw.set(i, static_cast<T>(sum)); });
  }
};

/// y[n, channel, i] += bias[channel].
struct AddChannelBias {
  FloatIn y;
  FloatIn bias;
  FloatOut result;
  PlaneOrder order;
  MPC_DEVICE void operator()(int64_t i) const { result.set(i, y[i] + bias[order.plane_of(i) % order.channels]); }
};

/// Shapes as they are stored.
Sizes sizes_of(const Attributes& attributes, const Shape& stored_x, const Shape& stored_w, const Shape& stored_y) {
  const Shape x = channels_first_shape(attributes, stored_x);
  const Shape w = channels_first_shape(attributes, stored_w);
  const Shape y = channels_first_shape(attributes, stored_y);
  Sizes s;
  s.window = Window(attributes, x, y);
  s.x = PlaneOrder(attributes, x);
  s.w = PlaneOrder(attributes, w);
  s.y = PlaneOrder(attributes, y);
  s.batch = x[0];
  s.group_channels = w[1];
  s.maps = w[0];
  s.group_maps = w[0] / attributes.integer("group");
  return s;
}

}  // namespace

void add_channel_bias(Stream stream, void* y, DType y_type, const void* bias, DType bias_type, int64_t elements,
                      const PlaneOrder& order) {
  for_each(stream, elements, AddChannelBias{{y, y_type}, {bias, bias_type}, {y, y_type}, order}, "bias");
}

KernelOrReason convolution(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("convolution: only floats");
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    Forward<T> body{};
    body.x.dtype = input_dtype(node, 0);
    body.w.dtype = input_dtype(node, 1);
    body.bias.dtype = input_dtype(node, 2);
    body.y.dtype = output_dtype(node, 0);
    body.s = sizes_of(*node.attributes, node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape);
    const int64_t count = node.outputs[0].shape.elements();
    return function_kernel("cuda:direct convolution", [=](const Launch& launch) {
      Forward<T> bound = body;
      bound.x.data = launch.inputs[0];
      bound.w.data = launch.inputs[1];
      bound.bias.data = launch.in<void>(2);
      bound.y.data = launch.outputs[0];
      for_each(launch.stream, count, bound, "Conv");
    });
  });
}

KernelOrReason convolution_input_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("convolution: only floats");
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    InputGrad<T> body{};
    body.dy.dtype = input_dtype(node, 0);
    body.w.dtype = input_dtype(node, 1);
    body.dx.dtype = output_dtype(node, 0);
    body.s = sizes_of(*node.attributes, node.outputs[0].shape, node.inputs[1].shape, node.inputs[0].shape);
    const int64_t count = node.outputs[0].shape.elements();
    return function_kernel("cuda:direct convolution", [=](const Launch& launch) {
      InputGrad<T> bound = body;
      bound.dy.data = launch.inputs[0];
      bound.w.data = launch.inputs[1];
      bound.dx.data = launch.outputs[0];
      for_each(launch.stream, count, bound, "ConvInputGrad");
    });
  });
}

KernelOrReason convolution_weight_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (first_not_float(node)) return declined("convolution: only floats");
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    WeightGrad<T> body{};
    body.dy.dtype = input_dtype(node, 0);
    body.x.dtype = input_dtype(node, 1);
    body.dw.dtype = output_dtype(node, 0);
    body.s = sizes_of(*node.attributes, node.inputs[1].shape, node.outputs[0].shape, node.inputs[0].shape);
    const int64_t count = node.outputs[0].shape.elements();
    return function_kernel("cuda:direct convolution", [=](const Launch& launch) {
      WeightGrad<T> bound = body;
      bound.dy.data = launch.inputs[0];
      bound.x.data = launch.inputs[1];
      bound.dw.data = launch.outputs[0];
      for_each_block(launch.stream, count, bound, "ConvWeightGrad");
    });
  });
}

}  // namespace mpc::cuda
