#include "compiler/plan/text_form.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "compiler/base/text.h"

namespace mpc::plan_text {
namespace {

// Longer content is for machines: base64 is exact, shorter, and does not make a line unreadable.
constexpr size_t kMostInlineElements = 16;

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint32_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) text += i + j > bytes.size() ? '=' : kBase64[group >> (18 - 6 * j) & 63];
  }
  return text;
}

// Canonical base64 only: padded, no spaces, unused bits zero.
std::optional<std::vector<std::byte>> parse_base64(std::string_view text) {
  static const std::array<int8_t, 256> kDigits = [] {
    std::array<int8_t, 256> digits;
    digits.fill(-1);
    for (size_t i = 0; i < kBase64.size(); ++i) digits[static_cast<unsigned char>(kBase64[i])] = static_cast<int8_t>(i);
    return digits;
  }();
  if (text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::vector<std::byte> bytes;
  bytes.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    const size_t padded = i + 4 == text.size() ? padding : 0;
    uint32_t group = 0;
    for (size_t j = 0; j < 4; ++j) {
      const int digit = j >= 4 - padded ? 0 : kDigits[static_cast<unsigned char>(text[i + j])];
      if (digit < 0) return std::nullopt;
      group = group << 6 | static_cast<uint32_t>(digit);
    }
    if ((group & ((1u << 8 * padded) - 1)) != 0) return std::nullopt;
    for (size_t j = 0; j < 3 - padded; ++j) bytes.push_back(static_cast<std::byte>(group >> (16 - 8 * j) & 255));
  }
  return bytes;
}

std::string element_json(const Literal& literal, size_t index) {
  const std::byte* element = literal.stored().data() + index * static_cast<size_t>(dtype_bytes(literal.dtype()));
  if (is_float(literal.dtype())) return number_json(read_number(literal.dtype(), element));
  return fmt::format("{}", read_integer(literal.dtype(), element));
}

void parse_element(const JsonView& view, DType dtype, std::byte* element) {
  if (is_float(dtype)) {
    write_number(dtype, element, parse_number_json(view));
  } else {
    write_integer(dtype, element, view.integer());
  }
}

// Do the stored elements survive the way through numbers? (A NaN's payload, or a bool that is neither 0 nor 1, does
// not.)
bool reads_back(const Literal& literal) {
  const size_t width = static_cast<size_t>(dtype_bytes(literal.dtype()));
  std::vector<std::byte> copy(literal.stored().size());
  for (size_t at = 0; at < copy.size(); at += width) {
    const std::byte* element = literal.stored().data() + at;
    if (is_float(literal.dtype())) {
      const double value = read_number(literal.dtype(), element);
      if (!std::isfinite(value)) return false;
      write_number(literal.dtype(), copy.data() + at, value);
    } else {
      write_integer(literal.dtype(), copy.data() + at, read_integer(literal.dtype(), element));
    }
  }
  return std::ranges::equal(copy, literal.stored());
}

}  // namespace

std::string number_json(double value) {
  std::string text = number_text(value);
  if (!std::isfinite(value)) return '"' + text + '"';
  // "-0" and "1" would read back as integers.
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

double parse_number_json(const JsonView& view) {
  if (!view.json().is_string()) return view.number();
  const std::string& text = view.text();
  const auto value = parse_number(text);
  if (!value || std::isfinite(*value)) view.fail(fmt::format("is \"{}\", must be a number, \"inf\" or \"nan\"", text));
  return *value;
}

std::string_view index_key(Action action) {
  switch (action) {
    case Action::run:
      return "node";
    case Action::send:
    case Action::recv:
      return "transfer";
    case Action::feed:
      return "input";
    case Action::fetch:
      return "output";
    case Action::record:
    case Action::wait:
      return "event";
  }
  return "index";
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

std::string shape_json(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.dims(), ","));
}

Shape parse_shape_json(const JsonView& view, DType dtype) {
  const int64_t rank = view.count();
  if (rank > kMaxRank) view.fail(fmt::format("has {} dimensions, must have at most {}", rank, kMaxRank));
  std::vector<int64_t> dims;
  for (int64_t i = 0; i < rank; ++i) dims.push_back(view.element(i).integer(0));
  const auto shape = checked_shape(dims, dtype);
  if (!shape) view.fail(fmt::format("({}) is too large", fmt::join(dims, ", ")));
  return *shape;
}

DType parse_dtype_json(const JsonView& view) {
  const auto dtype = parse_dtype(view.text());
  if (!dtype) view.fail(fmt::format("is \"{}\", which is no data type", view.text()));
  return *dtype;
}

std::string literal_json(const Literal& literal) {
  std::string out =
      fmt::format("{{\"dtype\":\"{}\",\"shape\":{},", dtype_name(literal.dtype()), shape_json(literal.shape()));
  if (literal.is_splat()) out += "\"is_splat\":true,";
  const size_t count = literal.stored().size() / static_cast<size_t>(dtype_bytes(literal.dtype()));
  if (count > kMostInlineElements || !reads_back(literal))
    return out + fmt::format("\"base64\":\"{}\"}}", base64(literal.stored()));
  out += "\"values\":[";
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    out += element_json(literal, i);
  }
  return out + "]}";
}

Literal parse_literal_json(const JsonView& view) {
  view.require_keys({"dtype", "shape", "is_splat", "base64", "values"});
  const DType dtype = parse_dtype_json(view.at("dtype"));
  const Shape shape = parse_shape_json(view.at("shape"), dtype);
  const auto splat = view.find("is_splat");
  const bool is_splat = splat && splat->flag();
  const int64_t width = dtype_bytes(dtype);
  const int64_t expected_bytes = is_splat ? width : byte_size(shape, dtype);
  std::vector<std::byte> bytes;
  if (const auto encoded = view.find("base64")) {
    if (view.find("values")) view.fail("has both \"values\" and \"base64\"");
    auto decoded = parse_base64(encoded->text());
    if (!decoded) encoded->fail("is not base64");
    bytes = std::move(*decoded);
  } else {
    const JsonView values = view.at("values");
    bytes.resize(static_cast<size_t>(values.count() * width));
    for (int64_t i = 0; i < values.count(); ++i) parse_element(values.element(i), dtype, bytes.data() + i * width);
  }
  if (static_cast<int64_t>(bytes.size()) != expected_bytes) {
    view.fail(fmt::format("has {} bytes of content, {} has {}", bytes.size(),
                          is_splat ? "one element" : type_text(dtype, shape), expected_bytes));
  }
  return is_splat ? Literal::splat(dtype, shape, bytes) : Literal(dtype, shape, std::move(bytes));
}

}  // namespace mpc::plan_text
