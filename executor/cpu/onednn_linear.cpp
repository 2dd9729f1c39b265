// Matrix products on oneDNN: MatMul (any ranks, broadcasting) and Gemm in f32.

#include <algorithm>
#include <cstring>

#include "executor/cpu/factories.h"
#include "executor/cpu/onednn.h"

namespace mpc::cpu {
namespace {

using dnnl::memory;

/// Product of two tensors of matrices, optionally plus a row vector, or plus `beta` times what the result holds.
class Product final : public Kernel {
 public:
  struct Spec {
    memory::desc a, b, y;
    bool is_b_constant = false;
    bool has_row_bias = false;
    memory::desc bias;
    double alpha = 1;
    double beta = 0;  // of an addend that is copied into the result first
    Shape addend;     // broadcasts to y; only when beta is not 0
    Shape result;
  };

  explicit Product(const Spec& spec) : Product(spec, described(spec)) {}

  Product(const Spec& spec, const dnnl::matmul::primitive_desc& desc)
      : spec_(spec),
        stream_(cpu_engine()),
        a_(unbound(spec.a)),
        b_(desc.weights_desc(), spec.b, spec.is_b_constant),
        y_(unbound(spec.y)),
        product_(desc),
        scratch_(desc.scratchpad_desc()) {
    arguments_ = {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_.memory()}, {DNNL_ARG_DST, y_}};
    scratch_.add_to(arguments_);
    if (!spec.has_row_bias) return;
    bias_ = unbound(spec.bias);
    arguments_.insert({DNNL_ARG_BIAS, bias_});
  }

  void run(const KernelCall& call) override {
    if (spec_.beta != 0) copy_addend(call.inputs[2].as<float>(), call.outputs[0].as<float>());
    a_.set_data_handle(call.inputs[0].data);
    std::byte* scratch = thread_scratch(b_.scratch_bytes() + scratch_.bytes()).data();
    b_.bind(call.inputs[1].data, scratch);
    y_.set_data_handle(call.outputs[0].data);
    if (spec_.has_row_bias) bias_.set_data_handle(call.inputs[2].data);
    scratch_.bind(scratch + b_.scratch_bytes());
    b_.reorder(stream_);
    product_.execute(stream_, arguments_);
    stream_.wait();
  }
  void forget_constants() override { b_.forget(); }
  int64_t kept_bytes() const override { return b_.kept_bytes(); }
  std::string_view name() const override { return "cpu:onednn matmul"; }

 private:
  /// Is b brought into the layout that oneDNN likes best: once where it never changes, otherwise with every run, where
  /// that pays? Measured (us, 768 columns and 3072, f32): 1024 rows 63,400 as it lies, 28,400 laid out and 1,000 to do
  /// so, because all its rows begin in the same places of the cache; 768 x 768 with 64 rows 450, 471 and 117.
  static bool is_b_laid_out(const Spec& spec) {
    constexpr int64_t kManyRows = 512;        // the way there costs less than it gains, whatever the shape
    constexpr int64_t kSomeRows = 64;         // where rows of b collide
    constexpr int64_t kCollidingStep = 1024;  // floats: of 4096 bytes
    if (spec.b.dims().size() != 2) return false;
    if (spec.is_b_constant) return true;
    const int64_t rows = spec.a.dims()[0];
    const int64_t step = spec.b.data.format_desc.blocking.strides[0];
    const bool collides = step > 1 && step % kCollidingStep == 0;
    return rows >= kManyRows || (rows >= kSomeRows && collides);
  }

  static dnnl::matmul::primitive_desc described(const Spec& spec) {
    dnnl::primitive_attr attributes = caller_scratch();
    if (spec.alpha != 1) attributes.set_output_scales(0, {static_cast<float>(spec.alpha)});
    if (spec.beta != 0) {
      dnnl::post_ops post;
      post.append_sum(static_cast<float>(spec.beta));
      attributes.set_post_ops(post);
    }
    const memory::desc b = is_b_laid_out(spec) ? any_desc(spec.b.dims()) : spec.b;
    const auto operation =
        spec.has_row_bias ? dnnl::matmul::desc(spec.a, b, spec.bias, spec.y) : dnnl::matmul::desc(spec.a, b, spec.y);
    return {operation, attributes, cpu_engine()};
  }

  // y (rows, columns) = c broadcast.
  void copy_addend(const float* c, float* y) const {
    const int64_t rows = spec_.result[0];
    const int64_t columns = spec_.result[1];
    const Shape& shape = spec_.addend;
    const int rank = shape.rank();
    const bool has_columns = rank >= 1 && shape[rank - 1] == columns;
    const int64_t row_step = rank == 2 && shape[0] == rows && rows > 1 ? shape[1] : 0;
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = c + row * row_step;
      if (has_columns) {
        std::copy_n(from, columns, y + row * columns);
      } else {
        std::fill_n(y + row * columns, columns, *from);
      }
    }
  }

  Spec spec_;
  dnnl::stream stream_;
  memory a_;
  KeptOperand b_;
  memory y_, bias_;
  dnnl::matmul product_;
  ScratchMemory scratch_;
  std::unordered_map<int, memory> arguments_;
};

