#pragma once

#include <cublasLt.h>

#include <utility>

#include "executor/cuda/libraries.h"

namespace mpc::cuda {

#define MPC_CUBLASLT_FUNCTIONS(X)         \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtGetStatusString)              \
  X(cublasLtGetVersion)                   \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulAlgoCheck)              \
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
MPC_LIBRARY_API(CublasltApi, MPC_CUBLASLT_FUNCTIONS)

/// @throws DeviceError when the library lacks one of the functions. @pre the library is there.
const CublasltApi& cublaslt_api();

/// @throws DeviceError for a status that is not success, with the call and the library's text.
void check_cublaslt(cublasStatus_t status, const char* call, const char* file, int line);
#define MPC_LT(call) ::mpc::cuda::check_cublaslt(::mpc::cuda::cublaslt_api().call, #call, __FILE__, __LINE__)

/// A descriptor, destroyed with the object.
template <class T>
class CublasltOwned {
 public:
  CublasltOwned() = default;
  CublasltOwned(T value, cublasStatus_t (*destroy)(T)) : value_(value), destroy_(destroy) {}
  ~CublasltOwned() {
    if (value_ != nullptr) destroy_(value_);
  }
  CublasltOwned(CublasltOwned&& other) noexcept
      : value_(std::exchange(other.value_, nullptr)), destroy_(other.destroy_) {}
  CublasltOwned& operator=(CublasltOwned&& other) noexcept {
    std::swap(value_, other.value_);
    std::swap(destroy_, other.destroy_);
    return *this;
  }
  T get() const { return value_; }

 private:
  T value_ = nullptr;
  cublasStatus_t (*destroy_)(T) = nullptr;
};

}  // namespace mpc::cuda
