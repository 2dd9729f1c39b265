#include "compiler/base/gzip.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>
#include <zlib.h>

#include "compiler/base/error.h"

namespace mpc {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 16;
constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib: the header and checksum of gzip, no other

}  // namespace

int64_t most_unpacked_bytes(int64_t packed_bytes) {
  constexpr int64_t kDensest = 1032;  // 258 bytes for two bits
  return packed_bytes > std::numeric_limits<int64_t>::max() / kDensest ? std::numeric_limits<int64_t>::max()
                                                                       : packed_bytes * kDensest;
}

GzipReader::GzipReader(const InputFile& file)
    : file_(file), packed_(kChunkBytes), stream_(std::make_unique<z_stream>()) {
  if (inflateInit2(stream_.get(), kGzipOnly) != Z_OK)
    throw Error(ErrorId::M070, file.path(), "cannot be unpacked: the host's memory is used up");
}

GzipReader::~GzipReader() {
  inflateEnd(stream_.get());
}

size_t GzipReader::unpack(std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size() && !has_ended_) {
    if (stream_->avail_in == 0 && offset_ < file_.bytes()) {
      const size_t count =
          static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(kChunkBytes), file_.bytes() - offset_));
      file_.read(offset_, std::span(packed_).first(count));
      offset_ += static_cast<int64_t>(count);
      stream_->next_in = reinterpret_cast<Bytef*>(packed_.data());
      stream_->avail_in = static_cast<uInt>(count);
    }
    const size_t wanted = std::min(out.size() - done, kChunkBytes);
    stream_->next_out = reinterpret_cast<Bytef*>(out.data() + done);
    stream_->avail_out = static_cast<uInt>(wanted);
    const int code = inflate(stream_.get(), Z_NO_FLUSH);
    done += wanted - stream_->avail_out;
    if (code == Z_STREAM_END) {
      has_ended_ = true;
    } else if (code == Z_MEM_ERROR) {
      throw Error(ErrorId::M070, file_.path(), "cannot be unpacked: the host's memory is used up");
    } else if (code == Z_BUF_ERROR && stream_->avail_in == 0 && offset_ >= file_.bytes()) {
      throw Error(ErrorId::M065, file_.path(), "its gzip stream ends too early");
    } else if (code != Z_OK && code != Z_BUF_ERROR) {
      throw Error(
          ErrorId::M065, file_.path(),
          fmt::format("its gzip stream is damaged ({})", stream_->msg != nullptr ? stream_->msg : "no reason given"));
    }
  }
  return done;
}

void GzipReader::read(std::span<std::byte> out) {
  const size_t done = unpack(out);
  if (done < out.size()) {
    throw Error(ErrorId::M065, file_.path(),
                fmt::format("unpacks to {} bytes fewer than its header says", out.size() - done));
  }
}

void GzipReader::require_end() {
  std::byte more{};
  if (unpack({&more, 1}) > 0) throw Error(ErrorId::M065, file_.path(), "unpacks to more than its header says");
  if (stream_->avail_in > 0 || offset_ < file_.bytes())
    throw Error(ErrorId::M065, file_.path(), "has bytes behind its gzip stream");
}

}  // namespace mpc
