// cuBLASLt is column-major: a row-major matrix is its transpose there, so y = a b is asked for as y' = b' a'.

#include "executor/cuda/cublaslt_product.h"

#include <cstring>

#include "executor/cuda/data.h"

namespace mpc::cuda {
namespace {

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
CublasltOwned<cublasLtMatrixLayout_t> layout(DType dtype, int64_t rows, int64_t columns, int64_t leading, int64_t count,
                                             int64_t step) {
  cublasLtMatrixLayout_t made = nullptr;
  MPC_LT(cublasLtMatrixLayoutCreate(&made, data_type(dtype), static_cast<uint64_t>(rows),
                                    static_cast<uint64_t>(columns), leading));
  CublasltOwned<cublasLtMatrixLayout_t> result(made, cublaslt_api().cublasLtMatrixLayoutDestroy);
  if (count > 1) {
    const int32_t batch = static_cast<int32_t>(count);
    MPC_LT(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
    MPC_LT(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)));
  }
  return result;
}

/// What the library does with a product before it is stored. GELU is the approximation by tanh.
cublasLtEpilogue_t epilogue_of(const ProductShape& shape) {
  if (shape.has_sums) return CUBLASLT_EPILOGUE_BGRADA;  // the library's first operand is b
  switch (shape.activation) {
    case ProductShape::Activation::relu:
      return shape.has_bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case ProductShape::Activation::gelu_gradient:
      return CUBLASLT_EPILOGUE_DGELU;
    case ProductShape::Activation::gelu:
      return shape.has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    default:
      return shape.has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
}

constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;
// Only schemes that add the parts of a split sum in a fixed order.
constexpr uint32_t kSchemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
constexpr uint32_t kWholeAlignment = 256;

/// All that the choice of an algorithm depends on.
std::string key_of(const ProductShape& shape, const MakeOptions& options, bool is_aligned, const std::string& gpu) {
  std::string key = "cublaslt " + std::to_string(cublaslt_api().cublasLtGetVersion()) + "\n" + gpu + "\n";
  for (const int64_t number :
       {static_cast<int64_t>(shape.dtype), static_cast<int64_t>(shape.result), int64_t{options.allows_tf32}, shape.rows,
        shape.columns, shape.inner, int64_t{shape.trans_a}, int64_t{shape.trans_b}, shape.count, shape.a_step,
        shape.b_step, static_cast<int64_t>(epilogue_of(shape)), int64_t{is_aligned},
        static_cast<int64_t>(kMostWorkspace), int64_t{kSchemes}}) {
    key += std::to_string(number) + " ";
  }
  return key;
}

}  // namespace

CublasltProduct::CublasltProduct(const ProductShape& shape, const Addends& addends, BroadcastCopy copy,
                                 const MakeOptions& options, const LibraryHandle& handle, const CodeCache& cache)
    : shape_(shape), addends_(addends), copy_(std::move(copy)), handle_(static_cast<cublasLtHandle_t>(handle.handle)) {
  // Operands start at multiples of 256 bytes, except within an outer batch, which starts at any element.
  const bool is_aligned = options.is_aligned && shape.outer.size() == 1;
  describe(options, is_aligned);
  const std::string key = key_of(shape, options, is_aligned, handle.gpu);
  if (is_kept(key, cache)) return;
  choose(is_aligned);
  if (!has_algorithm_) return;
  cache.keep(key, {reinterpret_cast<const char*>(&algorithm_), sizeof(algorithm_)});
}

template <class T>
void CublasltProduct::set(cublasLtMatmulDescAttributes_t which, T value) {
  MPC_LT(cublasLtMatmulDescSetAttribute(operation_.get(), which, &value, sizeof(value)));
}

void CublasltProduct::set_pointer(const void* bias) {
  set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
}

void CublasltProduct::set_aux(const void* of_gelu) {
  set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, of_gelu);
}

void CublasltProduct::describe(const MakeOptions& options, bool is_aligned) {
  cublasLtMatmulDesc_t made = nullptr;
  MPC_LT(cublasLtMatmulDescCreate(&made, compute_type(shape_.dtype, options.allows_tf32),
                                  shape_.dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F));
  operation_ = CublasltOwned<cublasLtMatmulDesc_t>(made, cublaslt_api().cublasLtMatmulDescDestroy);
  // Column-major: the first operand is b, the second a.
  const auto operation = [](bool is_transposed) { return is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(CUBLASLT_MATMUL_DESC_TRANSA, operation(shape_.trans_b));
  set(CUBLASLT_MATMUL_DESC_TRANSB, operation(shape_.trans_a));
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(shape_));
  const ProductShape& s = shape_;
  // The heuristic asks for pointers, of which it looks at the alignment only.
  constexpr uintptr_t kAligned = 4096;
  const uintptr_t element = static_cast<uintptr_t>(dtype_bytes(s.result));
  const auto* pointer = reinterpret_cast<const void*>(is_aligned ? kAligned : kAligned + element);
  if (s.has_bias || s.has_sums) set_pointer(pointer);
  if (s.activation == ProductShape::Activation::gelu_gradient) {
    // Of the type and the layout of the result.
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.columns);
    if (s.count > 1) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, s.rows * s.columns);
    set_aux(pointer);
  }
  const int64_t b_columns = s.trans_b ? s.inner : s.columns;  // of the matrix as it is stored
  const int64_t b_rows = s.trans_b ? s.columns : s.inner;
  const int64_t a_columns = s.trans_a ? s.rows : s.inner;
  const int64_t a_rows = s.trans_a ? s.inner : s.rows;
  first_ = layout(s.dtype, b_columns, b_rows, b_columns, s.count, s.b_step);
  second_ = layout(s.dtype, a_columns, a_rows, a_columns, s.count, s.a_step);
  result_ = layout(s.result, s.columns, s.rows, s.columns, s.count, s.rows * s.columns);
}

