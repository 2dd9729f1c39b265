#pragma once

#include <string>

#include "executor/cuda/code_cache.h"
#include "executor/cuda/cublaslt_api.h"
#include "executor/cuda/library_kernels.h"
#include "executor/cuda/product_shape.h"

namespace mpc::cuda {

/// A product by cuBLASLt, with what its epilogues can do beside it, in one launch for each of the shape's outer
/// batches. The algorithm is the one that was kept for the same product, else the first of the library's heuristics,
/// which is then kept.
class CublasltProduct final : public Kernel {
 public:
  /// Where the operands that are added come from.
  struct Addends {
    static constexpr size_t kNone = ~size_t{0};
    size_t second = 1;       // operand of the node: the second factor
    size_t bias = kNone;     // the same
    size_t whole = kNone;    // the same: c
    size_t sum = 1;          // the same: c of what accumulates
    size_t of_gelu = kNone;  // the same: what Gelu was taken of
    bool is_copied = false;  // c is operand 2, broadcast into the result first
  };

  /// @param cache  where algorithms are kept
  CublasltProduct(const ProductShape& shape, const Addends& addends, BroadcastCopy copy, const MakeOptions& options,
                  const LibraryHandle& handle, const CodeCache& cache);

  /// Does the library have one for all of this?
  bool has_algorithm() const { return has_algorithm_; }

  void run(const Launch& launch) override;
  int64_t workspace_bytes() const override { return workspace_bytes_; }
  std::string_view name() const override { return "cuda:cublaslt"; }

 private:
  void describe(const MakeOptions& options, bool is_aligned);
  bool is_kept(const std::string& key, const CodeCache& cache);
  void choose(bool is_aligned);
  void set_pointer(const void* bias);
  void set_aux(const void* of_gelu);
  template <class T>
  void set(cublasLtMatmulDescAttributes_t which, T value);

  ProductShape shape_;
  Addends addends_;
  BroadcastCopy copy_;
  cublasLtHandle_t handle_;
  CublasltOwned<cublasLtMatmulDesc_t> operation_;
  CublasltOwned<cublasLtMatrixLayout_t> first_, second_, result_;
  cublasLtMatmulAlgo_t algorithm_{};
  int64_t workspace_bytes_ = 0;
  bool has_algorithm_ = false;
};

}  // namespace mpc::cuda
