// Operators that move elements as they are, for every dtype: Reshape, Transpose, Expand, Tile, Slice, SliceGrad,
// Concat, Split, Pad and PadGrad with constant values, Trilu, Gather, GatherElements, OneHot; and GatherGrad, which
// adds.

#include <algorithm>

#include "compiler/base/literal.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

int element_bytes(const executor::NodeSpec& node) {
  return static_cast<int>(dtype_bytes(node.outputs[0].dtype));
}

/// to[position 1] = from[position 0] for every element of a walk.
struct StridedCopy {
  const void* from;
  void* to;
  int bytes;
  Walk<2> walk;
  MPC_DEVICE void operator()(int64_t i) const {
    const auto at = walk.positions(i);
    copy_element(to, at.at[1], from, at.at[0], bytes);
  }
};

struct Fill {
  void* to;
  uint64_t bits;  // the element, in the low bytes
  int bytes;
  MPC_DEVICE void operator()(int64_t i) const { copy_element(to, i, &bits, 0, bytes); }
};

uint64_t bits_of(DType dtype, double value) {
  uint64_t bits = 0;
  write_number(dtype, reinterpret_cast<std::byte*>(&bits), value);
  return bits;
}

/// A strided copy over `shape`, after filling the result where the copy leaves gaps.
KernelOrReason movement(const executor::NodeSpec& node, const Shape& shape, const Steps& from, int64_t from_begin,
                        const Steps& to, int64_t to_begin, bool has_gaps = false, double gap = 0) {
  const int64_t count = shape.elements();
  const int64_t results = node.outputs[0].shape.elements();
  const int bytes = element_bytes(node);
  const Walk<2> walk = make_walk<2>(shape, {from, to}, {from_begin, to_begin});
  const uint64_t fill = bits_of(node.outputs[0].dtype, gap);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    if (has_gaps) for_each(launch.stream, results, Fill{launch.outputs[0], fill, bytes}, "fill");
    for_each(launch.stream, count, StridedCopy{launch.inputs[0], launch.outputs[0], bytes, walk}, "copy");
  });
}

// Steps and first element of a slice within the whole tensor.
Steps sliced_steps(const Attributes& attributes, const Shape& whole, int64_t& begin) {
  const auto& starts = attributes.integers("starts");
  const auto& axes = attributes.integers("axes");
  const auto& by = attributes.integers("steps");
  Steps steps = strides(whole);
  begin = 0;
  for (size_t i = 0; i < axes.size(); ++i) {
    int64_t& step = steps[static_cast<size_t>(axes[i])];
    begin += starts[i] * step;
    step *= by[i];
  }
  return steps;
}

/// The part of a tensor that pads (or crops, where they are negative) leave, seen from both sides.
struct PaddedPart {
  PaddedPart(const std::vector<int64_t>& pads, const Shape& plain, const Shape& padded) : shape(plain) {
    const Steps plain_steps = strides(plain);
    const Steps padded_steps = strides(padded);
    for (int axis = 0; axis < plain.rank(); ++axis) {
      const size_t i = static_cast<size_t>(axis);
      const int64_t begin = pads[i];
      const int64_t end = pads[i + static_cast<size_t>(plain.rank())];
      shape.set(axis, std::max<int64_t>(plain[axis] + std::min<int64_t>(begin, 0) + std::min<int64_t>(end, 0), 0));
      plain_begin += std::max<int64_t>(-begin, 0) * plain_steps[i];
      padded_begin += std::max<int64_t>(begin, 0) * padded_steps[i];
    }
  }
  Shape shape;
  int64_t plain_begin = 0;
  int64_t padded_begin = 0;
};

struct Axis {
  int64_t outer;
  int64_t length;
  int64_t inner;
};

Axis around(const Shape& shape, int64_t axis) {
  const int at = static_cast<int>(axis);
  return {shape.elements(0, at), shape[at], shape.elements(at + 1, shape.rank())};
}

struct TileCopy {
  const void* from;
  void* to;
  int bytes;
  int rank;
  int64_t source[kMaxRank];  // dims of the operand
  int64_t result[kMaxRank];  // dims of the result
  MPC_DEVICE void operator()(int64_t i) const {
    int64_t rest = i;
    int64_t at = 0;
    int64_t step = 1;
    for (int d = rank - 1; d >= 0; --d) {
      at += rest % result[d] % source[d] * step;
      rest /= result[d];
      step *= source[d];
    }
    copy_element(to, i, from, at, bytes);
  }
};

struct TriangleCopy {
  const void* from;
  void* to;
  int bytes;
  int64_t rows;
  int64_t columns;
  int64_t k;
  bool is_upper;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t diagonal = i % columns - i / columns % rows;
    const uint64_t zero = 0;
    const bool is_kept = is_upper ? diagonal >= k : diagonal <= k;
    copy_element(to, i, is_kept ? from : &zero, is_kept ? i : 0, bytes);
  }
};

