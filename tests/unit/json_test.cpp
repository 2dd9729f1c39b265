#include "compiler/base/json.h"

#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "compiler/base/file.h"
#include "compiler/base/json_rows.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

using test::error_id;
using test::error_of;

std::string id_of(std::string_view text) {
  return error_id([&] { (void)parse_json(text, ErrorId::M063, "c.json"); });
}

TEST_CASE("json: values of every type are read") {
  const Json json =
      parse_json(R"({"a":[1,-2,2.5,true,null,"x\u00e9"],"b":{"c":18446744073709551615},"d":[]})", ErrorId::M060, "p");
  CHECK(json["a"][0] == 1);
  CHECK(json["a"][1] == -2);
  CHECK(json["a"][2] == 2.5);
  CHECK(json["a"][3] == true);
  CHECK(json["a"][4].is_null());
  CHECK(json["a"][5] == "x\xc3\xa9");
  CHECK(json["b"]["c"].get<uint64_t>() == std::numeric_limits<uint64_t>::max());
  CHECK(json["d"].empty());
}

TEST_CASE("json: malformed texts are refused with the caller's id") {
  for (const std::string_view text : {"",
                                      "{",
                                      "[1,]",
                                      "{\"a\":1,}",
                                      "{\"a\" 1}",
                                      "nul",
                                      "NaN",
                                      "[Infinity]",
                                      "[-Infinity]",
                                      "01",
                                      "1.",
                                      "\"\\ud800\"",
                                      "'a'",
                                      "[1] 2",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"b\":{\"a\":1,\"a\":2}}",
                                      "// c\n1",
                                      "\"a\nb\"",
                                      "\"\xff\"",
                                      "\xff",
                                      "[1e999]",
                                      "[-1e999]",
                                      "123456789012345678901234567890",
                                      "-9223372036854775809",
                                      "18446744073709551616"}) {
    CAPTURE(text);
    CHECK(id_of(text) == "M063");
  }
  CHECK(id_of(std::string(100000, '9')) == "M063");
}

TEST_CASE("json: a NUL does not end the text") {
  CHECK(id_of(std::string_view("{}\0{", 4)) == "M063");
}

TEST_CASE("json: depth 64 is read, depth 65 is refused, and so is any depth") {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
  };
  CHECK(id_of(nested(64)) == "none");
  CHECK(id_of(nested(65)) == "M051");
  CHECK(id_of(std::string(200000, '[')) == "M051");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  CHECK(id_of(objects) == "M051");
}

TEST_CASE("json: a text with more values or bytes than the limit is refused") {
  const auto id = [](std::string_view text, const JsonLimits& limits) {
    return error_id([&] { (void)parse_json(text, ErrorId::M063, "c.json", limits); });
  };
  const JsonLimits few{.depth = 3, .bytes = 20, .values = 5};
  CHECK(id("[1,2,{\"a\":3}]", few) == "none");  // the array and the object count, too
  CHECK(id("[1,2,{\"a\":3},4]", few) == "M051");
  CHECK(id("[                  ]", few) == "none");
  CHECK(id("[                   ]", few) == "M051");
  CHECK(id("[[[]]]", few) == "none");
  CHECK(id("[[[[]]]]", few) == "M051");
  CHECK(JsonLimits().bytes == int64_t{256} << 20);
  CHECK(JsonLimits().values == 1 << 24);
}

TEST_CASE("json: errors name file, line and column") {
  const auto error = error_of([] { (void)parse_json("{\n  \"a\": ?\n}", ErrorId::M060, "plan.json"); });
  REQUIRE(error);
  CHECK(error->where() == "plan.json");
  CHECK(error->what_happened().find("line 2, column 8") != std::string::npos);
  CHECK(error->what_happened().find("json.exception") == std::string::npos);
}

TEST_CASE("json: floats are written so that they read back as the same bits") {
  for (const double value : {0.1, 1.0 / 3, 5e-324, std::numeric_limits<double>::max(), -0.0, 1e22}) {
    const Json again = parse_json(json_text(Json(value)), ErrorId::M060, "p");
    CHECK(again.get<double>() == value);
    CHECK(std::signbit(again.get<double>()) == std::signbit(value));
  }
  CHECK(json_text(Json("\xff")) == "\"\xef\xbf\xbd\"");
}

