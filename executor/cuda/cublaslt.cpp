// cuBLASLt is column-major: a row-major matrix is its transpose there, so y = a b is asked for as y' = b' a'.

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <vector>

#include "compiler/base/product_epilogue.h"
#include "executor/cuda/data.h"
#include "executor/cuda/error.h"
#include "executor/cuda/libraries.h"
#include "executor/cuda/library_kernels.h"

namespace mpc::cuda {
namespace {

/// The functions that are used, from the library that was opened.
struct Api {
#define MPC_CUBLASLT_FUNCTIONS(X)         \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetStatusString)              \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatrixLayoutSetAttribute)
#define MPC_MEMBER(name) decltype(&::name) name = nullptr;
  MPC_CUBLASLT_FUNCTIONS(MPC_MEMBER)
#undef MPC_MEMBER

  explicit Api(const Library& library) {
#define MPC_LOAD(name) name = reinterpret_cast<decltype(&::name)>(library_function(library, #name));
    MPC_CUBLASLT_FUNCTIONS(MPC_LOAD)
#undef MPC_LOAD
  }
};

const Api& api() {
  static const Api kApi(library(LibraryName::cublaslt));
  return kApi;
}

void check(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_library("cuBLASLt", static_cast<int>(status), api().cublasLtGetStatusString(status), call, __FILE__, line);
}
#define MPC_LT(call) check(api().call, #call, __LINE__)

/// A descriptor, destroyed with the object.
template <class T>
class Owned {
 public:
  Owned() = default;
  Owned(T value, cublasStatus_t (*destroy)(T)) : value_(value), destroy_(destroy) {}
  ~Owned() {
    if (value_ != nullptr) destroy_(value_);
  }
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, nullptr)), destroy_(other.destroy_) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    std::swap(destroy_, other.destroy_);
    return *this;
  }
  T get() const { return value_; }

 private:
  T value_ = nullptr;
  cublasStatus_t (*destroy_)(T) = nullptr;
};

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::f16) return CUDA_R_16F;
  if (dtype == DType::f64) return CUDA_R_64F;
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

cublasComputeType_t compute_type(DType dtype, bool allows_tf32) {
  if (dtype == DType::f64) return CUBLAS_COMPUTE_64F;
  return dtype == DType::f32 && allows_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

/// alpha or beta in the type that a product is scaled in: f64 for f64, else f32.
class Scale {
 public:
  Scale(double value, DType dtype) : wide_(value), narrow_(static_cast<float>(value)), is_wide_(dtype == DType::f64) {}
  const void* data() const { return is_wide_ ? static_cast<const void*>(&wide_) : &narrow_; }

 private:
  double wide_;
  float narrow_;
  bool is_wide_;
};

/// A column-major matrix, or a batch of them.
Owned<cublasLtMatrixLayout_t> layout(DType dtype, int64_t rows, int64_t columns, int64_t leading, int64_t count,
                                     int64_t step) {
  cublasLtMatrixLayout_t made = nullptr;
  MPC_LT(cublasLtMatrixLayoutCreate(&made, data_type(dtype), static_cast<uint64_t>(rows),
                                    static_cast<uint64_t>(columns), leading));
  Owned<cublasLtMatrixLayout_t> result(made, api().cublasLtMatrixLayoutDestroy);
  if (count > 1) {
    const int32_t batch = static_cast<int32_t>(count);
    MPC_LT(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
    MPC_LT(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)));
  }
  return result;
}

/// y (rows, columns) = activation(alpha op(a) op(b) + beta c + bias), row-major, `count` times.
struct ProductShape {
  DType dtype = DType::f32;   // of all operands
  DType result = DType::f32;  // of y: that of the operands, or f32
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  bool trans_a = false;
  bool trans_b = false;
  int64_t count = 1;
  int64_t a_step = 0;  // elements from one matrix to the next
  int64_t b_step = 0;
  double alpha = 1;
  double beta = 0;        // of what c holds
  bool has_bias = false;  // a row, added to every row
  enum class Activation : uint8_t { none, relu, gelu } activation = Activation::none;
  bool has_sums = false;  // of op(b)'s columns, as a second result; with no bias and no activation
  /// Further batches that no single step describes: element offsets of a, b and y.
  struct Offsets {
    int64_t a, b, y;
  };
  std::vector<Offsets> outer = {{0, 0, 0}};
};

