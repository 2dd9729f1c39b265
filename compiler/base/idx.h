#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "compiler/base/file.h"
#include "compiler/base/literal.h"

// IDX files, the format of MNIST and Fashion-MNIST: two zero bytes, a type, a rank, big-endian dimensions and elements.
// Source: http://yann.lecun.com/exdb/mnist/. MNIST is published compressed with gzip, and is read so.

namespace mpc {

/// What the header of an IDX file says, checked against the size of the file.
struct IdxHeader {
  DType dtype = DType::u8;
  Shape shape;
  int64_t data_offset = 0;
};

/// @throws Error(M065) when malformed or when `file_bytes` differs from what shape and dtype need; Error(M046) on a
/// rank above kMaxRank.
IdxHeader parse_idx_header(std::span<const std::byte> front, int64_t file_bytes, const std::string& where);

/// The array of an IDX file, in this machine's byte order. Allocates no more than the file holds. @throws as
/// parse_idx_header.
Literal parse_idx(std::span<const std::byte> bytes, const std::string& where);
/// The same for a file, which may be compressed with gzip: then it unpacks to what its header says and to no byte more.
/// @throws also Error(M051) for a compressed file of more than 8 GiB.
Literal read_idx(const std::string& path);

}  // namespace mpc