TEST_CASE("json: a view reads typed values and names the place of a wrong one") {
  const Json json =
      parse_json(R"({"devices":[{"bytes":5,"rate":1.5,"name":"a","on":true,"none":null}],"big":9223372036854775808})",
                 ErrorId::M063, "c");
  const JsonView view(json, ErrorId::M063, "c.json");
  const JsonView device = view.at("devices").element(0);
  CHECK(device.at("bytes").integer(0, 5) == 5);
  CHECK(device.at("bytes").number() == 5.0);
  CHECK(device.at("rate").number(1.5, 1.5) == 1.5);
  CHECK(device.at("name").text() == "a");
  CHECK(device.at("on").flag());
  CHECK(device.at("none").is_null());
  CHECK(!device.find("absent"));
  const auto message = [](auto call) {
    const auto error = error_of(call);
    return error ? std::string(error->what()) : "none";
  };
  CHECK(message([&] { (void)device.at("bytes").integer(6, 9); }) ==
        "c.json: devices[0].bytes: is 5, must be in [6, 9]");
  CHECK(message([&] { (void)device.at("rate").integer(); }) == "c.json: devices[0].rate: is 1.5, must be an integer");
  CHECK(message([&] { (void)device.at("rate").number(2); }).find("devices[0].rate: is 1.5, must be in [2") !=
        std::string::npos);
  CHECK(message([&] { (void)view.at("big").integer(); }).find("is 9223372036854775808, must be in") !=
        std::string::npos);
  CHECK(message([&] { (void)view.at("devices").text(); }) == "c.json: devices: is an array, must be a string");
  CHECK(message([&] { (void)view.at("devices").element(1); }) == "c.json: devices: has 1 elements, number 1 is needed");
  CHECK(message([&] { (void)device.at("absent"); }) == "c.json: devices[0]: has no \"absent\"");
  CHECK(message([&] { (void)device.at("name").at("x"); }) == "c.json: devices[0].name: is \"a\", must be an object");
  CHECK(message([&] { (void)device.at("on").count(); }) == "c.json: devices[0].on: is true, must be an array");
  CHECK(message([&] { (void)device.at("name").flag(); }) == "c.json: devices[0].name: is \"a\", must be true or false");
  CHECK(message([&] {
          device.require_keys({"bytes", "rates", "name", "on", "none"});
        }) == "c.json: devices[0]: has the unknown key \"rate\"; did you mean \"rates\"?");
  CHECK(message([&] { device.require_keys({"bytes", "rate", "name", "on", "none", "more"}); }) == "none");
}

TEST_CASE("json: rows are handed on one by one and not kept") {
  std::vector<std::string> taken;
  const auto take = [&](std::string_view key, int64_t index, const Json& row) {
    taken.push_back(std::string(key) + " " + std::to_string(index) + " " + row.dump());
  };
  const auto parse = [&](std::string_view text) {
    taken.clear();
    return parse_json_rows(text, ErrorId::M066, "g.json", {"a", "b"}, take);
  };
  CHECK(parse(R"({"a":[1,{"a":[2]},[3,4],null],"c":[5],"b":[6],"d":{"a":[7]}})").dump() ==
        R"({"a":[],"b":[],"c":[5],"d":{"a":[7]}})");
  CHECK(taken == std::vector<std::string>{"a 0 1", R"(a 1 {"a":[2]})", "a 2 [3,4]", "a 3 null", "b 0 6"});
  CHECK(parse(R"({"a":{"b":[1]},"b":2})").dump() == R"({"a":{"b":[1]},"b":2})");
  CHECK(taken.empty());
  CHECK(parse("[[1]]").dump() == "[[1]]");
  CHECK(taken.empty());
  CHECK(error_id([&] { (void)parse(R"({"a":[{"x":1,"x":2}]})"); }) == "M066");
}

TEST_CASE("json: a file is read with its name in the message") {
  const test::TemporaryFolder folder;
  write_file_atomic(folder / "a.json", "[1, 2");
  const auto error = error_of([&] { (void)read_json_file(folder / "a.json", ErrorId::M066); });
  REQUIRE(error);
  CHECK(error->id() == ErrorId::M066);
  CHECK(error->where() == folder / "a.json");
}

}  // namespace
}  // namespace mpc
