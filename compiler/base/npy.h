#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/file.h"
#include "compiler/base/literal.h"

// NumPy's .npy files, format versions 1 to 3. Little-endian data of mpc's dtypes; bf16 is "V2", as ml_dtypes writes it.
// Source: numpy.lib.format.

namespace mpc {

inline constexpr int64_t kMaxNpyHeaderBytes = 64 << 10;

/// What the header of a .npy file says, checked against the size of the file.
struct NpyHeader {
  DType dtype = DType::f32;
  Shape shape;
  bool is_column_major = false;  // "fortran_order"
  int64_t data_offset = 0;
};

/// Reads the header from the first bytes of a file (all of them, or at least kMaxNpyHeaderBytes + 12).
/// @throws Error(M065) when malformed, of a type mpc has no tensors of, or when `file_bytes` differs from what shape
/// and dtype need; Error(M051) when the header is larger than kMaxNpyHeaderBytes; Error(M046) on a rank above kMaxRank.
NpyHeader parse_npy_header(std::span<const std::byte> front, int64_t file_bytes, const std::string& where);
NpyHeader read_npy_header(const InputFile& file);

/// The array of a .npy file, row-major (column-major files are transposed). Allocates no more than the file holds.
/// @throws as parse_npy_header; Error(M065) on a bool that is neither 0 nor 1.
Literal parse_npy(std::span<const std::byte> bytes, const std::string& where);
Literal read_npy(const std::string& path);

/// The bytes of a version 1.0 file before its data; the data follows at a multiple of 64 bytes.
std::string npy_header(DType dtype, const Shape& shape);
/// Writes a .npy file. @pre data.size() == byte_size(shape, dtype). @throws as AtomicFile.
void write_npy(const std::string& path, DType dtype, const Shape& shape, std::span<const std::byte> data);
void write_npy(const std::string& path, const Literal& literal);

}  // namespace mpc
