#include "executor/reference/window.h"

#include <algorithm>

namespace mpc::reference {

Window::Window(const Attributes& attributes, const Shape& x, const Shape& y)
    : inputs_(x.dims().subspan(2)), outputs_(y.dims().subspan(2)), kernel_(attributes.integers("kernel_shape")) {
  const size_t rank = static_cast<size_t>(inputs_.rank());
  const auto& pads = attributes.integers("pads");
  for (size_t axis = 0; axis < rank; ++axis) {
    strides_[axis] = attributes.integers("strides")[axis];
    dilations_[axis] = attributes.integers("dilations")[axis];
    begin_pads_[axis] = pads[axis];
    end_pads_[axis] = pads[rank + axis];
  }
}

Window::Range Window::range(size_t axis, int64_t window, int64_t low, int64_t high) const {
  const auto steps_up_to = [&](int64_t distance) {
    return distance <= 0 ? 0 : std::min((distance - 1) / dilations_[axis] + 1, kernel_[static_cast<int>(axis)]);
  };
  const int64_t begin = start(axis, window);
  return {steps_up_to(low - begin), steps_up_to(high - begin)};
}

std::vector<Window::Tap> Window::taps(const Index& at) const {
  std::vector<Tap> taps = {{0, 0}};
  for (int axis = 0; axis < inputs_.rank(); ++axis) {
    const size_t i = static_cast<size_t>(axis);
    const Range inside = range(i, at[i], 0, inputs_[axis]);
    std::vector<Tap> longer;
    for (const Tap& tap : taps) {
      for (int64_t k = inside.begin; k < inside.end; ++k) {
        longer.push_back(
            {tap.kernel_at * kernel_[axis] + k, tap.input_at * inputs_[axis] + start(i, at[i]) + k * dilations_[i]});
      }
    }
    taps = std::move(longer);
  }
  return taps;
}

int64_t Window::padded_count(const Index& at) const {
  int64_t count = 1;
  for (int axis = 0; axis < inputs_.rank(); ++axis) {
    const size_t i = static_cast<size_t>(axis);
    const Range inside = range(i, at[i], -begin_pads_[i], inputs_[axis] + end_pads_[i]);
    count *= inside.end - inside.begin;
  }
  return count;
}

}  // namespace mpc::reference