/// What the library does with a product before it is stored. GELU is the approximation by tanh.
cublasLtEpilogue_t epilogue_of(const ProductShape& shape) {
  if (shape.has_sums) return CUBLASLT_EPILOGUE_BGRADA;  // the library's first operand is b
  switch (shape.activation) {
    case ProductShape::Activation::relu:
      return shape.has_bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case ProductShape::Activation::gelu:
      return shape.has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    default:
      return shape.has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
}

constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;

class ProductKernel final : public Kernel {
 public:
  /// Where the operands that are added come from.
  struct Addends {
    static constexpr size_t kNone = ~size_t{0};
    size_t bias = kNone;     // operand of the node
    size_t whole = kNone;    // the same: c
    bool is_copied = false;  // c is operand 2, broadcast into the result first
  };

  ProductKernel(const ProductShape& shape, const Addends& addends, BroadcastCopy copy, const MakeOptions& options,
                LibraryHandle& handle)
      : shape_(shape),
        addends_(addends),
        copy_(std::move(copy)),
        handle_(static_cast<cublasLtHandle_t>(handle.handle)) {
    cublasLtMatmulDesc_t made = nullptr;
    MPC_LT(cublasLtMatmulDescCreate(&made, compute_type(shape.dtype, options.allows_tf32),
                                    shape.dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F));
    operation_ = Owned<cublasLtMatmulDesc_t>(made, api().cublasLtMatmulDescDestroy);
    // Column-major: the first operand is b, the second a.
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, shape.trans_b);
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, shape.trans_a);
    const cublasLtEpilogue_t epilogue = epilogue_of(shape);
    MPC_LT(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)));
    if (shape.has_bias || shape.has_sums) {
      // The heuristic asks for a pointer, of which it looks at the alignment only.
      const void* aligned = reinterpret_cast<const void*>(uintptr_t{4096});
      MPC_LT(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &aligned, sizeof(aligned)));
    }
    const int64_t b_columns = shape.trans_b ? shape.inner : shape.columns;  // of the matrix as it is stored
    const int64_t b_rows = shape.trans_b ? shape.columns : shape.inner;
    const int64_t a_columns = shape.trans_a ? shape.rows : shape.inner;
    const int64_t a_rows = shape.trans_a ? shape.inner : shape.rows;
    first_ = layout(shape.dtype, b_columns, b_rows, b_columns, shape.count, shape.b_step);
    second_ = layout(shape.dtype, a_columns, a_rows, a_columns, shape.count, shape.a_step);
    result_ = layout(shape.result, shape.columns, shape.rows, shape.columns, shape.count, shape.rows * shape.columns);
    choose(options.is_aligned);
  }

  bool has_algorithm() const { return has_algorithm_; }

  void run(const Launch& launch) override {
    const Scale alpha(shape_.alpha, shape_.dtype);
    const Scale beta(shape_.beta, shape_.dtype);
    const int64_t element_bytes = dtype_bytes(shape_.dtype);
    const int64_t result_bytes = dtype_bytes(shape_.result);
    const auto at = [&](const void* base, int64_t elements) {
      return static_cast<const std::byte*>(base) + elements * element_bytes;
    };
    if (addends_.is_copied) copy_.run(launch.stream, launch.inputs[2], launch.outputs[0]);
    if (shape_.has_bias) {
      const void* bias = launch.inputs[addends_.bias];
      MPC_LT(cublasLtMatmulDescSetAttribute(operation_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias)));
    }
    if (shape_.has_sums) {
      void* sums = launch.outputs[1];
      MPC_LT(cublasLtMatmulDescSetAttribute(operation_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &sums, sizeof(sums)));
    }
    for (const ProductShape::Offsets& offsets : shape_.outer) {
      std::byte* y = static_cast<std::byte*>(launch.outputs[0]) + offsets.y * result_bytes;
      const void* c = y;
      if (addends_.whole != Addends::kNone)
        c = static_cast<const std::byte*>(launch.inputs[addends_.whole]) + offsets.y * result_bytes;
      MPC_LT(cublasLtMatmul(handle_, operation_.get(), alpha.data(), at(launch.inputs[1], offsets.b), first_.get(),
                            at(launch.inputs[0], offsets.a), second_.get(), beta.data(), c, result_.get(), y,
                            result_.get(), &algorithm_, launch.workspace, static_cast<size_t>(workspace_bytes_),
                            static_cast<cudaStream_t>(launch.stream.handle)));
    }
  }
  int64_t workspace_bytes() const override { return workspace_bytes_; }
  std::string_view name() const override { return "cuda:cublaslt"; }

 private:
  void set_transposed(cublasLtMatmulDescAttributes_t which, bool is_transposed) {
    const cublasOperation_t operation = is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    MPC_LT(cublasLtMatmulDescSetAttribute(operation_.get(), which, &operation, sizeof(operation)));
  }

  void choose(bool is_aligned_node) {
    cublasLtMatmulPreference_t made = nullptr;
    MPC_LT(cublasLtMatmulPreferenceCreate(&made));
    const Owned<cublasLtMatmulPreference_t> preference(made, api().cublasLtMatmulPreferenceDestroy);
    MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kMostWorkspace,
                                                sizeof(kMostWorkspace)));
    // Only schemes that add the parts of a split sum in a fixed order.
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                                sizeof(schemes)));
    // Operands start at multiples of 256 bytes, except within an outer batch, which starts at any element.
    const bool is_aligned = is_aligned_node && shape_.outer.size() == 1;
    const uint32_t alignment = is_aligned ? 256 : static_cast<uint32_t>(dtype_bytes(shape_.dtype));
    for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                             CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, which, &alignment, sizeof(alignment)));
    }
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status = api().cublasLtMatmulAlgoGetHeuristic(
        handle_, operation_.get(), first_.get(), second_.get(), result_.get(), result_.get(), made, 1, &found, &count);
    if (status != CUBLAS_STATUS_SUCCESS || count == 0 || found.state != CUBLAS_STATUS_SUCCESS) return;
    algorithm_ = found.algo;
    workspace_bytes_ = static_cast<int64_t>(found.workspaceSize);
    has_algorithm_ = true;
  }

  ProductShape shape_;
  Addends addends_;
  BroadcastCopy copy_;
  cublasLtHandle_t handle_;
  Owned<cublasLtMatmulDesc_t> operation_;
  Owned<cublasLtMatrixLayout_t> first_, second_, result_;
  cublasLtMatmulAlgo_t algorithm_{};
  int64_t workspace_bytes_ = 0;
  bool has_algorithm_ = false;
};

