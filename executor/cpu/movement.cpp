// Operators that move elements as they are, for every dtype: Reshape, Transpose, Expand, Slice, SliceGrad, Concat,
// Split, Pad and PadGrad with constant values, Gather, and Where; and GatherGrad in f32.

#include <algorithm>
#include <cstring>
#include <string>

#include "compiler/base/error.h"
#include "compiler/base/literal.h"
#include "executor/cpu/factories.h"
#include "executor/cpu/row_math.h"
#include "executor/cpu/strided_copy.h"
#include "executor/cpu/support.h"

namespace mpc::cpu {
namespace {

using Steps = StridedCopy::Steps;

/// One strided copy from input 0 to output 0, after filling the output where the copy leaves gaps.
class MovementKernel final : public Kernel {
 public:
  enum class Gaps : uint8_t { none, filled };
  MovementKernel(const StridedCopy& copy, Gaps gaps, DType dtype, double fill_value, int threads)
      : copy_(copy), gaps_(gaps), fill_(static_cast<size_t>(dtype_bytes(dtype))), threads_(threads) {
    write_number(dtype, fill_.data(), fill_value);
  }
  void run(const KernelCall& call) override {
    const TensorView& y = call.outputs[0];
    if (gaps_ == Gaps::filled) fill(y.data, static_cast<size_t>(y.bytes()));
    copy_.run(call.inputs[0].data, y.data, threads_);
  }
  std::string_view name() const override { return "cpu:copy"; }

 private:
  /// Copies what is filled to what is not, in pieces that stay in the first-level cache.
  void fill(std::byte* to, size_t bytes) const {
    constexpr size_t kPiece = 4096;
    size_t done = std::min(bytes, fill_.size());
    std::memcpy(to, fill_.data(), done);
    while (done < bytes) {
      const size_t piece = std::min({done, kPiece, bytes - done});
      std::memcpy(to + done, to, piece);
      done += piece;
    }
  }

