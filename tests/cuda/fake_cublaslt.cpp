#include "tests/cuda/fake_cublaslt.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "compiler/base/half.h"
#include "compiler/base/random.h"

// Handles of the library are pointers to its own types; here to these.

namespace {

using mpc::test::FakeCublaslt;
using mpc::test::FakeProduct;

FakeCublaslt state;

constexpr size_t kVersion = 999999;
constexpr uint64_t kAlgorithm = 0x414C474F;
constexpr size_t kWorkspace = 4096;
constexpr uint64_t kMostAlignment = 256;

struct Layout {
  cudaDataType_t type;
  int64_t rows;
  int64_t columns;
  int64_t leading;
  int64_t batch = 1;
  int64_t step = 0;
  bool operator==(const Layout&) const = default;
};

struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t first = CUBLAS_OP_N;
  cublasOperation_t second = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  const void* aux = nullptr;
  int64_t aux_leading = 0;
  int64_t aux_step = 0;
};

struct Preference {
  uint64_t most_workspace = 0;
  uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::array<uint32_t, 4> alignments = {kMostAlignment, kMostAlignment, kMostAlignment, kMostAlignment};
};

template <class T, class Handle>
T& as(Handle handle) {
  return *reinterpret_cast<T*>(handle);
}

cublasStatus_t refuse(const std::string& why) {
  if (state.error.empty()) state.error = why;
  return CUBLAS_STATUS_INVALID_VALUE;
}

template <class T>
cublasStatus_t read(T& to, const void* from, size_t bytes) {
  if (bytes != sizeof(T)) return refuse("an attribute of another size");
  std::memcpy(&to, from, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

int64_t bytes_of(cudaDataType_t type) {
  if (type == CUDA_R_64F) return 8;
  return type == CUDA_R_32F ? 4 : 2;
}

double number_at(const void* base, int64_t i, cudaDataType_t type) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(base)[i];
    case CUDA_R_32F:
      return static_cast<double>(static_cast<const float*>(base)[i]);
    case CUDA_R_16F:
      return static_cast<double>(mpc::to_float(static_cast<const mpc::f16*>(base)[i]));
    default:
      return static_cast<double>(mpc::to_float(static_cast<const mpc::bf16*>(base)[i]));
  }
}

void set_number(void* base, int64_t i, cudaDataType_t type, double value) {
  const float narrow = static_cast<float>(value);
  if (type == CUDA_R_64F) static_cast<double*>(base)[i] = value;
  if (type == CUDA_R_32F) static_cast<float*>(base)[i] = narrow;
  if (type == CUDA_R_16F) static_cast<mpc::f16*>(base)[i] = mpc::to_f16(narrow);
  if (type == CUDA_R_16BF) static_cast<mpc::bf16*>(base)[i] = mpc::to_bf16(narrow);
  state.written.push_back(static_cast<std::byte*>(base) + i * bytes_of(type));
}

double number_of(const void* scale, cudaDataType_t type) {
  return number_at(scale, 0, type);
}

/// What the descriptors ask for, or why that is nothing.
struct Problem {
  const Operation& operation;
  const Layout& a;
  const Layout& b;
  const Layout& c;
  const Layout& d;

  bool is_first_transposed() const { return operation.first == CUBLAS_OP_T; }
  bool is_second_transposed() const { return operation.second == CUBLAS_OP_T; }
  int64_t rows() const { return is_first_transposed() ? a.columns : a.rows; }
  int64_t inner() const { return is_first_transposed() ? a.rows : a.columns; }
  int64_t columns() const { return is_second_transposed() ? b.rows : b.columns; }
  bool is_bias_gradient() const { return operation.epilogue == CUBLASLT_EPILOGUE_BGRADA; }
  bool is_gelu_gradient() const { return operation.epilogue == CUBLASLT_EPILOGUE_DGELU; }
  bool has_bias() const { return (operation.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }

  /// Element (i, k) of op(A), and (k, j) of op(B).
  int64_t a_at(int64_t i, int64_t k) const { return is_first_transposed() ? k + i * a.leading : i + k * a.leading; }
  int64_t b_at(int64_t k, int64_t j) const { return is_second_transposed() ? j + k * b.leading : k + j * b.leading; }

  /// The library's table of types: 16 bits may give f32, nothing else gives another type.
  bool is_supported() const { return d.type == a.type || (d.type == CUDA_R_32F && a.type != CUDA_R_64F); }
  std::string wrong() const {
    if (inner() != (is_second_transposed() ? b.columns : b.rows)) return "op(A) and op(B) do not fit each other";
    if (d.rows != rows() || d.columns != columns()) return "D does not fit op(A) op(B)";
    if (c != d) return "C and D differ";
    for (const Layout* layout : {&a, &b, &c, &d}) {
      if (layout->rows < 1 || layout->columns < 1 || layout->leading < layout->rows) return "a leading dimension";
      if (layout->batch != d.batch) return "batches of different length";
    }
    if (d.leading != d.rows || (d.batch > 1 && d.step != d.rows * d.columns)) return "D has gaps";
    const bool is_wide = d.type == CUDA_R_64F;
    if (a.type != b.type) return "A and B of different types";
    if (operation.scale != (is_wide ? CUDA_R_64F : CUDA_R_32F)) return "the type of alpha and beta";
    if ((operation.compute == CUBLAS_COMPUTE_64F) != is_wide) return "the type of the computation";
    if (operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a.type != CUDA_R_32F) return "TF32 of other operands";
    if ((has_bias() || is_bias_gradient()) && operation.bias == nullptr) return "no pointer to the bias";
    if (is_bias_gradient() && d.batch != 1) return "a bias gradient of a batch";
    if (is_gelu_gradient()) {
      if (operation.aux == nullptr) return "no pointer to what Gelu was taken of";
      if (operation.aux_leading != d.rows) return "what Gelu was taken of is not laid out as D";
      if (d.batch > 1 && operation.aux_step != d.step) return "what Gelu was taken of has other batches than D";
    }
    return "";
  }
};

/// The alignment of a pointer as far as it counts.
uint64_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return std::min(kMostAlignment, uint64_t{1} << std::countr_zero(address | kMostAlignment));
}

