#include <array>
#include <vector>

#include "compiler/base/channels_last.h"
#include "executor/reference/support.h"
#include "executor/reference/window.h"

namespace mpc::reference {
namespace {

/// The sizes of a convolution: x (N, C, inputs), w (M, C / group, kernel), y (N, M, outputs).
struct Convolution {
  /// Shapes as they are stored.
  Convolution(const Attributes& attributes, const Shape& stored_x, const Shape& stored_w, const Shape& stored_y)
      : Convolution(attributes, {channels_first_shape(attributes, stored_x), channels_first_shape(attributes, stored_w),
                                 channels_first_shape(attributes, stored_y)}) {}

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
          const int64_t y_at = y.at(n * maps + m, position);
          for (int64_t c = 0; c < group_channels; ++c) {
            const int64_t x_plane = n * x.channels + first_channel + c;
            const int64_t w_plane = m * group_channels + c;
            for (const auto& tap : taps) f(y_at, x.at(x_plane, tap.input_at), w.at(w_plane, tap.kernel_at));
          }
        }
      }
      ++position;
    });
  }

  Window window;
  PlaneOrder x, w, y;
  int64_t batch, group_channels, maps, group_maps;

 private:
  Convolution(const Attributes& attributes, const std::array<Shape, 3>& shapes)  // x, w, y with channels first
      : window(attributes, shapes[0], shapes[2]),
        x(attributes, shapes[0]),
        w(attributes, shapes[1]),
        y(attributes, shapes[2]),
        batch(shapes[0][0]),
        group_channels(shapes[1][1]),
        maps(shapes[1][0]),
        group_maps(shapes[1][0] / attributes.integer("group")) {}
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
    for (size_t i = 0; i < y.size(); ++i) y[i] += bias[at(conv.y.plane_of(static_cast<int64_t>(i))) % bias.size()];
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
