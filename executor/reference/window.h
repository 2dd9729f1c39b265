#pragma once

#include <vector>

#include "executor/reference/support.h"

// How the window of a convolution or a pool moves over the spatial dimensions of x (N, C, d1...), as its canonical
// attributes say.

namespace mpc::reference {

class Window {
 public:
  /// @pre canonical window attributes; x and y are the whole shapes of the tensor and of the result.
  Window(const Attributes& attributes, const Shape& x, const Shape& y);

  /// The spatial dimensions of x, of y, and of the window.
  const Shape& inputs() const { return inputs_; }
  const Shape& outputs() const { return outputs_; }
  const Shape& kernel() const { return kernel_; }

  /// An element of the window that lies inside x: its position in the window and in the spatial dimensions of x.
  struct Tap {
    int64_t kernel_at;
    int64_t input_at;
  };
  /// The taps of the window at spatial index `at` of y, in the order of the kernel. O(taps inside), whatever the
  /// kernel's extent.
  std::vector<Tap> taps(const Index& at) const;
  /// How many elements of that window lie inside x and its pads.
  int64_t padded_count(const Index& at) const;

 private:
  struct Range {
    int64_t begin;
    int64_t end;
  };
  /// Elements of the window along one dimension whose position is in [low, high).
  Range range(size_t axis, int64_t window, int64_t low, int64_t high) const;
  int64_t start(size_t axis, int64_t window) const { return window * strides_[axis] - begin_pads_[axis]; }

  Shape inputs_;
  Shape outputs_;
  Shape kernel_;
  Index strides_{};
  Index dilations_{};
  Index begin_pads_{};
  Index end_pads_{};
};

}  // namespace mpc::reference