/// The library says that an algorithm may be written down and restored for the same version of it.
bool CublasltProduct::is_kept(const std::string& key, const CodeCache& cache) {
  const std::optional<std::string> kept = cache.find(key);
  if (!kept || kept->size() != sizeof(algorithm_)) return false;
  cublasLtMatmulAlgo_t algorithm{};
  std::memcpy(&algorithm, kept->data(), sizeof(algorithm));
  cublasLtMatmulHeuristicResult_t found{};
  const cublasStatus_t status = cublaslt_api().cublasLtMatmulAlgoCheck(
      handle_, operation_.get(), first_.get(), second_.get(), result_.get(), result_.get(), &algorithm, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found.workspaceSize > kMostWorkspace) return false;
  algorithm_ = algorithm;
  workspace_bytes_ = static_cast<int64_t>(found.workspaceSize);
  has_algorithm_ = true;
  return true;
}

void CublasltProduct::choose(bool is_aligned) {
  cublasLtMatmulPreference_t made = nullptr;
  MPC_LT(cublasLtMatmulPreferenceCreate(&made));
  const CublasltOwned<cublasLtMatmulPreference_t> preference(made, cublaslt_api().cublasLtMatmulPreferenceDestroy);
  MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kMostWorkspace,
                                              sizeof(kMostWorkspace)));
  MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &kSchemes,
                                              sizeof(kSchemes)));
  const uint32_t alignment = is_aligned ? kWholeAlignment : static_cast<uint32_t>(dtype_bytes(shape_.dtype));
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    MPC_LT(cublasLtMatmulPreferenceSetAttribute(made, which, &alignment, sizeof(alignment)));
  }
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublaslt_api().cublasLtMatmulAlgoGetHeuristic(
      handle_, operation_.get(), first_.get(), second_.get(), result_.get(), result_.get(), made, 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0 || found.state != CUBLAS_STATUS_SUCCESS) return;
  algorithm_ = found.algo;
  workspace_bytes_ = static_cast<int64_t>(found.workspaceSize);
  has_algorithm_ = true;
}

void CublasltProduct::run(const Launch& launch) {
  const Scale alpha(shape_.alpha, shape_.dtype);
  const bool adds_to_sum = shape_.accumulates && launch.microbatch > 0;
  const Scale beta(adds_to_sum ? 1 : shape_.beta, shape_.dtype);
  const size_t whole = adds_to_sum ? addends_.sum : addends_.whole;
  const auto at = [](const void* base, int64_t elements, DType dtype) {
    return static_cast<const std::byte*>(base) + elements * dtype_bytes(dtype);
  };
  if (addends_.is_copied) copy_.run(launch.stream, launch.inputs[2], launch.outputs[0]);
  if (shape_.has_bias) set_pointer(launch.inputs[addends_.bias]);
  if (shape_.has_sums) set_pointer(launch.outputs[1]);
  for (const ProductShape::Offsets& offsets : shape_.outer) {
    std::byte* y = static_cast<std::byte*>(launch.outputs[0]) + offsets.y * dtype_bytes(shape_.result);
    const void* c = whole == Addends::kNone ? y : at(launch.inputs[whole], offsets.y, shape_.result);
    if (addends_.of_gelu != Addends::kNone) set_aux(at(launch.inputs[addends_.of_gelu], offsets.y, shape_.result));
    MPC_LT(cublasLtMatmul(handle_, operation_.get(), alpha.data(),
                          at(launch.inputs[addends_.second], offsets.b, shape_.dtype), first_.get(),
                          at(launch.inputs[0], offsets.a, shape_.dtype), second_.get(), beta.data(), c, result_.get(),
                          y, result_.get(), &algorithm_, launch.workspace, static_cast<size_t>(workspace_bytes_),
                          static_cast<cudaStream_t>(launch.stream.handle)));
  }
}

}  // namespace mpc::cuda
