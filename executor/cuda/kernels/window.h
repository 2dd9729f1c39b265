#pragma once

#include "executor/cuda/data.h"

// How the window of a pool or a convolution moves over up to three spatial dimensions of a plane.

namespace mpc::cuda {

struct Window {
  static constexpr int kAxes = 3;  // depth, height, width; missing ones have size 1 (has_kernel.h refuses more)
  int64_t in[kAxes] = {1, 1, 1};
  int64_t out[kAxes] = {1, 1, 1};
  int64_t kernel[kAxes] = {1, 1, 1};
  int64_t stride[kAxes] = {1, 1, 1};
  int64_t dilation[kAxes] = {1, 1, 1};
  int64_t begin_pad[kAxes] = {0, 0, 0};
  int64_t end_pad[kAxes] = {0, 0, 0};

  Window() = default;
  /// @pre canonical window attributes; x and y are the whole shapes, with at most three spatial dimensions.
  Window(const Attributes& attributes, const Shape& x, const Shape& y) {
    const int spatial = x.rank() - 2;
    for (int i = 0; i < spatial; ++i) {
      const int axis = kAxes - spatial + i;
      const size_t at = static_cast<size_t>(i);
      in[axis] = x[i + 2];
      out[axis] = y[i + 2];
      kernel[axis] = attributes.integers("kernel_shape")[at];
      stride[axis] = attributes.integers("strides")[at];
      dilation[axis] = attributes.integers("dilations")[at];
      begin_pad[axis] = attributes.integers("pads")[at];
      end_pad[axis] = attributes.integers("pads")[at + static_cast<size_t>(spatial)];
    }
  }

  int64_t in_elements() const { return in[0] * in[1] * in[2]; }
  int64_t out_elements() const { return out[0] * out[1] * out[2]; }
  int64_t kernel_elements() const { return kernel[0] * kernel[1] * kernel[2]; }

  struct Index {
    int64_t at[kAxes];
  };
  MPC_DEVICE static Index unravel(int64_t i, const int64_t* dims) {
    return {{i / (dims[1] * dims[2]), i / dims[2] % dims[1], i % dims[2]}};
  }
  MPC_DEVICE static int64_t ravel(const Index& index, const int64_t* dims) {
    return (index.at[0] * dims[1] + index.at[1]) * dims[2] + index.at[2];
  }

  /// Calls f(kernel position, input position) for every tap of window `o` that lies inside, in the order of the kernel.
  template <class F>
  MPC_DEVICE void for_each_tap(const Index& o, F f) const {
    Index k;
    for (k.at[0] = 0; k.at[0] < kernel[0]; ++k.at[0]) {
      for (k.at[1] = 0; k.at[1] < kernel[1]; ++k.at[1]) {
        for (k.at[2] = 0; k.at[2] < kernel[2]; ++k.at[2]) {
          Index i;
          bool is_inside = true;
          for (int axis = 0; axis < kAxes; ++axis) {
            i.at[axis] = o.at[axis] * stride[axis] - begin_pad[axis] + k.at[axis] * dilation[axis];
            is_inside = is_inside && i.at[axis] >= 0 && i.at[axis] < in[axis];
          }
          if (is_inside) f(ravel(k, kernel), ravel(i, in));
        }
      }
    }
  }

  /// Calls f(kernel position, output position) for every window that has input `i` as a tap, in descending order of
  /// windows.
  template <class F>
  MPC_DEVICE void for_each_window(const Index& i, F f) const {
    Index k;
    for (k.at[0] = 0; k.at[0] < kernel[0]; ++k.at[0]) {
      for (k.at[1] = 0; k.at[1] < kernel[1]; ++k.at[1]) {
        for (k.at[2] = 0; k.at[2] < kernel[2]; ++k.at[2]) {
          Index o;
          bool is_window = true;
          for (int axis = 0; axis < kAxes; ++axis) {
            const int64_t distance = i.at[axis] + begin_pad[axis] - k.at[axis] * dilation[axis];
            o.at[axis] = distance / stride[axis];
            is_window = is_window && distance >= 0 && distance % stride[axis] == 0 && o.at[axis] < out[axis];
          }
          if (is_window) f(ravel(k, kernel), ravel(o, out));
        }
      }
    }
  }

  /// How many taps of window `o` lie inside x and its pads.
  MPC_DEVICE int64_t padded_count(const Index& o) const {
    int64_t count = 1;
    for (int axis = 0; axis < kAxes; ++axis) {
      int64_t inside = 0;
      for (int64_t k = 0; k < kernel[axis]; ++k) {
        const int64_t at = o.at[axis] * stride[axis] - begin_pad[axis] + k * dilation[axis];
        if (at >= -begin_pad[axis] && at < in[axis] + end_pad[axis]) ++inside;
      }
      count *= inside;
    }
    return count;
  }
};

}  // namespace mpc::cuda
