// MaxPool, AveragePool and their gradients, one to three spatial dimensions, one thread per result. A gradient collects
// from the windows its element lies in, in a fixed order.

#include <cmath>
#include <limits>
#include <type_traits>

#include "compiler/base/channels_last.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/window.h"

namespace mpc::cuda {
namespace {

constexpr int64_t kNoTap = -1;

/// A window over x, and the planes of x and of y.
struct Pool {
  Window window;
  PlaneOrder x, y;
};

/// Shapes as they are stored.
Pool pool_of(const Attributes& attributes, const Shape& stored_x, const Shape& stored_y) {
  const Shape x = channels_first_shape(attributes, stored_x);
  const Shape y = channels_first_shape(attributes, stored_y);
  return {Window(attributes, x, y), PlaneOrder(attributes, x), PlaneOrder(attributes, y)};
}

/// Position in the plane of the first largest tap, of the first NaN if there is one, or kNoTap.
template <class T>
MPC_DEVICE inline int64_t first_largest(const In<T>& x, const Pool& pool, int64_t plane, const Window::Index& o) {
  int64_t best = kNoTap;
  T largest = 0;
  pool.window.for_each_tap(o, [&](int64_t, int64_t at) {
    const T value = x[pool.x.at(plane, at)];
    const bool is_better = best == kNoTap || value > largest || (value != value && largest == largest);
    if (!is_better) return;
    best = at;
    largest = value;
  });
  return best;
}

template <class T>
struct MaxPoolValue {
  In<T> x;
  Out<T> y;          // may have no data
  int64_t* indices;  // may be null
  Pool pool;
  bool is_column_major;
  T lowest;  // of a window without taps
  MPC_DEVICE void operator()(int64_t i) const {
    const Window& window = pool.window;
    const int64_t plane = pool.y.plane_of(i);
    const int64_t best = first_largest<T>(x, pool, plane, Window::unravel(pool.y.position_of(i), window.out));
    if (y.data != nullptr) y.set(i, best == kNoTap ? lowest : x[pool.x.at(plane, best)]);
    if (indices == nullptr) return;
    int64_t in_plane = best;
    if (is_column_major && best != kNoTap) {
      const Window::Index at = Window::unravel(best, window.in);
      in_plane = (at.at[2] * window.in[1] + at.at[1]) * window.in[0] + at.at[0];
    }
    indices[i] = best == kNoTap ? kNoTap : plane * pool.x.positions + in_plane;
  }
};

template <class T>
struct MaxPoolGradValue {
  In<T> dy;
  In<T> x;
  Out<T> dx;
  Pool pool;
  MPC_DEVICE void operator()(int64_t i) const {
    const Window& window = pool.window;
    const int64_t plane = pool.x.plane_of(i);
    const int64_t mine = pool.x.position_of(i);
    double sum = 0;
    window.for_each_window(Window::unravel(mine, window.in), [&](int64_t, int64_t o) {
      const int64_t best = first_largest<T>(x, pool, plane, Window::unravel(o, window.out));
      if (best == mine) sum += static_cast<double>(dy[pool.y.at(plane, o)]);
    });
    dx.set(i, static_cast<T>(sum));
  }
};

MPC_DEVICE inline double divisor(const Window& window, const Window::Index& o, int64_t inside, bool counts_pads) {
  const int64_t count = counts_pads ? window.padded_count(o) : inside;
  return count < 1 ? 1.0 : static_cast<double>(count);
}

template <class T>
struct AveragePoolValue {
  In<T> x;
  Out<T> y;
  Pool pool;
  bool counts_pads;
  MPC_DEVICE void operator()(int64_t i) const {
    const Window& window = pool.window;
    const int64_t plane = pool.y.plane_of(i);
    const Window::Index o = Window::unravel(pool.y.position_of(i), window.out);
    double sum = 0;
    int64_t inside = 0;
    window.for_each_tap(o, [&](int64_t, int64_t at) {
      sum += static_cast<double>(x[pool.x.at(plane, at)]);
      ++inside;
    });
    y.set(i, static_cast<T>(sum / divisor(window, o, inside, counts_pads)));
  }
};

template <class T>
struct AveragePoolGradValue {
  In<T> dy;
  Out<T> dx;
  Pool pool;
  bool counts_pads;
  MPC_DEVICE void operator()(int64_t i) const {
    const Window& window = pool.window;
    const int64_t plane = pool.x.plane_of(i);
    double sum = 0;
    window.for_each_window(Window::unravel(pool.x.position_of(i), window.in), [&](int64_t, int64_t o) {
      const Window::Index at = Window::unravel(o, window.out);
      int64_t inside = 0;
      if (!counts_pads) window.for_each_tap(at, [&](int64_t, int64_t) { ++inside; });
      sum += static_cast<double>(dy[pool.y.at(plane, o)]) / divisor(window, at, inside, counts_pads);
    });
    dx.set(i, static_cast<T>(sum));
  }
};

template <class T>
T lowest_of(DType dtype) {
  if constexpr (std::is_integral_v<T>) return dtype == DType::i8 ? INT8_MIN : 0;
  return -std::numeric_limits<T>::infinity();
}

}  // namespace

KernelOrReason max_pool(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.inputs[0].shape;
  const Shape& y = has_output(node, 0) ? node.outputs[0].shape : node.outputs[1].shape;
  const Pool pool = pool_of(*node.attributes, x, y);
  const bool is_column_major = node.attributes->integer("storage_order") == 1;
  const int64_t count = y.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  return with_compute_type(in, [&](auto tag) {
    using T = decltype(tag);
    const T lowest = lowest_of<T>(in);
    return function_kernel("cuda:window", [=](const Launch& launch) {
      for_each(launch.stream, count,
               MaxPoolValue<T>{{launch.inputs[0], in},
                               {launch.out<void>(0), out},
                               launch.out<int64_t>(1),
                               pool,
                               is_column_major,
                               lowest},
               "MaxPool");
    });
  });
}

KernelOrReason max_pool_grad(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.inputs[1].shape;
  const Pool pool = pool_of(*node.attributes, x, node.inputs[0].shape);
  const int64_t count = x.elements();
  const DType dy = input_dtype(node, 0);
  const DType in = input_dtype(node, 1);
  const DType out = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:window", [=](const Launch& launch) {
      for_each(launch.stream, count,
               MaxPoolGradValue<T>{{launch.inputs[0], dy}, {launch.inputs[1], in}, {launch.outputs[0], out}, pool},
               "MaxPoolGrad");
    });
  });
}

KernelOrReason average_pool(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.inputs[0].shape;
  const Pool pool = pool_of(*node.attributes, x, node.outputs[0].shape);
  const bool counts_pads = node.attributes->flag("count_include_pad");
  const int64_t count = node.outputs[0].shape.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:window", [=](const Launch& launch) {
      for_each(launch.stream, count,
               AveragePoolValue<T>{{launch.inputs[0], in}, {launch.outputs[0], out}, pool, counts_pads}, "AveragePool");
    });
  });
}

KernelOrReason average_pool_grad(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.outputs[0].shape;
  const Pool pool = pool_of(*node.attributes, x, node.inputs[0].shape);
  const bool counts_pads = node.attributes->flag("count_include_pad");
  const int64_t count = x.elements();
  const DType in = input_dtype(node, 0);
  const DType out = output_dtype(node, 0);
  return with_float_type(node, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:window", [=](const Launch& launch) {
      for_each(launch.stream, count,
               AveragePoolGradValue<T>{{launch.inputs[0], in}, {launch.outputs[0], out}, pool, counts_pads},
               "AveragePoolGrad");
    });
  });
}

}  // namespace mpc::cuda
