// MaxPool, AveragePool and their gradients in f32, one to three spatial dimensions. A plane (one channel of one sample)
// is done row of results by row of results, and within it tap of the window by tap, so that the innermost loop runs
// along the row.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "compiler/base/channels_last.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

constexpr size_t kAxes = 3;  // depth, height, width; missing ones have size 1
constexpr size_t kWidth = 2;
constexpr int64_t kGrain = 16384;

/// The window's way over a plane.
struct Window {
  Window(const Attributes& attributes, const Shape& x, const Shape& y) {
    const size_t spatial = static_cast<size_t>(x.rank() - 2);
    const auto& pads = attributes.integers("pads");
    for (size_t i = 0; i < spatial; ++i) {
      const size_t axis = kAxes - spatial + i;
      in[axis] = x[static_cast<int>(i) + 2];
      out[axis] = y[static_cast<int>(i) + 2];
      kernel[axis] = attributes.integers("kernel_shape")[i];
      stride[axis] = attributes.integers("strides")[i];
      dilation[axis] = attributes.integers("dilations")[i];
      begin_pad[axis] = pads[i];
      end_pad[axis] = pads[spatial + i];
    }
    planes = x.elements(0, 2);
    for (int64_t k = 0; k < kernel[kWidth]; ++k) inside_row.push_back(inside(k));
  }

  int64_t inputs() const { return in[0] * in[1] * in[2]; }
  int64_t outputs() const { return out[0] * out[1] * out[2]; }
  /// Where tap k of window o lies along an axis.
  int64_t position(size_t axis, int64_t o, int64_t k) const {
    return o * stride[axis] - begin_pad[axis] + k * dilation[axis];
  }
  bool is_inside(size_t axis, int64_t position) const { return position >= 0 && position < in[axis]; }
  /// How many taps of window o have a position in [low, high) along an axis.
  int64_t taps(size_t axis, int64_t o, int64_t low, int64_t high) const {
    int64_t count = 0;
    for (int64_t k = 0; k < kernel[axis]; ++k) {
      const int64_t at = position(axis, o, k);
      count += at >= low && at < high ? 1 : 0;
    }
    return count;
  }

  std::array<int64_t, kAxes> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1};
  std::array<int64_t, kAxes> begin_pad{}, end_pad{};
  int64_t planes = 0;
  /// For each tap k of a row, the windows whose tap lies inside: [first, last).
  std::vector<std::pair<int64_t, int64_t>> inside_row;

 private:
  std::pair<int64_t, int64_t> inside(int64_t k) const {
    int64_t first = 0;
    int64_t last = out[kWidth];
    while (first < last && !is_inside(kWidth, position(kWidth, first, k))) ++first;
    while (last > first && !is_inside(kWidth, position(kWidth, last - 1, k))) --last;
    return {first, last};
  }
};

/// Calls f(input offset of tap kx = 0 of window 0, first window, last window, kx) for each tap of the windows of output
/// row (od, oh).
template <class F>
void for_each_tap(const Window& w, int64_t od, int64_t oh, F&& f) {
  for (int64_t kd = 0; kd < w.kernel[0]; ++kd) {
    const int64_t d = w.position(0, od, kd);
    if (!w.is_inside(0, d)) continue;
    for (int64_t kh = 0; kh < w.kernel[1]; ++kh) {
      const int64_t h = w.position(1, oh, kh);
      if (!w.is_inside(1, h)) continue;
      for (int64_t kw = 0; kw < w.kernel[kWidth]; ++kw) {
        const auto [first, last] = w.inside_row[static_cast<size_t>(kw)];
        f((d * w.in[1] + h) * w.in[kWidth] + w.position(kWidth, 0, kw), first, last);
      }
    }
  }
}

// NaN is larger than everything.
inline bool is_larger(float value, float best) {
  return value > best || value != value;
}

MPC_CLONES void max_row(const float* x, int64_t stride, float* y, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) y[i] = is_larger(x[i], y[i]) ? x[i] : y[i];
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = is_larger(x[i * stride], y[i]) ? x[i * stride] : y[i];
  }
}