  StridedCopy copy_;
  Gaps gaps_;
  std::vector<std::byte> fill_;
  int threads_;
};

KernelOrReason movement(const NodeSpec& node, const StridedCopy& copy,
                        MovementKernel::Gaps gaps = MovementKernel::Gaps::none, double fill_value = 0) {
  return {std::make_unique<MovementKernel>(copy, gaps, node.outputs[0].dtype, fill_value, node.threads), {}};
}

Steps transposed_steps(const Shape& x, const std::vector<int64_t>& perm) {
  const Steps dense = strides(x);
  Steps steps{};
  for (size_t i = 0; i < perm.size(); ++i) steps[i] = dense[static_cast<size_t>(perm[i])];
  return steps;
}

// Steps that repeat dimensions of one element; `from` has at most the rank of `to`.
Steps expanded_steps(const Shape& from, const Shape& to) {
  const Steps dense = strides(from);
  Steps steps{};
  for (int axis = 0; axis < from.rank(); ++axis) {
    if (from[axis] > 1) steps[static_cast<size_t>(axis + to.rank() - from.rank())] = dense[static_cast<size_t>(axis)];
  }
  return steps;
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

void reshape(const KernelCall& call, int) {
  const TensorView& y = call.outputs[0];
  if (y.data != call.inputs[0].data && y.bytes() > 0) {
    std::memmove(y.data, call.inputs[0].data, static_cast<size_t>(y.bytes()));
  }
}

/// Bytes of one run of a tensor from `axis` on.
int64_t run_bytes(const TensorView& tensor, int64_t axis) {
  return tensor.shape.elements(static_cast<int>(axis), tensor.shape.rank()) * dtype_bytes(tensor.dtype);
}

void concat(const KernelCall& call, int) {
  const int64_t axis = call.attributes.integer("axis");
  const TensorView& y = call.outputs[0];
  const int64_t outer = y.shape.elements(0, static_cast<int>(axis));
  const int64_t whole = run_bytes(y, axis);
  int64_t begin = 0;
  for (const TensorView& x : call.inputs) {
    const int64_t part = run_bytes(x, axis);
    for (int64_t o = 0; part > 0 && o < outer; ++o) {
      std::memcpy(y.data + o * whole + begin, x.data + o * part, static_cast<size_t>(part));
    }
    begin += part;
  }
}

void split(const KernelCall& call, int) {
  const int64_t axis = call.attributes.integer("axis");
  const auto& lengths = call.attributes.integers("split");
  size_t next = 0;
  for (size_t k = 0; k < call.inputs.size(); ++k) {
    const TensorView& x = call.inputs[k];
    const size_t parts =
        call.attributes.has("parts") ? static_cast<size_t>(call.attributes.integers("parts")[k]) : lengths.size();
    const int64_t outer = x.shape.elements(0, static_cast<int>(axis));
    const int64_t whole = run_bytes(x, axis);
    const int64_t unit = run_bytes(x, axis + 1);
    int64_t begin = 0;
    for (const size_t end = next + parts; next < end; ++next) {
      const int64_t part = lengths[next] * unit;
      for (int64_t o = 0; call.has_output(next) && part > 0 && o < outer; ++o) {
        std::memcpy(call.outputs[next].data + o * part, x.data + o * whole + begin, static_cast<size_t>(part));
      }
      begin += part;
    }
  }
}

/// Index `i` of an operand, made positive. @throws Error(M033) when it is outside [-dim, dim).
int64_t index_at(OpKind op, const TensorView& indices, int64_t i, int64_t dim) {
  const int64_t index = indices.dtype == DType::i64 ? indices.as<int64_t>()[i] : indices.as<int32_t>()[i];
  if (index < -dim || index >= dim) {
    throw Error(ErrorId::M033, std::string(op_name(op)),
                "index " + std::to_string(index) + " is out of range for a dimension of " + std::to_string(dim));
  }
  return index < 0 ? index + dim : index;
}

void gather(const KernelCall& call, int) {
  const TensorView& data = call.inputs[0];
  const TensorView& indices = call.inputs[1];
  const int axis = static_cast<int>(call.attributes.integer("axis"));
  const int64_t outer = data.shape.elements(0, axis);
  const int64_t dim = data.shape[axis];
  const int64_t run = run_bytes(data, axis + 1);
  const int64_t count = indices.shape.elements();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = index_at(OpKind::Gather, indices, i, dim);
    for (int64_t o = 0; run > 0 && o < outer; ++o) {
      std::memcpy(call.outputs[0].data + (o * count + i) * run, data.data + (o * dim + index) * run,
                  static_cast<size_t>(run));
    }
  }
}

// Rows of the same index are added in ascending order of their positions.
void gather_grad(const KernelCall& call, int) {
  const TensorView& dx = call.outputs[0];
  const TensorView& indices = call.inputs[1];
  const int axis = static_cast<int>(call.attributes.integer("axis"));
  const int64_t outer = dx.shape.elements(0, axis);
  const int64_t dim = dx.shape[axis];
  const int64_t run = dx.shape.elements(axis + 1, dx.shape.rank());
  const int64_t count = indices.shape.elements();
  std::memset(dx.data, 0, static_cast<size_t>(dx.bytes()));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = index_at(OpKind::GatherGrad, indices, i, dim);
    for (int64_t o = 0; o < outer; ++o) {
      row_add(call.inputs[0].as<float>() + (o * count + i) * run, dx.as<float>() + (o * dim + index) * run, run);
    }
  }
}

/// y = condition ? a : b, broadcast. What is chosen is decided element by element along the last dimension.
template <class Word>
class WhereKernel final : public Kernel {
 public:
  explicit WhereKernel(const NodeSpec& node) : shape_(node.outputs[0].shape) {
    for (size_t i = 0; i < 3; ++i) steps_[i] = expanded_steps(node.inputs[i].shape, shape_);
  }
  void run(const KernelCall& call) override {
    const int rank = shape_.rank();
    const int64_t count = rank == 0 ? 1 : shape_[rank - 1];
    if (shape_.elements() == 0) return;
    Word* out = call.outputs[0].as<Word>();
    Steps3 step{};
    for (size_t i = 0; i < 3 && rank > 0; ++i) step[i] = steps_[i][static_cast<size_t>(rank - 1)];
    for (int64_t row = 0; row < shape_.elements() / count; ++row) {
      const Steps3 at = row_begins(row);
      const uint8_t* condition = call.inputs[0].as<uint8_t>() + at[0];
      const Word* a = call.inputs[1].as<Word>() + at[1];
      const Word* b = call.inputs[2].as<Word>() + at[2];
      choose(condition, a, b, step, count, out);
      out += count;
    }
  }
  std::string_view name() const override { return "cpu:copy"; }

 private:
  using Steps3 = std::array<int64_t, 3>;

  /// A row. Steps are 0 or 1; those that compilers know make vector code.
  static void choose(const uint8_t* condition, const Word* a, const Word* b, const Steps3& step, int64_t count,
                     Word* out) {
    if (step == Steps3{1, 1, 0}) return choose_by<1, 0>(condition, a, b, count, out);
    if (step == Steps3{1, 0, 1}) return choose_by<0, 1>(condition, a, b, count, out);
    if (step == Steps3{1, 1, 1}) return choose_by<1, 1>(condition, a, b, count, out);
    for (int64_t i = 0; i < count; ++i) {
      const Word left = a[i * step[1]];
      const Word right = b[i * step[2]];
      out[i] = condition[i * step[0]] != 0 ? left : right;
    }
  }

