#include "compiler/base/text.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

namespace mpc {
namespace {

TEST_CASE("text: bytes are read with every unit, and nonsense is not") {
  CHECK(parse_bytes("16GiB") == int64_t{16} << 30);
  CHECK(parse_bytes("2.5MiB") == 2621440);
  CHECK(parse_bytes("512MB") == 512000000);
  CHECK(parse_bytes("1kB") == 1000);
  CHECK(parse_bytes("1KiB") == 1024);
  CHECK(parse_bytes("128") == 128);
  CHECK(parse_bytes("0") == 0);
  CHECK(parse_bytes("7B") == 7);
  for (const std::string_view text : {"", "GiB", "-1", "12Q", "16GB ", " 16GB", "16 GB", "1e30", "inf", "nan", "infGiB",
                                      "0x10", "1,5GiB", "5000000TiB"}) {
    CAPTURE(text);
    CHECK(!parse_bytes(text));
  }
}

TEST_CASE("text: quantities are written with a unit that fits") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1024) == "1.00 KiB");
  CHECK(bytes_text(int64_t{3} << 29) == "1.50 GiB");
  CHECK(bytes_text(-2048) == "-2.00 KiB");
  CHECK(seconds_text(2) == "2.000 s");
  CHECK(seconds_text(0.0015) == "1.500 ms");
  CHECK(seconds_text(12.3e-6) == "12.300 us");
  CHECK(flops_text(12) == "12 FLOP");
  CHECK(flops_text(64e6) == "64.0 MFLOP");
  CHECK(flops_text(5e15) == "5000.0 TFLOP");
  CHECK(count_text(0) == "0");
  CHECK(count_text(999) == "999");
  CHECK(count_text(1000) == "1,000");
  CHECK(count_text(1234567) == "1,234,567");
  CHECK(count_text(-123) == "-123");
  CHECK(count_text(-1234) == "-1,234");
  CHECK(count_text(std::numeric_limits<int64_t>::min()) == "-9,223,372,036,854,775,808");
}

TEST_CASE("text: a near name is suggested, a far one is not") {
  const std::vector<std::string> names = {"partition", "run", "train", "verify"};
  CHECK(nearest("partitoin", names) == "partition");
  CHECK(nearest("trian", names) == "train");
  CHECK(nearest("verify", names) == "verify");
  CHECK(!nearest("benchmark", names));
  CHECK(!nearest("x", {}));
  CHECK(!nearest(std::string(100000, 'x'), names));
}

TEST_CASE("text: a double is written so that it reads back") {
  for (const double value : {0.0, -0.0, 0.1, 1e-5, 1.0 / 3, 5e-324, 1.7976931348623157e308, -2.5, 1e22}) {
    const auto again = parse_number(number_text(value));
    REQUIRE(again);
    CHECK(*again == value);
    CHECK(std::signbit(*again) == std::signbit(value));
  }
  CHECK(number_text(0.1) == "0.1");
  CHECK(number_text(INFINITY) == "inf");
  CHECK(parse_number("-inf") == -INFINITY);
  for (const std::string_view text : {"", "1 ", " 1", "+1", "1e999", "1x", "0x1p3", "--1"}) {
    CAPTURE(text);
    CHECK(!parse_number(text));
  }
}

TEST_CASE("text: an integer is the whole text and fits 64 bits") {
  CHECK(parse_integer("9223372036854775807") == std::numeric_limits<int64_t>::max());
  CHECK(parse_integer("-9223372036854775808") == std::numeric_limits<int64_t>::min());
  for (const std::string_view text : {"", "9223372036854775808", "1.0", "1 ", "+1", "-", "1e3"}) {
    CAPTURE(text);
    CHECK(!parse_integer(text));
  }
}

TEST_CASE("text: split keeps empty parts") {
  CHECK(split("a,b,,c", ',') == std::vector<std::string>{"a", "b", "", "c"});
  CHECK(split("", ',') == std::vector<std::string>{""});
  CHECK(split(",", ',') == std::vector<std::string>{"", ""});
}

TEST_CASE("text: UTF-8 is judged as Unicode does") {
  for (const std::string_view text : {"", "abc", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf",
                                      "\xed\x9f\xbf", "\xee\x80\x80"}) {
    CAPTURE(text);
    CHECK(is_utf8(text));
  }
  // A lone continuation, overlong forms, cut sequences, surrogates, above U+10FFFF, bytes that never occur.
  for (const std::string_view text :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc3", "\xe2\x82", "\xf0\x9f\x98",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "a\xfe"}) {
    CAPTURE(text);
    CHECK(!is_utf8(text));
  }
}

TEST_CASE("text: quotes hide nothing and let no control byte through") {
  CHECK(in_quotes("a b") == "\"a b\"");
  CHECK(in_quotes("a\"b\\c\nd\te") == R"("a\"b\\c\nd\te")");
  CHECK(in_quotes(std::string_view("\0\x1b\x7f\xff\xc3", 5)) == R"("\x00\x1b\x7f\xff\xc3")");
  CHECK(in_quotes("\xc3\xa9") == "\"\xc3\xa9\"");
  CHECK(in_quotes("\xc2\x9b") == R"("\xc2\x9b")");  // C1: an escape sequence introducer on some terminals
}

}  // namespace
}  // namespace mpc