Shape batch_of(const Shape& shape) {
  return shape.rank() < 2 ? Shape{} : Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 2)));
}

bool is_set(const executor::NodeSpec& node, std::string_view name) {
  return node.attributes->has(name) && node.attributes->flag(name);
}

ProductShape::Activation activation_of(const executor::NodeSpec& node) {
  if (!node.attributes->has("activation")) return ProductShape::Activation::none;
  return node.attributes->text("activation") == "Relu" ? ProductShape::Activation::relu
                                                       : ProductShape::Activation::gelu;
}

ProductShape matmul_shape(const executor::NodeSpec& node) {
  const Shape& a = node.inputs[0].shape;
  const Shape& b = node.inputs[1].shape;
  ProductShape p;
  p.trans_a = is_set(node, "transA");
  p.trans_b = is_set(node, "transB");
  p.inner = a[a.rank() - (p.trans_a ? 2 : 1)];
  p.rows = a.rank() == 1 ? 1 : a[a.rank() - (p.trans_a ? 1 : 2)];
  p.columns = b.rank() == 1 ? 1 : b[b.rank() - (p.trans_b ? 2 : 1)];
  const Shape a_batch = batch_of(a);
  const Shape b_batch = batch_of(b);
  if (b_batch.elements() == 1 && (!p.trans_a || a_batch.elements() == 1)) {
    // one matrix on the right: all rows of the left in one product
    p.rows *= a_batch.elements();
    return p;
  }
  const Shape batch = *broadcast(a_batch, b_batch);
  Steps a_steps = broadcast_steps(a_batch, batch);
  Steps b_steps = broadcast_steps(b_batch, batch);
  for (size_t d = 0; d < kMaxRank; ++d) {
    a_steps[d] *= p.rows * p.inner;
    b_steps[d] *= p.inner * p.columns;
  }
  const Walk<2> walk = make_walk<2>(batch, {a_steps, b_steps});
  const int last = walk.rank - 1;
  p.count = walk.count[last];
  p.a_step = walk.step[0][last];
  p.b_step = walk.step[1][last];
  p.outer.clear();
  for (int64_t i = 0; i < batch.elements(); i += p.count) {
    const auto begin = walk.positions(i);
    p.outer.push_back({begin.at[0], begin.at[1], i * p.rows * p.columns});
  }
  return p;
}

