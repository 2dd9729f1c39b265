// TopK: per line along the axis the indices are sorted as far as they are asked for.

#include <algorithm>
#include <numeric>
#include <span>

#include "executor/cpu/factories.h"
#include "executor/cpu/support.h"
#include "executor/functors/order.h"

namespace mpc::cpu {
namespace {

constexpr int64_t kGrain = 4096;  // elements below which a second thread costs more than it saves

template <class T>
void top_k(const KernelCall& call, int threads) {
  const Shape& x = call.inputs[0].shape;
  const int axis = static_cast<int>(call.attributes.integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t k = call.attributes.integer("k");
  const bool is_largest = call.attributes.flag("largest");
  if (k == 0) return;
  parallel_for(threads, x.elements() / length, 1 + kGrain / length, [&](int64_t begin, int64_t end) {
    const std::span<std::byte> scratch = thread_scratch(length * static_cast<int64_t>(sizeof(T) + sizeof(int64_t)));
    const std::span<int64_t> order(reinterpret_cast<int64_t*>(scratch.data()), static_cast<size_t>(length));
    T* line = reinterpret_cast<T*>(order.data() + length);
    for (int64_t at = begin; at < end; ++at) {
      const T* from = call.inputs[0].as<T>() + at / inner * length * inner + at % inner;
      for (int64_t i = 0; i < length; ++i) line[i] = from[i * inner];
      std::iota(order.begin(), order.end(), int64_t{0});
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t a, int64_t b) {
        if (functors::comes_before(line[a], line[b], is_largest)) return true;
        return a < b && !functors::comes_before(line[b], line[a], is_largest);
      });
      const int64_t first = at / inner * k * inner + at % inner;
      for (int64_t rank = 0; rank < k; ++rank) {
        const int64_t index = order[static_cast<size_t>(rank)];
        if (call.has_output(0)) call.outputs[0].as<T>()[first + rank * inner] = line[index];
        if (call.has_output(1)) call.outputs[1].as<int64_t>()[first + rank * inner] = index;
      }
    }
  });
}

}  // namespace

KernelOrReason top_k_lines(const NodeSpec& node) {
  if (has_empty_operand(node)) return declined("top k by lines: an operand is empty");
  switch (node.inputs[0].dtype) {
    case DType::f32:
      return plain_kernel("cpu:rows", &top_k<float>, node.threads);
    case DType::i64:
      return plain_kernel("cpu:rows", &top_k<int64_t>, node.threads);
    default:
      return declined("top k by lines: only f32 and i64");
  }
}

}  // namespace mpc::cpu
