#include "executor/cuda/cublaslt_api.h"

#include "executor/cuda/error.h"

namespace mpc::cuda {

const CublasltApi& cublaslt_api() {
  static const CublasltApi kApi(library(LibraryName::cublaslt));
  return kApi;
}

void check_cublaslt(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_library("cuBLASLt", static_cast<int>(status), cublaslt_api().cublasLtGetStatusString(status), call, file, line);
}

}  // namespace mpc::cuda
