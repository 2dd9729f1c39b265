#include "compiler/onnx/wire.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include "compiler/base/error.h"

namespace mpc::onnx_io {
namespace {

constexpr int kMaxDepth = 100;

[[noreturn]] void malformed(const char* what) {
  throw Error(ErrorId::M020, "", fmt::format("is not an ONNX model: {}", what));
}

/// Bytes of a file one after the other, with a window in memory.
class Cursor {
 public:
  explicit Cursor(const InputFile& file) : file_(file) {}

  int64_t position() const { return position_; }
  void skip_to(int64_t position) { position_ = position; }

  /// @pre position() < end of the file.
  uint8_t next() {
    if (position_ < window_start_ || position_ >= window_end_) {
      window_start_ = position_;
      window_end_ = std::min(file_.bytes(), position_ + static_cast<int64_t>(window_.size()));
      file_.read(window_start_, std::span(window_.data(), static_cast<size_t>(window_end_ - window_start_)));
    }
    return static_cast<uint8_t>(window_[static_cast<size_t>(position_++ - window_start_)]);
  }

  uint64_t varint(int64_t end) {
    constexpr int kMaxVarintBytes = 10;
    uint64_t value = 0;
    for (int i = 0; i < kMaxVarintBytes; ++i) {
      if (position_ >= end) malformed("it is truncated");
      const uint8_t byte = next();
      value |= uint64_t{byte & 0x7Fu} << (7 * i);
      if ((byte & 0x80u) == 0) return value;
    }
    malformed("it holds a number of more than ten bytes");
  }

 private:
  const InputFile& file_;
  std::array<std::byte, 1 << 16> window_;
  int64_t position_ = 0;
  int64_t window_start_ = 0;
  int64_t window_end_ = 0;
};

struct Frame {
  const google::protobuf::Descriptor* type;
  int64_t end;
};

}  // namespace

void check_wire(const InputFile& file, const google::protobuf::Descriptor* type, int64_t max_items) {
  Cursor cursor(file);
  std::vector<Frame> stack = {{type, file.bytes()}};
  int64_t items = 0;
  while (!stack.empty()) {
    const Frame frame = stack.back();
    if (cursor.position() == frame.end) {
      stack.pop_back();
      continue;
    }
    const uint64_t key = cursor.varint(frame.end);
    const int64_t left = frame.end - cursor.position();
    switch (key & 7u) {
      case 0:
        cursor.varint(frame.end);
        break;
      case 1:
        if (left < 8) malformed("it is truncated");
        cursor.skip_to(cursor.position() + 8);
        break;
      case 5:
        if (left < 4) malformed("it is truncated");
        cursor.skip_to(cursor.position() + 4);
        break;
      case 2: {
        const uint64_t length = cursor.varint(frame.end);
        if (length > static_cast<uint64_t>(frame.end - cursor.position())) malformed("it is truncated");
        if (++items > max_items)
          throw Error(ErrorId::M051, "", fmt::format("holds more than {} messages and strings", max_items));
        const int64_t end = cursor.position() + static_cast<int64_t>(length);
        const auto* field = key >> 3 <= INT32_MAX ? frame.type->FindFieldByNumber(static_cast<int>(key >> 3)) : nullptr;
        if (field == nullptr || field->message_type() == nullptr) {
          cursor.skip_to(end);
          break;
        }
        if (stack.size() >= kMaxDepth) malformed("it is nested more than 100 deep");
        stack.push_back({field->message_type(), end});
        break;
      }
      default:
        malformed("it holds a field of no known form");
    }
  }
}

}  // namespace mpc::onnx_io