/// y[o, j, i] = data[o, indices[j], i].
struct GatherRuns {
  const void* data;
  IntegerIn indices;
  void* y;
  int bytes;
  int64_t dim;
  int64_t count;
  int64_t inner;
  Faults faults;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t run = i / inner;
    const int64_t index = faults.checked(indices[run % count], dim);
    copy_element(y, i, data, (run / count * dim + index) * inner + i % inner, bytes);
  }
};

/// next[j]: the first position after j with the same index, or -1; is_first[j]: no position before j has it.
struct ChainPositions {
  IntegerIn indices;
  int64_t* next;
  int64_t* is_first;
  int64_t dim;
  int64_t count;
  Faults faults;
  MPC_DEVICE void operator()(Block& block, int64_t j) const {
    const int64_t mine = faults.checked(indices[j], dim);
    const auto is_same = [&](int64_t k) {
      const int64_t index = indices[k];
      return index == mine || index + dim == mine;
    };
    const int64_t none = count;
    const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
    const int64_t after = block.reduce(
        count - j - 1, none, [&](int64_t k) { return is_same(j + 1 + k) ? j + 1 + k : none; }, least);
    const int64_t before = block.reduce(
        j, none, [&](int64_t k) { return is_same(k) ? k : none; }, least);
    block.for_each(1, [&](int64_t) {
      next[j] = after == none ? -1 : after;
      is_first[j] = before == none ? 1 : 0;
    });
  }
};

/// dx[o, d, i] = sum of dy[o, j, i] over all j with indices[j] == d, in ascending order of j, so that the bits are
/// always the same. The thread of the first such j makes the result; the others were zeroed before.
struct ChainSums {
  FloatIn dy;
  IntegerIn indices;
  FloatOut dx;
  const int64_t* next;
  const int64_t* is_first;
  int64_t dim;
  int64_t count;
  int64_t inner;
  MPC_DEVICE void operator()(int64_t at) const {
    const int64_t i = at % inner;
    const int64_t first = at / inner % count;
    const int64_t o = at / inner / count;
    if (is_first[first] == 0) return;
    const int64_t index = indices[first];
    const int64_t row = index < 0 ? index + dim : index;
    if (row < 0 || row >= dim) return;  // reported
    double sum = 0;
    for (int64_t j = first; j >= 0; j = next[j]) sum += static_cast<double>(dy[(o * count + j) * inner + i]);
    dx.set((o * dim + row) * inner + i, static_cast<float>(sum));
  }
};

class GatherGradKernel final : public Kernel {
 public:
  GatherGradKernel(const executor::NodeSpec& node, Axis view)
      : view_(view),
        count_(node.inputs[1].shape.elements()),
        bytes_(byte_size(node.outputs[0].shape, node.outputs[0].dtype)),
        dy_(input_dtype(node, 0)),
        indices_(input_dtype(node, 1)),
        dx_(output_dtype(node, 0)) {}

  void run(const Launch& launch) override {
    fill_bytes(launch.stream, launch.outputs[0], 0, bytes_);
    int64_t* next = static_cast<int64_t*>(launch.workspace);
    int64_t* is_first = next + count_;
    const IntegerIn indices{launch.inputs[1], indices_};
    for_each_block(launch.stream, count_,
                   ChainPositions{indices, next, is_first, view_.length, count_, faults_of(launch)},
                   "GatherGrad positions");
    for_each(launch.stream, view_.outer * count_ * view_.inner,
             ChainSums{{launch.inputs[0], dy_},
                       indices,
                       {launch.outputs[0], dx_},
                       next,
                       is_first,
                       view_.length,
                       count_,
                       view_.inner},
             "GatherGrad sums");
  }
  int64_t workspace_bytes() const override { return 2 * count_ * static_cast<int64_t>(sizeof(int64_t)); }
  std::string_view name() const override { return "cuda:ordered sums"; }

 private:
  Axis view_;
  int64_t count_;
  int64_t bytes_;
  DType dy_, indices_, dx_;
};

/// y[index] = data[index with `axis` replaced by indices[index]].
struct GatherByElements {
  const void* data;
  IntegerIn indices;
  void* y;
  int bytes;
  int axis;
  int rank;
  int64_t dims[kMaxRank];   // of the indices
  int64_t steps[kMaxRank];  // of the data
  int64_t dim;
  Faults faults;
  MPC_DEVICE void operator()(int64_t i) const {
    int64_t rest = i;
    int64_t at = 0;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t index = d == axis ? faults.checked(indices[i], dim) : rest % dims[d];
      rest /= dims[d];
      at += index * steps[d];
    }
    copy_element(y, i, data, at, bytes);
  }
};

