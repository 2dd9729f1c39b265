#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "compiler/base/file.h"

struct z_stream_s;  // zlib's z_stream

namespace mpc {

/// The most that a file of `packed_bytes` can unpack to: DEFLATE's densest code gives 258 bytes for two bits (RFC
/// 1951).
int64_t most_unpacked_bytes(int64_t packed_bytes);

/// Unpacks a gzip file of one member (RFC 1952) from front to end, by zlib. Nothing is unpacked that is not asked for,
/// so a small file that would unpack to a large one takes no more memory than its reader gives it.
class GzipReader {
 public:
  /// @param file  outlives the reader.
  explicit GzipReader(const InputFile& file);
  ~GzipReader();
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  /// Fills `out` with the next bytes. @throws Error(M065) when the stream is damaged or ends before.
  void read(std::span<std::byte> out);
  /// @throws Error(M065) when the stream goes on, its checksum is wrong, or other bytes follow it in the file.
  void require_end();

 private:
  /// Unpacks at most `out.size()` bytes. @return how many: fewer only at the end of the stream.
  size_t unpack(std::span<std::byte> out);

  const InputFile& file_;
  int64_t offset_ = 0;  // of what was not read yet
  std::vector<std::byte> packed_;
  std::unique_ptr<z_stream_s> stream_;
  bool has_ended_ = false;
};

}  // namespace mpc