  template <int64_t a_step, int64_t b_step>
  static void choose_by(const uint8_t* condition, const Word* a, const Word* b, int64_t count, Word* out) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const Word left = a[i * a_step];
      const Word right = b[i * b_step];
      out[i] = condition[i] != 0 ? left : right;
    }
  }

  Steps3 row_begins(int64_t row) const {
    Steps3 at{};
    for (int axis = shape_.rank() - 2; axis >= 0; --axis) {
      const int64_t index = row % shape_[axis];
      row /= shape_[axis];
      for (size_t i = 0; i < 3; ++i) at[i] += index * steps_[i][static_cast<size_t>(axis)];
    }
    return at;
  }

  Shape shape_;
  std::array<Steps, 3> steps_;
};

bool is_index(DType dtype) {
  return dtype == DType::i64 || dtype == DType::i32;
}

}  // namespace

KernelOrReason strided_movement(const NodeSpec& node) {
  const Attributes& attributes = *node.attributes;
  const Shape& x = node.inputs[0].shape;
  const Shape& y = node.outputs[0].shape;
  const int64_t element_bytes = dtype_bytes(node.outputs[0].dtype);
  switch (node.op) {
    case OpKind::Transpose:
      return movement(node, {y, transposed_steps(x, attributes.integers("perm")), 0, strides(y), 0, element_bytes});
    case OpKind::Expand:
      return movement(node, {y, expanded_steps(x, y), 0, strides(y), 0, element_bytes});
    case OpKind::Slice: {
      int64_t begin = 0;
      const Steps steps = sliced_steps(attributes, x, begin);
      return movement(node, {y, steps, begin, strides(y), 0, element_bytes});
    }
    case OpKind::SliceGrad: {
      int64_t begin = 0;
      const Steps steps = sliced_steps(attributes, y, begin);
      return movement(node, {x, strides(x), 0, steps, begin, element_bytes}, MovementKernel::Gaps::filled);
    }
    default:
      return declined("strided copies: not a movement");
  }
}

KernelOrReason constant_pad(const NodeSpec& node) {
  const Attributes& attributes = *node.attributes;
  if (attributes.text("mode") != "constant") return declined("strided copies: Pad only with constant values");
  const Shape& x = node.inputs[0].shape;
  const Shape& y = node.outputs[0].shape;
  const int64_t element_bytes = dtype_bytes(node.outputs[0].dtype);
  const bool is_grad = node.op == OpKind::PadGrad;
  const PaddedPart part(attributes.integers("pads"), is_grad ? y : x, is_grad ? x : y);
  const int64_t from_begin = is_grad ? part.padded_begin : part.plain_begin;
  const int64_t to_begin = is_grad ? part.plain_begin : part.padded_begin;
  return movement(node, {part.shape, strides(x), from_begin, strides(y), to_begin, element_bytes},
                  MovementKernel::Gaps::filled, is_grad ? 0.0 : attributes.number("value"));
}

KernelOrReason run_movement(const NodeSpec& node) {
  switch (node.op) {
    case OpKind::Reshape:
      return plain_kernel("cpu:copy", &reshape, node.threads);
    case OpKind::Concat:
      return plain_kernel("cpu:copy", &concat, node.threads);
    case OpKind::Split:
      return plain_kernel("cpu:copy", &split, node.threads);
    default:
      return declined("copies of runs: not a movement");
  }
}

KernelOrReason gather_runs(const NodeSpec& node) {
  if (!is_index(node.inputs[1].dtype)) return declined("copies of runs: only i64 and i32 indices");
  if (node.op == OpKind::Gather) return plain_kernel("cpu:copy", &gather, node.threads);
  if (node.outputs[0].dtype != DType::f32) return declined("sums of runs: only f32");
  if (node.outputs[0].shape.elements() == 0) return declined("sums of runs: an operand is empty");
  return plain_kernel("cpu:rows", &gather_grad, node.threads);
}

KernelOrReason where_loop(const NodeSpec& node) {
  switch (dtype_bytes(node.outputs[0].dtype)) {
    case 4:
      return {std::make_unique<WhereKernel<uint32_t>>(node), {}};
    case 8:
      return {std::make_unique<WhereKernel<uint64_t>>(node), {}};
    default:
      return declined("broadcasting loops: Where only of elements of 4 or 8 bytes");
  }
}

}  // namespace mpc::cpu