struct OneHotRows {
  IntegerIn indices;
  const void* values;  // off, on
  void* y;
  int bytes;
  int64_t depth;
  int64_t inner;
  MPC_DEVICE void operator()(int64_t i) const {
    const int64_t d = i / inner % depth;
    const int64_t index = indices[i / inner / depth * inner + i % inner];
    const bool is_on = index == d || (index < 0 && index + depth == d);
    copy_element(y, i, values, is_on ? 1 : 0, bytes);
  }
};

}  // namespace

KernelOrReason reshape(const executor::NodeSpec& node, const MakeOptions&) {
  const int64_t bytes = byte_size(node.outputs[0].shape, node.outputs[0].dtype);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    if (launch.outputs[0] != launch.inputs[0]) {
      copy_bytes(launch.stream, launch.outputs[0], launch.inputs[0], bytes);
    }
  });
}

KernelOrReason transpose(const executor::NodeSpec& node, const MakeOptions&) {
  const Steps dense = strides(node.inputs[0].shape);
  const std::vector<int64_t>& perm = node.attributes->integers("perm");
  Steps steps{};
  for (size_t i = 0; i < perm.size(); ++i) steps[i] = dense[static_cast<size_t>(perm[i])];
  return movement(node, node.outputs[0].shape, steps, 0, strides(node.outputs[0].shape), 0);
}

KernelOrReason expand(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& y = node.outputs[0].shape;
  return movement(node, y, broadcast_steps(node.inputs[0].shape, y), 0, strides(y), 0);
}

BroadcastCopy::BroadcastCopy(const executor::NodeSpec& node, size_t input) {
  executor::NodeSpec copy;
  copy.op = OpKind::Expand;
  copy.inputs = {node.inputs[input]};
  copy.outputs = {node.outputs[0]};
  kernel_ = expand(copy, {}).kernel;
}

void BroadcastCopy::run(Stream stream, const void* from, void* to) const {
  void* const inputs[] = {const_cast<void*>(from)};
  void* const outputs[] = {to};
  Launch launch;
  launch.inputs = inputs;
  launch.outputs = outputs;
  launch.stream = stream;
  kernel_->run(launch);
}

KernelOrReason slice(const executor::NodeSpec& node, const MakeOptions&) {
  int64_t begin = 0;
  const Steps steps = sliced_steps(*node.attributes, node.inputs[0].shape, begin);
  const Shape& y = node.outputs[0].shape;
  return movement(node, y, steps, begin, strides(y), 0);
}

KernelOrReason slice_grad(const executor::NodeSpec& node, const MakeOptions&) {
  int64_t begin = 0;
  const Steps steps = sliced_steps(*node.attributes, node.outputs[0].shape, begin);
  const Shape& dy = node.inputs[0].shape;
  return movement(node, dy, strides(dy), 0, steps, begin, true);
}

KernelOrReason pad(const executor::NodeSpec& node, const MakeOptions&) {
  if (node.attributes->text("mode") != "constant") return declined("Pad: only constant values");
  const PaddedPart part(node.attributes->integers("pads"), node.inputs[0].shape, node.outputs[0].shape);
  return movement(node, part.shape, strides(node.inputs[0].shape), part.plain_begin, strides(node.outputs[0].shape),
                  part.padded_begin, true, node.attributes->number("value"));
}

KernelOrReason pad_grad(const executor::NodeSpec& node, const MakeOptions&) {
  if (node.attributes->text("mode") != "constant") return declined("PadGrad: only constant values");
  const PaddedPart part(node.attributes->integers("pads"), node.outputs[0].shape, node.inputs[0].shape);
  return movement(node, part.shape, strides(node.inputs[0].shape), part.padded_begin, strides(node.outputs[0].shape),
                  part.plain_begin, true);
}

KernelOrReason concat(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& y = node.outputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const Steps steps = strides(y);
  struct Part {
    int64_t count;
    Walk<2> walk;
  };
  std::vector<Part> parts;
  int64_t begin = 0;
  for (const auto& input : node.inputs) {
    const Shape& x = input.shape;
    parts.push_back(
        {x.elements(), make_walk<2>(x, {strides(x), steps}, {0, begin * steps[static_cast<size_t>(axis)]})});
    begin += x[axis];
  }
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for (size_t i = 0; i < parts.size(); ++i) {
      for_each(launch.stream, parts[i].count, StridedCopy{launch.inputs[i], launch.outputs[0], bytes, parts[i].walk},
               "Concat");
    }
  });
}