void max_plane(const Window& w, const float* x, float* y) {
  std::fill_n(y, w.outputs(), -INFINITY);
  for (int64_t od = 0; od < w.out[0]; ++od) {
    for (int64_t oh = 0; oh < w.out[1]; ++oh, y += w.out[kWidth]) {
      for_each_tap(w, od, oh, [&](int64_t begin, int64_t first, int64_t last) {
        max_row(x + begin + first * w.stride[kWidth], w.stride[kWidth], y + first, last - first);
      });
    }
  }
}

/// The first largest element of each window of a row, or its first NaN.
struct RowOfBest {
  std::vector<float> value;
  std::vector<int64_t> at;  // in the plane, kNone while the window has had no tap

  static constexpr int64_t kNone = -1;
  void reset(int64_t windows) {
    value.assign(static_cast<size_t>(windows), -INFINITY);
    at.assign(static_cast<size_t>(windows), kNone);
  }
};

MPC_CLONES void find_best(const float* x, int64_t begin, int64_t stride, int64_t count, float* value, int64_t* at) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const int64_t mine = begin + i * stride;
    const float candidate = x[mine];
    const bool is_first = at[i] == RowOfBest::kNone;
    const bool is_better = is_larger(candidate, value[i]) & (value[i] == value[i]);
    const bool takes = is_first | is_better;
    value[i] = takes ? candidate : value[i];
    at[i] = takes ? mine : at[i];
  }
}

void max_grad_plane(const Window& w, const float* dy, const float* x, float* dx, RowOfBest& best) {
  std::fill_n(dx, w.inputs(), 0.0f);
  for (int64_t od = 0; od < w.out[0]; ++od) {
    for (int64_t oh = 0; oh < w.out[1]; ++oh, dy += w.out[kWidth]) {
      best.reset(w.out[kWidth]);
      for_each_tap(w, od, oh, [&](int64_t begin, int64_t first, int64_t last) {
        const int64_t stride = w.stride[kWidth];
        find_best(x, begin + first * stride, stride, last - first, best.value.data() + first, best.at.data() + first);
      });
      for (int64_t ow = 0; ow < w.out[kWidth]; ++ow) {
        const int64_t at = best.at[static_cast<size_t>(ow)];
        if (at != RowOfBest::kNone) dx[at] += dy[ow];
      }
    }
  }
}

/// What the sum of a window is divided by.
float divisor(const Window& w, bool includes_pad, int64_t od, int64_t oh, int64_t ow) {
  const std::array<int64_t, kAxes> at{od, oh, ow};
  int64_t count = 1;
  for (size_t axis = 0; axis < kAxes; ++axis) {
    count *= includes_pad ? w.taps(axis, at[axis], -w.begin_pad[axis], w.in[axis] + w.end_pad[axis])
                          : w.taps(axis, at[axis], 0, w.in[axis]);
  }
  return static_cast<float>(std::max<int64_t>(count, 1));
}

void average_plane(const Window& w, bool includes_pad, const float* x, float* y) {
  std::fill_n(y, w.outputs(), 0.0f);
  for (int64_t od = 0; od < w.out[0]; ++od) {
    for (int64_t oh = 0; oh < w.out[1]; ++oh, y += w.out[kWidth]) {
      for_each_tap(w, od, oh, [&](int64_t begin, int64_t first, int64_t last) {
        for (int64_t ow = first; ow < last; ++ow) y[ow] += x[begin + ow * w.stride[kWidth]];
      });
      for (int64_t ow = 0; ow < w.out[kWidth]; ++ow) y[ow] /= divisor(w, includes_pad, od, oh, ow);
    }
  }
}

