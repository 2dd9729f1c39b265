#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

// A cuBLASLt that is not there: a library of the same name and functions which computes on the host what its header
// says that the descriptors mean, column by column, in f64, slowly. What cannot be meant, it refuses, and says why.

namespace mpc::test {

/// One call of cublasLtMatmul.
struct FakeProduct {
  int compute_type = 0;
  int scale_type = 0;
  int epilogue = 0;
  int64_t rows = 0;  // of D, column-major
  int64_t columns = 0;
  int64_t inner = 0;
  int64_t batch = 0;
  const std::byte* d = nullptr;  // D lies in [d, d + bytes), without gaps
  int64_t bytes = 0;
};

struct FakeCublaslt {
  // How it behaves.
  int64_t samples = 0;  // computes no more elements than that of each result, chosen at random; 0: all
  std::set<int> refused_epilogues = {};
  // What it was asked for.
  int heuristics = 0;
  std::vector<FakeProduct> products = {};
  std::vector<const std::byte*> written = {};  // the elements of D and of bias gradients that were computed
  std::string error = {};                      // the first call that was refused
};

/// The library's state, by its symbol "mpc_fake_cublaslt".
using FakeCublasltEntry = FakeCublaslt* (*)();

}  // namespace mpc::test
