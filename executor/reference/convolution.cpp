#include <vector>

#include "executor/reference/support.h"
#include "executor/reference/window.h"

namespace mpc::reference {
namespace {

/// The sizes of a convolution: x (N, C, inputs), w (M, C / group, kernel), y (N, M, outputs).
struct Convolution {
  Convolution(const Attributes& attributes, const Shape& x, const Shape& w, const Shape& y)
      : window(attributes, x, y),
        batch(x[0]),
        channels(x[1]),
        group_channels(w[1]),
        maps(w[0]),
        group_maps(w[0] / attributes.integer("group")),
        inputs(window.inputs().elements()),
        outputs(window.outputs().elements()),
        kernel(window.kernel().elements()) {}

  /// Calls f(y position, x position, w position) for every product that makes y, channel by channel, window by window.
  template <class F>
  void for_each_product(F&& f) const {
    if (batch == 0 || maps == 0 || group_channels == 0) return;  // there may be very many windows over nothing
    int64_t position = 0;
    for_each_index(window.outputs(), [&](const Index& at) {
      const auto taps = window.taps(at);
      for (int64_t n = 0; n < batch; ++n) {
        for (int64_t m = 0; m < maps; ++m) {
          const int64_t first_channel = m / group_maps * group_channels;
          const int64_t y_at = (n * maps + m) * outputs + position;
          for (int64_t c = 0; c < group_channels; ++c) {
            const int64_t x_plane = (n * channels + first_channel + c) * inputs;
            const int64_t w_plane = (m * group_channels + c) * kernel;
            for (const auto& tap : taps) f(y_at, x_plane + tap.input_at, w_plane + tap.kernel_at);
          }
        }
      }
      ++position;
    });
  }

  Window window;
  int64_t batch, channels, group_channels, maps, group_maps, inputs, outputs, kernel;
};

size_t at(int64_t position) {
  return static_cast<size_t>(position);
}

}  // namespace

void Conv(const KernelCall& call) {
  const Shape& y_shape = call.outputs[0].shape;
  const Convolution conv(call.attributes, call.inputs[0].shape, call.inputs[1].shape, y_shape);
  const std::vector<double> x = load_numbers(call.inputs[0]);
  const std::vector<double> w = load_numbers(call.inputs[1]);
  std::vector<double> y(at(y_shape.elements()), 0.0);
  conv.for_each_product([&](int64_t y_at, int64_t x_at, int64_t w_at) { y[at(y_at)] += w[at(w_at)] * x[at(x_at)]; });
  if (call.has_input(2)) {
    const std::vector<double> bias = load_numbers(call.inputs[2]);
    for (size_t i = 0; i < y.size(); ++i) y[i] += bias[i / at(conv.outputs) % bias.size()];
  }
  store_all(call.outputs[0], y);
}

void ConvInputGrad(const KernelCall& call) {
  const Shape& x_shape = call.outputs[0].shape;
  const Convolution conv(call.attributes, x_shape, call.inputs[1].shape, call.inputs[0].shape);
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> w = load_numbers(call.inputs[1]);
  std::vector<double> dx(at(x_shape.elements()), 0.0);
  conv.for_each_product([&](int64_t y_at, int64_t x_at, int64_t w_at) { dx[at(x_at)] += w[at(w_at)] * dy[at(y_at)]; });
  store_all(call.outputs[0], dx);
}

void ConvWeightGrad(const KernelCall& call) {
  const Shape& w_shape = call.outputs[0].shape;
  const Convolution conv(call.attributes, call.inputs[1].shape, w_shape, call.inputs[0].shape);
  const std::vector<double> dy = load_numbers(call.inputs[0]);
  const std::vector<double> x = load_numbers(call.inputs[1]);
  std::vector<double> dw(at(w_shape.elements()), 0.0);
  conv.for_each_product([&](int64_t y_at, int64_t x_at, int64_t w_at) { dw[at(w_at)] += dy[at(y_at)] * x[at(x_at)]; });
  store_all(call.outputs[0], dw);
}

}  // namespace mpc::reference
