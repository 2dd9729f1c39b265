#include "compiler/base/idx.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/error.h"
#include "compiler/base/gzip.h"
#include "compiler/base/text.h"

namespace mpc {
namespace {

constexpr size_t kFixedBytes = 4;
constexpr size_t kDimBytes = 4;
// A compressed file may be a thousandth of its content: beyond this, whoever wants it unpacks it knowingly.
constexpr int64_t kMostUnpackedBytes = int64_t{8} << 30;

std::optional<DType> dtype_of(int code) {
  switch (code) {
    case 0x08:
      return DType::u8;
    case 0x09:
      return DType::i8;
    case 0x0B:
      return DType::i16;
    case 0x0C:
      return DType::i32;
    case 0x0D:
      return DType::f32;
    case 0x0E:
      return DType::f64;
    default:
      return std::nullopt;
  }
}

void swap_bytes(std::vector<std::byte>& data, int64_t element_bytes) {
  for (auto at = data.begin(); at != data.end(); at += element_bytes) std::reverse(at, at + element_bytes);
}

// What the front of a file says; its size is not looked at.
IdxHeader parse_front(std::span<const std::byte> front, const std::string& where) {
  const auto byte = [&](size_t i) { return static_cast<int>(front[i]); };
  if (front.size() < kFixedBytes || byte(0) != 0 || byte(1) != 0)
    throw Error(ErrorId::M065, where, "is not an IDX file");
  IdxHeader header;
  const auto dtype = dtype_of(byte(2));
  if (!dtype) throw Error(ErrorId::M065, where, fmt::format("has the unknown IDX element type 0x{:02x}", byte(2)));
  header.dtype = *dtype;
  const size_t rank = static_cast<size_t>(byte(3));
  if (rank > kMaxRank)
    throw Error(ErrorId::M046, where, fmt::format("has rank {}, mpc supports up to {}", rank, kMaxRank));
  if (front.size() < kFixedBytes + rank * kDimBytes) throw Error(ErrorId::M065, where, "ends within the header");
  std::vector<int64_t> dims(rank, 0);
  for (size_t i = 0; i < rank * kDimBytes; ++i) dims[i / kDimBytes] = dims[i / kDimBytes] * 256 + byte(kFixedBytes + i);
  const auto shape = checked_shape(dims, header.dtype);
  if (!shape) throw Error(ErrorId::M065, where, "has a shape that is too large");
  header.shape = *shape;
  header.data_offset = static_cast<int64_t>(kFixedBytes + rank * kDimBytes);
  return header;
}

bool is_gzip(std::span<const std::byte> front) {
  return front.size() >= 2 && front[0] == std::byte{0x1F} && front[1] == std::byte{0x8B};
}

Literal read_packed_idx(const InputFile& file) {
  const std::string where = file.path() + " (unpacked)";
  GzipReader reader(file);
  std::array<std::byte, kFixedBytes + kMaxRank * kDimBytes> front{};
  reader.read(std::span(front).first(kFixedBytes));
  const size_t rank = std::min<size_t>(static_cast<size_t>(front[3]), kMaxRank + 1);
  // A rank above kMaxRank is refused by its number alone, and what is no IDX file by its first bytes.
  const bool is_idx = front[0] == std::byte{0} && front[1] == std::byte{0} && rank <= kMaxRank;
  const size_t front_bytes = kFixedBytes + (is_idx ? rank * kDimBytes : 0);
  reader.read(std::span(front).subspan(kFixedBytes, front_bytes - kFixedBytes));
  const IdxHeader header = parse_front(std::span(front).first(front_bytes), where);
  const int64_t data_bytes = byte_size(header.shape, header.dtype);
  if (data_bytes > most_unpacked_bytes(file.bytes())) {
    throw Error(ErrorId::M065, where,
                fmt::format("{} needs {} bytes, more than {} compressed ones can hold",
                            type_text(header.dtype, header.shape), data_bytes, file.bytes()));
  }
  if (data_bytes > kMostUnpackedBytes) {
    throw Error(ErrorId::M051, where,
                fmt::format("has {} of data, a compressed file may have {}", bytes_text(data_bytes),
                            bytes_text(kMostUnpackedBytes)),
                "unpack it with gunzip first");
  }
  std::vector<std::byte> data(static_cast<size_t>(data_bytes));
  reader.read(data);
  reader.require_end();
  swap_bytes(data, dtype_bytes(header.dtype));
  return Literal(header.dtype, header.shape, std::move(data));
}

}  // namespace

IdxHeader parse_idx_header(std::span<const std::byte> front, int64_t file_bytes, const std::string& where) {
  const IdxHeader header = parse_front(front, where);
  const int64_t data_bytes = file_bytes - header.data_offset;
  if (data_bytes != byte_size(header.shape, header.dtype)) {
    throw Error(ErrorId::M065, where,
                fmt::format("has {} bytes of data, {} needs {}", data_bytes, type_text(header.dtype, header.shape),
                            byte_size(header.shape, header.dtype)));
  }
  return header;
}

Literal parse_idx(std::span<const std::byte> bytes, const std::string& where) {
  const IdxHeader header = parse_idx_header(bytes, static_cast<int64_t>(bytes.size()), where);
  const auto elements = bytes.subspan(static_cast<size_t>(header.data_offset));
  std::vector<std::byte> data(elements.begin(), elements.end());
  swap_bytes(data, dtype_bytes(header.dtype));
  return Literal(header.dtype, header.shape, std::move(data));
}

Literal read_idx(const std::string& path) {
  const InputFile file(path);
  std::vector<std::byte> front(
      static_cast<size_t>(std::min<int64_t>(file.bytes(), kFixedBytes + kMaxRank * kDimBytes)));
  file.read(0, front);
  if (is_gzip(front)) return read_packed_idx(file);
  const IdxHeader header = parse_idx_header(front, file.bytes(), path);
  std::vector<std::byte> data(static_cast<size_t>(byte_size(header.shape, header.dtype)));
  file.read(header.data_offset, data);
  swap_bytes(data, dtype_bytes(header.dtype));
  return Literal(header.dtype, header.shape, std::move(data));
}

}  // namespace mpc
