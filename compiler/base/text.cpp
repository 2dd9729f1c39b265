#include "compiler/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

namespace mpc {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};

constexpr Unit kByteUnits[] = {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}, {"TB", 1e12},
                               {"GB", 1e9},     {"MB", 1e6},     {"KB", 1e3},     {"kB", 1e3},     {"B", 1}};

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  for (const Unit& unit : std::span(kByteUnits, 4)) {
    if (std::abs(value) >= unit.bytes) return fmt::format("{:.2f} {}", value / unit.bytes, unit.name);
  }
  return fmt::format("{} B", bytes);
}

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3f} ms", seconds * 1e3);
  return fmt::format("{:.3f} us", seconds * 1e6);
}

std::string flops_text(double flops) {
  constexpr std::array<std::string_view, 5> kNames = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"};
  size_t i = 0;
  for (; i + 1 < kNames.size() && flops >= 1000; ++i) flops /= 1000;
  return i == 0 ? fmt::format("{:.0f} {}", flops, kNames[i]) : fmt::format("{:.1f} {}", flops, kNames[i]);
}

std::string count_text(int64_t count) {
  std::string digits = fmt::format("{}", count);
  for (int i = static_cast<int>(digits.size()) - 3; i > (count < 0 ? 1 : 0); i -= 3)
    digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  double scale = 1;
  for (const Unit& unit : kByteUnits) {
    if (text.ends_with(unit.name)) {
      scale = unit.bytes;
      text.remove_suffix(unit.name.size());
      break;
    }
  }
  const auto value = parse_number(text);
  constexpr double kMostBytes = 0x1p62;
  if (!value || !std::isfinite(*value) || *value < 0 || *value * scale > kMostBytes) return std::nullopt;
  return static_cast<int64_t>(std::llround(*value * scale));
}

std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates) {
  constexpr size_t kComparedBytes = 64;  // bounds the work, names come from anywhere
  name = name.substr(0, kComparedBytes);
  const size_t most = std::max<size_t>(2, name.size() / 3);
  size_t best = most + 1;
  std::optional<std::string> found;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, std::string_view(candidate).substr(0, kComparedBytes));
    if (distance < best) {
      best = distance;
      found = candidate;
    }
  }
  return found;
}

std::string number_text(double value) {
  std::array<char, 40> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), result.ptr};
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

size_t utf8_sequence_bytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t count = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < count) return 0;
  for (size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool surrogate = first == 0xED && byte(1) > 0x9F;
  const bool too_large = first == 0xF4 && byte(1) > 0x8F;
  return overlong || surrogate || too_large ? 0 : count;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t count = utf8_sequence_bytes(text);
    if (count == 0) return false;
    text.remove_prefix(count);
  }
  return true;
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const unsigned char c = static_cast<unsigned char>(text[0]);
    const size_t count = utf8_sequence_bytes(text);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += text[0];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (count == 0 || c < 0x20 || c == 0x7F) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
    } else if (count == 2 && c == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0) {  // a control character too (C1)
      fmt::format_to(std::back_inserter(out), "\\xc2\\x{:02x}", static_cast<unsigned char>(text[1]));
    } else {
      out.append(text.substr(0, count));
    }
    text.remove_prefix(std::max<size_t>(count, 1));
  }
  return out + '"';
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

}  // namespace mpc