/// An algorithm stands for all that it was chosen for.
cublasLtMatmulAlgo_t algorithm_for(const Problem& p, uint64_t alignment) {
  cublasLtMatmulAlgo_t result{};
  uint64_t hash = kAlgorithm;
  const auto add = [&](auto value) { hash = mpc::mix_bits(hash ^ static_cast<uint64_t>(value)); };
  for (const Layout* layout : {&p.a, &p.b, &p.c, &p.d}) {
    for (const int64_t value : {static_cast<int64_t>(layout->type), layout->rows, layout->columns, layout->leading,
                                layout->batch, layout->step}) {
      add(value);
    }
  }
  for (const int value : {static_cast<int>(p.operation.compute), static_cast<int>(p.operation.first),
                          static_cast<int>(p.operation.second), static_cast<int>(p.operation.epilogue)}) {
    add(value);
  }
  result.data[0] = hash;
  result.data[1] = alignment;
  result.data[2] = p.operation.bias == nullptr ? 1 : alignment_of(p.operation.bias);
  result.data[3] = p.operation.aux == nullptr ? 1 : alignment_of(p.operation.aux);
  return result;
}

double gelu_gradient(double x) {
  const double kRoot = std::sqrt(2.0 / 3.14159265358979323846);
  const double t = std::tanh(kRoot * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kRoot * (1 + 3 * 0.044715 * x * x);
}

double activated(double x, cublasLtEpilogue_t epilogue) {
  if (epilogue == CUBLASLT_EPILOGUE_DGELU) return x;
  if ((epilogue & CUBLASLT_EPILOGUE_RELU) != 0) return std::max(x, 0.0);
  if ((epilogue & CUBLASLT_EPILOGUE_GELU) == 0) return x;
  const double kRoot = std::sqrt(2.0 / 3.14159265358979323846);
  return 0.5 * x * (1 + std::tanh(kRoot * (x + 0.044715 * x * x * x)));
}

/// Calls f(i) for all i below count, or for state.samples of them.
template <class F>
void for_some(int64_t count, F&& f) {
  if (state.samples == 0 || state.samples >= count) {
    for (int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  std::set<int64_t> chosen = {0, count - 1};
  for (uint64_t n = 0; static_cast<int64_t>(chosen.size()) < state.samples; ++n) {
    chosen.insert(
        static_cast<int64_t>(mpc::mix_bits(n + (state.products.size() << 32)) % static_cast<uint64_t>(count)));
  }
  for (const int64_t i : chosen) f(i);
}

template <class T>
cublasStatus_t make(T** handle, auto value) {
  *handle = reinterpret_cast<T*>(new decltype(value)(value));
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

FakeCublaslt* mpc_fake_cublaslt() {
  return &state;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(&state);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t) {
  return state.error.c_str();
}
size_t cublasLtGetVersion() {
  return kVersion;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return make(handle, Operation{.compute = compute, .scale = scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t handle) {
  delete &as<Operation>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t bytes) {
  Operation& operation = as<Operation>(handle);
  switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return read(operation.first, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return read(operation.second, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return read(operation.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return read(operation.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return read(operation.aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return read(operation.aux_leading, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
      return read(operation.aux_step, value, bytes);
    default:
      return refuse("an attribute of a product that nothing is known of");
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* handle, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  return make(handle, Layout{.type = type,
                             .rows = static_cast<int64_t>(rows),
                             .columns = static_cast<int64_t>(columns),
                             .leading = leading});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t handle) {
  delete &as<Layout>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle, cublasLtMatrixLayoutAttribute_t which,
                                                const void* value, size_t bytes) {
  Layout& layout = as<Layout>(handle);
  if (which == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) return read(layout.step, value, bytes);
  if (which != CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return refuse("an attribute of a matrix that nothing is known of");
  int32_t batch = 0;
  const cublasStatus_t status = read(batch, value, bytes);
  layout.batch = batch;
  return status;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* handle) {
  return make(handle, Preference{});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t handle) {
  delete &as<Preference>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t which, const void* value,
                                                    size_t bytes) {
  Preference& preference = as<Preference>(handle);
  switch (which) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return read(preference.most_workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return read(preference.schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return read(preference.alignments[static_cast<size_t>(which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)], value,
                  bytes);
    default:
      return refuse("an attribute of a preference that nothing is known of");
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wanted, int,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  ++state.heuristics;
  *count = 0;
  const Problem problem{as<Operation>(operation), as<Layout>(a), as<Layout>(b), as<Layout>(c), as<Layout>(d)};
  const Preference& preference = as<Preference>(wanted);
  if (const std::string wrong = problem.wrong(); !wrong.empty()) return refuse(wrong);
  if (preference.most_workspace < kWorkspace) return refuse("no workspace");
  // Sums that are added in the type of the result, or in any order, are not reproducible enough.
  if (preference.schemes != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return refuse("the schemes of reductions");
  if (!problem.is_supported()) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (state.refused_epilogues.contains(problem.operation.epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  // The library's header: the leading dimension must be divisible by 8.
  constexpr int64_t kAuxColumns = 8;
  if (problem.is_gelu_gradient() && problem.operation.aux_leading % kAuxColumns != 0) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  // f64 has no epilogues.
  if (problem.a.type == CUDA_R_64F && problem.operation.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  results[0] = {};
  results[0].algo = algorithm_for(problem, *std::ranges::min_element(preference.alignments));
  results[0].workspaceSize = kWorkspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  const Problem problem{as<Operation>(operation), as<Layout>(a), as<Layout>(b), as<Layout>(c), as<Layout>(d)};
  if (algorithm->data[0] != algorithm_for(problem, 1).data[0]) return CUBLAS_STATUS_INVALID_VALUE;
  *result = {};
  result->workspaceSize = kWorkspace;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  const Problem p{as<Operation>(operation), as<Layout>(a_layout), as<Layout>(b_layout), as<Layout>(c_layout),
                  as<Layout>(d_layout)};
  if (const std::string wrong = p.wrong(); !wrong.empty()) return refuse(wrong);
  if (!p.is_supported()) return refuse("types that the library does not have");
  if (algorithm->data[0] != algorithm_for(p, 1).data[0]) return refuse("an algorithm for another product");
  if (workspace == nullptr || workspace_bytes < kWorkspace) return refuse("the workspace of the algorithm");
  for (const void* pointer : {a, b, c, static_cast<const void*>(d)}) {
    if (alignment_of(pointer) < algorithm->data[1]) return refuse("an operand is not as aligned as was said");
  }
  if (p.operation.bias != nullptr && alignment_of(p.operation.bias) < algorithm->data[2]) {
    return refuse("the bias is not as aligned as was said");
  }
  if (p.operation.aux != nullptr && alignment_of(p.operation.aux) < algorithm->data[3]) {
    return refuse("what Gelu was taken of is not as aligned as was said");
  }
  const cudaDataType_t type = p.d.type;
  state.products.push_back({p.operation.compute, p.operation.scale, p.operation.epilogue, p.d.rows, p.d.columns,
                            p.inner(), p.d.batch, static_cast<const std::byte*>(d),
                            p.d.batch * p.d.rows * p.d.columns * bytes_of(type)});
  const double by = number_of(alpha, p.operation.scale);
  const double add = number_of(beta, p.operation.scale);
  for_some(p.d.batch * p.d.rows * p.d.columns, [&](int64_t at) {
    const int64_t i = at % p.d.rows;
    const int64_t j = at / p.d.rows % p.d.columns;
    const int64_t n = at / p.d.rows / p.d.columns;
    double sum = 0;
    for (int64_t k = 0; k < p.inner(); ++k) {
      sum += number_at(a, n * p.a.step + p.a_at(i, k), p.a.type) * number_at(b, n * p.b.step + p.b_at(k, j), p.b.type);
    }
    double value = by * sum;
    if (add != 0) value += add * number_at(c, at, type);  // C may hold anything when beta is 0
    if (p.is_gelu_gradient()) value *= gelu_gradient(number_at(p.operation.aux, at, type));
    if (p.has_bias()) value += number_at(p.operation.bias, i, type);
    set_number(d, at, type, activated(value, p.operation.epilogue));
  });
  if (!p.is_bias_gradient()) return CUBLAS_STATUS_SUCCESS;
  for_some(p.d.rows, [&](int64_t i) {
    double sum = 0;
    for (int64_t k = 0; k < p.inner(); ++k) sum += number_at(a, p.a_at(i, k), p.a.type);
    set_number(const_cast<void*>(p.operation.bias), i, type, sum);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
#pragma GCC visibility pop
