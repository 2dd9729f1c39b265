#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mpc {

/// "128 B", "2.40 MiB", "16.00 GiB": for messages only.
std::string bytes_text(int64_t bytes);
/// "1.5 ms", "12.3 us": for messages only.
std::string seconds_text(double seconds);
/// "64.0 MFLOP": for messages only.
std::string flops_text(double flops);
/// "1,234,567".
std::string count_text(int64_t count);
/// Reads "16GiB", "2.4MiB", "512MB", "128" (bytes); nothing when malformed, negative or too large.
std::optional<int64_t> parse_bytes(std::string_view text);
/// The candidate nearest to `name` by edit distance, when it is near enough to suggest.
std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates);
/// The shortest text that reads back as the same double: "0.1", "1e-05", "inf", "nan".
std::string number_text(double value);
/// The whole text as a number, or nothing.
std::optional<double> parse_number(std::string_view text);
std::optional<int64_t> parse_integer(std::string_view text);
/// Length of the valid UTF-8 sequence at the front of `text`, or 0 when there is none (overlong forms, surrogates and
/// code points above U+10FFFF are invalid). @pre text is not empty.
size_t utf8_sequence_bytes(std::string_view text);
bool is_utf8(std::string_view text);
/// `text` between double quotes; quotes, backslashes, control bytes and bytes that are not UTF-8 are escaped as \"
/// \\ \n \t \xNN.
std::string in_quotes(std::string_view text);
std::vector<std::string> split(std::string_view text, char separator);

}  // namespace mpc