ProductShape gemm_shape(const executor::NodeSpec& node) {
  const Shape& a = node.inputs[0].shape;
  const Shape& y = node.outputs[0].shape;
  ProductShape p;
  p.trans_a = node.attributes->flag("transA");
  p.trans_b = node.attributes->flag("transB");
  p.rows = y[0];
  p.columns = y[1];
  p.inner = a[p.trans_a ? 0 : 1];
  p.alpha = node.attributes->number("alpha");
  return p;
}

/// Are the operands of one type, what is added of the result's, and none is empty?
bool has_types(const executor::NodeSpec& node, DType operands, DType result) {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const auto& input = node.inputs[i];
    const DType dtype = i < 2 ? operands : result;
    if (input.is_present && (input.dtype != dtype || input.shape.elements() == 0)) return false;
  }
  return node.outputs[0].dtype == result && node.outputs[0].shape.elements() > 0;
}

/// The product alone, then a kernel of the plugin's own for what it was fused with: on its result, or on operands of
/// its for a second result.
class TwoKernels final : public Kernel {
 public:
  TwoKernels(std::unique_ptr<Kernel> product, std::unique_ptr<Kernel> rest, std::vector<size_t> rest_inputs)
      : product_(std::move(product)), rest_(std::move(rest)), rest_inputs_(std::move(rest_inputs)) {}

  void run(const Launch& launch) override {
    product_->run(launch);
    const bool has_second = launch.outputs.size() > 1;
    std::array<void*, 3> inputs = {};
    size_t count = 0;
    if (!has_second) inputs[count++] = launch.outputs[0];
    for (const size_t i : rest_inputs_) inputs[count++] = launch.inputs[i];
    Launch rest = launch;
    rest.inputs = std::span<void* const>(inputs).first(count);
    rest.outputs = launch.outputs.last(1);
    rest_->run(rest);
  }
  int64_t workspace_bytes() const override { return product_->workspace_bytes(); }
  std::string_view name() const override { return "cuda:cublaslt, then the plugin's"; }

 private:
  std::unique_ptr<Kernel> product_;
  std::unique_ptr<Kernel> rest_;
  std::vector<size_t> rest_inputs_;
};

KernelOrReason then_epilogue(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  std::vector<bool> is_present;
  for (const executor::NodeSpec::Operand& operand : node.inputs) is_present.push_back(operand.is_present);
  const ProductEpilogue epilogue = epilogue_of(node.op, *node.attributes, node.inputs[0].dtype, is_present);
  if (epilogue.steps.empty()) return declined("cuBLASLt: no algorithm for these shapes");
  const Attributes attributes = product_attributes(*node.attributes);
  executor::NodeSpec product = node;
  product.attributes = &attributes;
  product.inputs.resize(std::min(product.inputs.size(), product_inputs(node.op)));
  KernelOrReason found = cublaslt_product(product, options, handle);
  if (found.kernel == nullptr) return found;

  const Attributes rest_attributes = {{"steps", print_steps(epilogue.steps)}};
  executor::NodeSpec rest = node;
  rest.op = OpKind::Elementwise;
  rest.attributes = &rest_attributes;
  rest.inputs = {node.outputs[0]};
  for (const size_t i : epilogue.inputs) rest.inputs.push_back(node.inputs[i]);
  KernelOrReason own = find_own_kernel(rest, options);
  if (own.kernel == nullptr) return own;
  return {std::make_unique<TwoKernels>(std::move(found.kernel), std::move(own.kernel), epilogue.inputs), {}};
}

