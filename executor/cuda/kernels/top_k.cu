// TopK: a block per line along the axis finds the first element, then the first of those that come after it, and so on.
// k passes over the line, nothing beside it in memory, and an order that depends on the elements alone.

#include "executor/cuda/data.h"
#include "executor/cuda/kernels/candidate.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"

namespace mpc::cuda {
namespace {

template <class T>
struct TopLine {
  In<T> x;
  Out<T> values;
  IntegerOut indices;
  bool has_values;
  bool has_indices;
  int64_t length;
  int64_t inner;
  int64_t k;
  BetterCandidate<T> better;

  MPC_DEVICE void operator()(Block& block, int64_t line) const {
    const int64_t begin = line / inner * length * inner + line % inner;
    const int64_t first = line / inner * k * inner + line % inner;
    Candidate<T> last{0, -1};
    for (int64_t rank = 0; rank < k; ++rank) {
      const Candidate<T> next = block.reduce(
          length, Candidate<T>{0, -1},
          [&](int64_t i) {
            const Candidate<T> candidate{x[begin + i * inner], i};
            const bool is_later = last.index < 0 || (i != last.index && better(last, candidate).index == last.index);
            return is_later ? candidate : Candidate<T>{0, -1};
          },
          better);
      block.for_each(1, [&](int64_t) {
        if (has_values) values.set(first + rank * inner, next.value);
        if (has_indices) indices.set(first + rank * inner, next.index);
      });
      last = next;
    }
  }
};

}  // namespace

KernelOrReason top_k(const executor::NodeSpec& node, const MakeOptions&) {
  const DType in = input_dtype(node, 0);
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const int64_t length = x[axis];
  const int64_t inner = x.elements(axis + 1, x.rank());
  const int64_t k = node.attributes->integer("k");
  const int64_t lines = k == 0 ? 0 : x.elements() / length;
  const bool is_largest = node.attributes->flag("largest");
  const bool has_values = node.outputs[0].is_present;
  const bool has_indices = node.outputs[1].is_present;
  return with_compute_type(in, [&](auto tag) {
    using T = decltype(tag);
    return function_kernel("cuda:top k", [=](const Launch& launch) {
      for_each_block(launch.stream, lines,
                     TopLine<T>{{launch.inputs[0], in},
                                {launch.outputs[0], in},
                                {launch.outputs[1], DType::i64},
                                has_values,
                                has_indices,
                                length,
                                inner,
                                k,
                                {is_largest, false}},
                     "TopK");
    });
  });
}

}  // namespace mpc::cuda