KernelOrReason split(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& x = node.inputs[0].shape;
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  const std::vector<int64_t>& sizes = node.attributes->integers("split");
  const Steps steps = strides(x);
  struct Part {
    int64_t count = 0;
    Walk<2> walk;
  };
  std::vector<Part> parts(sizes.size());
  int64_t begin = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Shape y = x;
    y.set(axis, sizes[i]);
    if (has_output(node, i)) {
      parts[i] = {y.elements(), make_walk<2>(y, {steps, strides(y)}, {begin * steps[static_cast<size_t>(axis)], 0})};
    }
    begin += sizes[i];
  }
  const int bytes = static_cast<int>(dtype_bytes(node.inputs[0].dtype));
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for (size_t i = 0; i < parts.size(); ++i) {
      for_each(launch.stream, parts[i].count, StridedCopy{launch.inputs[0], launch.out<void>(i), bytes, parts[i].walk},
               "Split");
    }
  });
}

KernelOrReason tile(const executor::NodeSpec& node, const MakeOptions&) {
  TileCopy body{nullptr, nullptr, element_bytes(node), node.inputs[0].shape.rank(), {}, {}};
  for (int d = 0; d < body.rank; ++d) {
    body.source[d] = node.inputs[0].shape[d];
    body.result[d] = node.outputs[0].shape[d];
  }
  const int64_t count = node.outputs[0].shape.elements();
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    TileCopy bound = body;
    bound.from = launch.inputs[0];
    bound.to = launch.outputs[0];
    for_each(launch.stream, count, bound, "Tile");
  });
}

KernelOrReason triangle(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& shape = node.outputs[0].shape;
  const int64_t count = shape.elements();
  const int64_t rows = shape[shape.rank() - 2];
  const int64_t columns = shape[shape.rank() - 1];
  const int bytes = element_bytes(node);
  const int64_t k = node.attributes->integer("k");
  const bool is_upper = node.attributes->flag("upper");
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, count, TriangleCopy{launch.inputs[0], launch.outputs[0], bytes, rows, columns, k, is_upper},
             "Trilu");
  });
}

KernelOrReason gather(const executor::NodeSpec& node, const MakeOptions&) {
  const Axis view = around(node.inputs[0].shape, node.attributes->integer("axis"));
  const int64_t count = node.inputs[1].shape.elements();
  const int64_t results = node.outputs[0].shape.elements();
  if (results != 0 && view.length == 0) return declined("Gather: from an empty dimension");
  const int bytes = element_bytes(node);
  const DType indices = input_dtype(node, 1);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, results,
             GatherRuns{launch.inputs[0],
                        {launch.inputs[1], indices},
                        launch.outputs[0],
                        bytes,
                        view.length,
                        count,
                        view.inner,
                        faults_of(launch)},
             "Gather");
  });
}

KernelOrReason gather_grad(const executor::NodeSpec& node, const MakeOptions&) {
  const DType dy = input_dtype(node, 0);
  const DType dx = output_dtype(node, 0);
  if (!is_small_float(dy) || !is_small_float(dx)) return declined("GatherGrad: only f32, f16 and bf16");
  const Axis view = around(node.outputs[0].shape, node.attributes->integer("axis"));
  return {std::make_unique<GatherGradKernel>(node, view), {}};
}

KernelOrReason gather_elements(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& data = node.inputs[0].shape;
  const Shape& shape = node.inputs[1].shape;
  const int64_t results = shape.elements();
  const int axis = static_cast<int>(node.attributes->integer("axis"));
  if (results != 0 && data[axis] == 0) return declined("GatherElements: from an empty dimension");
  GatherByElements body{
      nullptr, {nullptr, input_dtype(node, 1)}, nullptr, element_bytes(node), axis, data.rank(), {}, {}, data[axis],
      {}};
  const Steps steps = strides(data);
  for (int d = 0; d < data.rank(); ++d) {
    body.dims[d] = shape[d];
    body.steps[d] = steps[static_cast<size_t>(d)];
  }
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    GatherByElements bound = body;
    bound.data = launch.inputs[0];
    bound.indices.data = launch.inputs[1];
    bound.y = launch.outputs[0];
    bound.faults = faults_of(launch);
    for_each(launch.stream, results, bound, "GatherElements");
  });
}

KernelOrReason one_hot(const executor::NodeSpec& node, const MakeOptions&) {
  const DType indices = input_dtype(node, 0);
  if (is_float(indices) || indices == DType::u64) return declined("OneHot: only signed integer indices");
  const Axis view = around(node.outputs[0].shape, node.attributes->integer("axis"));
  const int64_t results = node.outputs[0].shape.elements();
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(
        launch.stream, results,
        OneHotRows{{launch.inputs[0], indices}, launch.inputs[1], launch.outputs[0], bytes, view.length, view.inner},
        "OneHot");
  });
}

}  // namespace mpc::cuda
