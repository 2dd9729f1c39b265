// Operators that move elements as they are, for every dtype: Reshape, Transpose, Expand, Tile, Slice, SliceGrad,
// Concat, Split, Pad, Trilu; and PadGrad, which adds where padding repeats elements.

#include <algorithm>

#include "compiler/base/literal.h"
#include "executor/cuda/data.h"
#include "executor/cuda/kernels/axis_by_axis.h"
#include "executor/cuda/kernels/factories.h"
#include "executor/cuda/kernels/views.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

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

enum class PadMode : uint8_t { constant, edge, reflect, wrap };

/// Where Pad takes the elements of one axis from: those of the part of `length` that cropping leaves.
struct PaddedAxis {
  int64_t plain;    // elements without pads
  int64_t padded;   // and with them
  int64_t begin;    // elements of the padded axis before the part
  int64_t cropped;  // elements of the plain axis before the part
  int64_t length;
  PadMode mode;
  int64_t from() const { return padded; }
  int64_t to() const { return plain; }
  MPC_DEVICE double weight(int64_t i, int64_t mine) const { return source(i) == mine ? 1.0 : 0.0; }
  /// The element of the plain axis that element `i` of the padded one repeats.
  MPC_DEVICE int64_t source(int64_t i) const {
    i -= begin;
    if (i < 0 || i >= length) {
      if (mode == PadMode::edge) {
        i = i < 0 ? 0 : length - 1;
      } else {
        const int64_t mirrored = 2 * (length - 1) < 1 ? 1 : 2 * (length - 1);
        const int64_t period = mode == PadMode::wrap ? length : mirrored;
        i = (i % period + period) % period;
        if (i >= length) i = period - i;
      }
    }
    return cropped + i;
  }
};

struct PaddedAxes {
  int rank = 0;
  PaddedAxis axis[kMaxRank] = {};
};

/// y[i] = x[where the pad mode says].
struct RepeatingPad {
  const void* x;
  void* y;
  int bytes;
  PaddedAxes axes;
  MPC_DEVICE void operator()(int64_t i) const {
    int64_t rest = i;
    int64_t at = 0;
    int64_t step = 1;
    for (int d = axes.rank - 1; d >= 0; --d) {
      at += axes.axis[d].source(rest % axes.axis[d].padded) * step;
      rest /= axes.axis[d].padded;
      step *= axes.axis[d].plain;
    }
    copy_element(y, i, x, at, bytes);
  }
};

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

PaddedAxes padded_axes(const Attributes& attributes, const Shape& plain, const Shape& padded) {
  const auto& pads = attributes.integers("pads");
  const std::string& mode = attributes.text("mode");
  PaddedAxes axes;
  axes.rank = plain.rank();
  for (int d = 0; d < axes.rank; ++d) {
    const int64_t begin = pads[static_cast<size_t>(d)];
    const int64_t end = pads[static_cast<size_t>(d + axes.rank)];
    PaddedAxis& axis = axes.axis[d];
    axis.plain = plain[d];
    axis.padded = padded[d];
    axis.begin = std::max<int64_t>(begin, 0);
    axis.cropped = std::max<int64_t>(-begin, 0);
    axis.length = plain[d] - axis.cropped - std::max<int64_t>(-end, 0);
    axis.mode = mode == "edge" ? PadMode::edge : mode == "wrap" ? PadMode::wrap : PadMode::reflect;
  }
  return axes;
}

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
  const Shape& x = node.inputs[0].shape;
  const Shape& y = node.outputs[0].shape;
  if (node.attributes->text("mode") == "constant") {
    const PaddedPart part(node.attributes->integers("pads"), x, y);
    return movement(node, part.shape, strides(x), part.plain_begin, strides(y), part.padded_begin, true,
                    node.attributes->number("value"));
  }
  const PaddedAxes axes = padded_axes(*node.attributes, x, y);
  const int64_t count = y.elements();
  const int bytes = element_bytes(node);
  return function_kernel("cuda:copy", [=](const Launch& launch) {
    for_each(launch.stream, count, RepeatingPad{launch.inputs[0], launch.outputs[0], bytes, axes}, "Pad");
  });
}

KernelOrReason pad_grad(const executor::NodeSpec& node, const MakeOptions&) {
  const Shape& dx = node.outputs[0].shape;
  const Shape& dy = node.inputs[0].shape;
  if (node.attributes->text("mode") == "constant") {
    const PaddedPart part(node.attributes->integers("pads"), dx, dy);
    return movement(node, part.shape, strides(dy), part.padded_begin, strides(dx), part.plain_begin, true);
  }
  const PaddedAxes axes = padded_axes(*node.attributes, dx, dy);
  return axis_by_axis(node, std::vector<PaddedAxis>(axes.axis, axes.axis + axes.rank));
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

KernelOrReason split(const executor::NodeSpec& node, const MakeOptions& options) {
  if (node.attributes->has("parts")) return split_many(node, options);
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

}  // namespace mpc::cuda