KernelOrReason then_sums(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  executor::NodeSpec product = node;
  product.outputs.resize(1);
  KernelOrReason found = cublaslt_product(product, options, handle);
  if (found.kernel == nullptr) return found;
  const std::vector<int64_t> axes = {node.attributes->flag("transB") ? 1 : 0};
  const Attributes attributes = {{"axes", axes}, {"keepdims", int64_t{0}}, {"noop_with_empty_axes", int64_t{0}}};
  executor::NodeSpec sums = node;
  sums.op = OpKind::ReduceSum;
  sums.attributes = &attributes;
  sums.inputs = {node.inputs[1]};
  sums.outputs = {node.outputs[1]};
  KernelOrReason own = find_own_kernel(sums, options);
  if (own.kernel == nullptr) return own;
  return {std::make_unique<TwoKernels>(std::move(found.kernel), std::move(own.kernel), std::vector<size_t>{1}), {}};
}

}  // namespace

KernelOrReason cublaslt_product(const executor::NodeSpec& node, const MakeOptions& options, LibraryHandle& handle) {
  const Library& lt = library(LibraryName::cublaslt);
  if (lt.handle == nullptr) return declined("cuBLASLt: " + lt.path);
  const DType dtype = input_dtype(node, 0);
  const DType result = output_dtype(node, 0);
  if (!is_float(dtype) || !has_types(node, dtype, result)) {
    return declined("cuBLASLt: operands are of different types, are no floats, or are empty");
  }
  if (handle.handle == nullptr) {
    cublasLtHandle_t made = nullptr;
    MPC_LT(cublasLtCreate(&made));
    handle.handle = made;
    handle.destroy = [](void* old) { api().cublasLtDestroy(static_cast<cublasLtHandle_t>(old)); };
  }
  ProductKernel::Addends addends;
  ProductShape shape = node.op == OpKind::MatMul ? matmul_shape(node) : gemm_shape(node);
  shape.dtype = dtype;
  shape.activation = activation_of(node);
  shape.has_sums = has_output(node, 1);
  if (has_input(node, 3)) {
    addends.whole = 3;
    shape.beta = 1;
  }
  const double beta = node.op == OpKind::Gemm ? node.attributes->number("beta") : 1;
  if (has_input(node, 2) && beta != 0) {
    const Shape& c = node.inputs[2].shape;
    const bool is_row = c.rank() >= 1 && c.elements() == shape.columns && c[c.rank() - 1] == shape.columns;
    shape.has_bias = is_row && beta == 1;
    addends.bias = 2;
    if (!shape.has_bias) {
      if (has_input(node, 3)) return then_epilogue(node, options, handle);  // two matrices
      shape.beta = beta;
      (c == node.outputs[0].shape ? addends.whole : addends.bias) = 2;
      addends.is_copied = c != node.outputs[0].shape;
    }
  }
  shape.result = result;
  const auto copy = [&] { return addends.is_copied ? BroadcastCopy(node, 2) : BroadcastCopy(); };
  auto kernel = std::make_unique<ProductKernel>(shape, addends, copy(), options, handle);
  if (!kernel->has_algorithm() && shape.has_bias && !has_input(node, 3)) {
    // The row broadcast into the result, and added as c.
    addends.is_copied = true;
    shape.has_bias = false;
    shape.beta = beta;
    kernel = std::make_unique<ProductKernel>(shape, addends, copy(), options, handle);
  }
  if (kernel->has_algorithm()) return {std::move(kernel), {}};
  return shape.has_sums ? then_sums(node, options, handle) : then_epilogue(node, options, handle);
}

}  // namespace mpc::cuda