void average_grad_plane(const Window& w, bool includes_pad, const float* dy, float* dx) {
  std::fill_n(dx, w.inputs(), 0.0f);
  for (int64_t od = 0; od < w.out[0]; ++od) {
    for (int64_t oh = 0; oh < w.out[1]; ++oh) {
      for (int64_t ow = 0; ow < w.out[kWidth]; ++ow, ++dy) {
        const float share = *dy / divisor(w, includes_pad, od, oh, ow);
        for_each_tap(w, od, oh, [&](int64_t begin, int64_t first, int64_t last) {
          if (ow >= first && ow < last) dx[begin + ow * w.stride[kWidth]] += share;
        });
      }
    }
  }
}

template <class F>
void for_each_plane(const Window& w, int threads, F&& f) {
  parallel_for(threads, w.planes, 1 + kGrain / std::max<int64_t>(w.inputs(), 1), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) f(plane);
  });
}

void max_pool(const KernelCall& call, int threads) {
  const Window w(call.attributes, call.inputs[0].shape, call.outputs[0].shape);
  for_each_plane(w, threads, [&](int64_t plane) {
    max_plane(w, call.inputs[0].as<float>() + plane * w.inputs(), call.outputs[0].as<float>() + plane * w.outputs());
  });
}

void max_pool_grad(const KernelCall& call, int threads) {
  const Window w(call.attributes, call.inputs[1].shape, call.inputs[0].shape);
  for_each_plane(w, threads, [&](int64_t plane) {
    thread_local RowOfBest best;
    max_grad_plane(w, call.inputs[0].as<float>() + plane * w.outputs(), call.inputs[1].as<float>() + plane * w.inputs(),
                   call.outputs[0].as<float>() + plane * w.inputs(), best);
  });
}

void average_pool(const KernelCall& call, int threads) {
  const Window w(call.attributes, call.inputs[0].shape, call.outputs[0].shape);
  const bool includes_pad = call.attributes.flag("count_include_pad");
  for_each_plane(w, threads, [&](int64_t plane) {
    average_plane(w, includes_pad, call.inputs[0].as<float>() + plane * w.inputs(),
                  call.outputs[0].as<float>() + plane * w.outputs());
  });
}

void average_pool_grad(const KernelCall& call, int threads) {
  const Window w(call.attributes, call.outputs[0].shape, call.inputs[0].shape);
  const bool includes_pad = call.attributes.flag("count_include_pad");
  for_each_plane(w, threads, [&](int64_t plane) {
    average_grad_plane(w, includes_pad, call.inputs[0].as<float>() + plane * w.outputs(),
                       call.outputs[0].as<float>() + plane * w.inputs());
  });
}

}  // namespace

KernelOrReason pool_planes(const NodeSpec& node) {
  // A window may be far larger than the tensor (its extent is not bounded by any operand): the reference walks only
  // what is inside.
  constexpr int64_t kLargestWindow = 1 << 16;
  if (is_channels_last(*node.attributes)) return declined("pools by planes: only channels first");
  if (has_output(node, 1)) return declined("pools by planes: no indices");
  if (!all_of_type(node, DType::f32)) return declined("pools by planes: only f32");
  if (has_empty_operand(node)) return declined("pools by planes: an operand is empty");
  if (node.inputs[0].shape.rank() < 3 || node.inputs[0].shape.rank() > 5) {
    return declined("pools by planes: only 1 to 3 spatial dimensions");
  }
  int64_t window = 1;
  for (const int64_t extent : node.attributes->integers("kernel_shape")) {
    if (extent > kLargestWindow) return declined("pools by planes: the window is too large");
    window *= extent;
    if (window > kLargestWindow) return declined("pools by planes: the window is too large");
  }
  switch (node.op) {
    case OpKind::MaxPool:
      return plain_kernel("cpu:planes", &max_pool, node.threads);
    case OpKind::MaxPoolGrad:
      return plain_kernel("cpu:planes", &max_pool_grad, node.threads);
    case OpKind::AveragePool:
      return plain_kernel("cpu:planes", &average_pool, node.threads);
    case OpKind::AveragePoolGrad:
      return plain_kernel("cpu:planes", &average_pool_grad, node.threads);
    default:
      return declined("pools by planes: not a pool");
  }
}

}  // namespace mpc::cpu
