#include <algorithm>
#include <numeric>
#include <vector>

#include "executor/functors/order.h"
#include "executor/reference/support.h"

namespace mpc::reference {

void TopK(const KernelCall& call) {
  const AxisView view = around_axis(call.inputs[0].shape, call.attributes.integer("axis"));
  const int64_t k = call.attributes.integer("k");
  const bool is_largest = call.attributes.flag("largest");
  with_compute_type(call.inputs[0].dtype, [&](auto tag) {
    using C = decltype(tag);
    const std::vector<C> values = load_all<C>(call.inputs[0]);
    std::vector<C> best(static_cast<size_t>(view.outer * k * view.inner));
    std::vector<int64_t> order(static_cast<size_t>(view.length));
    for (int64_t line = 0; line < view.outer * view.inner; ++line) {
      const int64_t o = line / view.inner;
      const int64_t i = line % view.inner;
      const auto at = [&](int64_t a) { return values[static_cast<size_t>((o * view.length + a) * view.inner + i)]; };
      std::iota(order.begin(), order.end(), int64_t{0});
      std::ranges::stable_sort(order,
                               [&](int64_t a, int64_t b) { return functors::comes_before(at(a), at(b), is_largest); });
      for (int64_t rank = 0; rank < k; ++rank) {
        const int64_t to = (o * k + rank) * view.inner + i;
        best[static_cast<size_t>(to)] = at(order[static_cast<size_t>(rank)]);
        if (call.has_output(1)) set_integer(call.outputs[1], to, order[static_cast<size_t>(rank)]);
      }
    }
    if (call.has_output(0)) store_all<C>(call.outputs[0], best);
  });
}

}  // namespace mpc::reference
