#include "compiler/base/dtype.h"

#include <array>

namespace mpc {
namespace {

struct Row {
  std::string_view name;
  int64_t bytes;
  bool is_float;
  bool is_integer;
  bool is_signed;
};

constexpr std::array<Row, kDTypeCount> kRows = {{
    {"f32", 4, true, false, true},
    {"f64", 8, true, false, true},
    {"f16", 2, true, false, true},
    {"bf16", 2, true, false, true},
    {"i8", 1, false, true, true},
    {"i16", 2, false, true, true},
    {"i32", 4, false, true, true},
    {"i64", 8, false, true, true},
    {"u8", 1, false, true, false},
    {"u16", 2, false, true, false},
    {"u32", 4, false, true, false},
    {"u64", 8, false, true, false},
    {"bool", 1, false, false, false},
}};

const Row& row(DType dtype) {
  return kRows.at(static_cast<size_t>(dtype));
}

}  // namespace

int64_t dtype_bytes(DType dtype) {
  return row(dtype).bytes;
}
std::string_view dtype_name(DType dtype) {
  return row(dtype).name;
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (int i = 0; i < kDTypeCount; ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

bool is_float(DType dtype) {
  return row(dtype).is_float;
}
bool is_integer(DType dtype) {
  return row(dtype).is_integer;
}
bool is_signed_integer(DType dtype) {
  return row(dtype).is_integer && row(dtype).is_signed;
}

}  // namespace mpc
