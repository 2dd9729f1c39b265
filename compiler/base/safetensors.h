#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/file.h"
#include "compiler/base/shape.h"

// safetensors: 8 bytes of length, a JSON header, then the tensors' bytes, little-endian and row-major.
// Source: https://github.com/huggingface/safetensors, "Format". Read strictly (no holes, nothing unknown).

namespace mpc {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  int64_t offset = 0;  // of the first byte, counted from the end of the header
  int64_t bytes() const { return byte_size(shape, dtype); }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;        // in order of offsets
  std::map<std::string, std::string> metadata;  // "__metadata__"
};

/// Parses the JSON header of a file whose tensors take `data_bytes`. Offsets are contiguous from 0 and cover the data.
/// @throws Error(M065) naming the tensor; Error(M046) on a rank above kMaxRank; Error(M051) beyond a limit of JSON.
SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes, const std::string& where);

/// A safetensors file that is open for reading; tensors are read when asked for. Thread-safe.
class SafetensorsFile {
 public:
  /// @throws as InputFile and parse_safetensors_header; Error(M051) when the header is above
  /// kMaxSafetensorsHeaderBytes.
  explicit SafetensorsFile(const std::string& path);

  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::string& path() const { return file_.path(); }
  /// The tensor `name`, or null. O(log n).
  const SafetensorsEntry* find(std::string_view name) const;
  /// Fills `out` with bytes of a tensor, from byte `offset` of it on. @pre they lie within the tensor.
  void read(const SafetensorsEntry& entry, int64_t offset, std::span<std::byte> out) const;

 private:
  InputFile file_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> index_;
  int64_t data_offset_ = 0;
};

/// Writes a safetensors file from front to back; memory stays bounded by the header. The file appears with commit().
class SafetensorsWriter {
 public:
  /// The tensors that will follow, in this order; their `offset` is not looked at. Data starts at a multiple of 8
  /// bytes; sort by falling element size to keep every tensor aligned. @throws Error(M065) on a name that cannot be
  /// written (repeated, "__metadata__", not UTF-8); as AtomicFile.
  SafetensorsWriter(const std::string& path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata = {});

  /// The next bytes of the tensors, one tensor after the other. @throws as AtomicFile.
  void append(std::span<const std::byte> bytes);
  /// @pre exactly the bytes of all tensors were appended. @throws as AtomicFile.
  void commit();

 private:
  AtomicFile file_;
  int64_t missing_bytes_ = 0;
};

}  // namespace mpc
