#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "compiler/base/dtype.h"

namespace mpc {

/// Where the content of parameters is read from: a model file with its external data, a checkpoint, memory. Reads only
/// what is asked for. Thread-safe.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Reads out.size() bytes of tensor `name` (an initializer's name), from byte `offset` on, little-endian and
  /// row-major.
  /// @throws Error(M010, M023, M024) when it is not there or shorter.
  virtual void read(const std::string& name, int64_t offset, std::span<std::byte> out) const = 0;
  /// The type of the tensor's elements. @throws Error(M023) when it is not there.
  virtual DType dtype(const std::string& name) const = 0;
};

}  // namespace mpc