/// Why oneDNN does not take the node, or nothing.
std::string refusal(const NodeSpec& node) {
  if (!all_of_type(node, DType::f32)) return "oneDNN matmul: only f32";
  if (has_empty_operand(node)) return "oneDNN matmul: an operand is empty";
  return {};
}

memory::desc matrix_desc(const Shape& shape, bool is_transposed) {
  const memory::data_type f32 = memory::data_type::f32;
  if (!is_transposed) return {{shape[0], shape[1]}, f32, memory::dims{shape[1], 1}};
  return {{shape[1], shape[0]}, f32, memory::dims{1, shape[1]}};
}

Shape swapped(const Shape& shape) {
  Shape result = shape;
  result.set(shape.rank() - 2, shape[shape.rank() - 1]);
  result.set(shape.rank() - 1, shape[shape.rank() - 2]);
  return result;
}

/// Matrices of `shape` that lie in memory as they are, or transposed.
memory::desc stack_desc(const Shape& shape, bool is_transposed) {
  if (!is_transposed) return plain_desc(shape.to_vector());
  const size_t rank = static_cast<size_t>(shape.rank());
  memory::dims steps(rank);
  int64_t step = shape[shape.rank() - 1] * shape[shape.rank() - 2];
  for (size_t axis = rank - 2; axis-- > 0;) {
    steps[axis] = step;
    step *= shape[static_cast<int>(axis)];
  }
  steps[rank - 2] = 1;
  steps[rank - 1] = shape[shape.rank() - 2];
  return {shape.to_vector(), memory::data_type::f32, steps};
}

Shape with_rank(const Shape& shape, int rank) {
  std::vector<int64_t> dims(static_cast<size_t>(rank - shape.rank()), 1);
  dims.insert(dims.end(), shape.begin(), shape.end());
  return Shape(dims);
}

}  // namespace

KernelOrReason onednn_gemm(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  Product::Spec spec;
  spec.a = matrix_desc(node.inputs[0].shape, node.attributes->flag("transA"));
  spec.b = matrix_desc(node.inputs[1].shape, node.attributes->flag("transB"));
  spec.is_b_constant = node.inputs[1].is_constant;
  spec.result = node.outputs[0].shape;
  spec.y = matrix_desc(spec.result, false);
  spec.alpha = node.attributes->number("alpha");
  const double beta = node.attributes->number("beta");
  if (has_input(node, 2) && beta != 0) {
    spec.addend = node.inputs[2].shape;
    const bool is_row =
        spec.addend.elements() == spec.result[1] && spec.addend[spec.addend.rank() - 1] == spec.result[1];
    spec.has_row_bias = is_row && spec.alpha == 1 && beta == 1;
    if (spec.has_row_bias) {
      spec.bias = plain_desc({1, spec.result[1]});
    } else {
      spec.beta = beta;
    }
  }
  return try_onednn([&] { return std::make_unique<Product>(spec); });
}

KernelOrReason onednn_matmul(const NodeSpec& node) {
  if (std::string reason = refusal(node); !reason.empty()) return declined(reason);
  const auto is_set = [&](std::string_view name) { return node.attributes->has(name) && node.attributes->flag(name); };
  const bool trans_a = is_set("transA");
  const bool trans_b = is_set("transB");
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  // A vector on the left is a row, on the right a column. From here on the shapes are those after transposition.
  const Shape left = a.rank() == 1 ? Shape{1, a[0]} : trans_a ? swapped(a) : a;
  const Shape right = b.rank() == 1 ? Shape{b[0], 1} : trans_b ? swapped(b) : b;
  const int64_t inner = left[left.rank() - 1];
  const int64_t columns = right[right.rank() - 1];
  Product::Spec spec;
  spec.is_b_constant = node.inputs[1].is_constant;
  const bool is_one_product =
      right.elements(0, right.rank() - 2) == 1 && (!trans_a || left.elements(0, left.rank() - 2) == 1);
  if (is_one_product) {  // one matrix on the right: all rows of the left in one product
    const int64_t rows = left.elements() / inner;
    spec.a = trans_a ? matrix_desc(Shape{inner, rows}, true) : plain_desc({rows, inner});
    spec.b = trans_b ? matrix_desc(Shape{columns, inner}, true) : plain_desc({inner, columns});
    spec.y = plain_desc({rows, columns});
  } else {
    const int rank = std::max(left.rank(), right.rank());
    const Shape full_left = with_rank(left, rank);
    const Shape full_right = with_rank(right, rank);
    std::vector<int64_t> y(static_cast<size_t>(rank));
    for (int axis = 0; axis < rank - 2; ++axis)
      y[static_cast<size_t>(axis)] = std::max(full_left[axis], full_right[axis]);
    y[static_cast<size_t>(rank - 2)] = full_left[rank - 2];
    y[static_cast<size_t>(rank - 1)] = columns;
    spec.a = stack_desc(full_left, trans_a);
    spec.b = stack_desc(full_right, trans_b);
    spec.y = plain_desc(y);
  }
  return try_onednn([&] { return std::make_unique<Product>(spec); });
}

}  // namespace mpc::cpu
