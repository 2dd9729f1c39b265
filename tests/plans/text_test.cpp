#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "compiler/base/error.h"
#include "compiler/plan/text.h"
#include "tests/plans/plan_fixture.h"

namespace mpc {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

// The id with which the text is refused, or "accepted".
std::string refusal(const std::string& text) {
  try {
    parse_plan(text, "plan.json");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("plan.json") != std::string::npos);
    return std::string(error_name(error.id()));
  }
  return "accepted";
}

Literal of_bytes(DType dtype, Shape shape, std::vector<unsigned char> bytes) {
  std::vector<std::byte> content;
  for (const unsigned char byte : bytes) content.push_back(static_cast<std::byte>(byte));
  return Literal(dtype, shape, content);
}

Literal round_trip(const Literal& literal) {
  Plan plan = test::training_plan(2, false);
  PlanValue value;
  value.name = "c";
  value.dtype = literal.dtype();
  value.shapes = {literal.shape()};
  value.kind = PlanValueKind::constant;
  value.literals = {literal};
  plan.values.push_back(value);
  return parse_plan(print_plan(plan), "plan.json").values.back().literals[0];
}

TEST_CASE("print_plan: what is printed reads back as an equal plan and prints the same") {
  for (const Plan& plan : {test::inference_plan(), test::training_plan(3, true), Plan{}}) {
    const std::string text = print_plan(plan);
    const Plan again = parse_plan(text, "plan.json");
    CHECK(again == plan);
    CHECK(print_plan(again) == text);
  }
}

TEST_CASE("print_plan: every field round-trips") {
  Plan plan = test::training_plan(2, true);
  plan.is_training = true;
  plan.precision = "bf16";
  plan.warnings = {"slow \"link\"", "tab\t and \x01 and \xC3\xA9 \\"};
  plan.notes = {"because", ""};
  plan.step_seconds = 0.1;
  plan.bubble = 1.0 / 3;
  plan.objective_value = 1e-300;
  plan.objective_lower_bound = 5e-324;
  plan.one_device_seconds = 123456789012345680.0;
  plan.devices[0].memory = {1, 2, 3, 4, 5, 6};
  plan.devices[0].threads = 7;
  plan.devices[1].flops = 1e20;
  plan.devices[1].seconds = -0.0;
  plan.nodes[0].attributes[0] = {{"axis", int64_t{-1}},
                                 {"alpha", 1.0},
                                 {"beta", -0.0},
                                 {"low", -std::numeric_limits<double>::infinity()},
                                 {"mode", std::string("li\"near")},
                                 {"empty ints", std::vector<int64_t>{}},
                                 {"empty floats", std::vector<double>{}},
                                 {"empty texts", std::vector<std::string>{}},
                                 {"ints", std::vector<int64_t>{1, std::numeric_limits<int64_t>::min()}},
                                 {"floats", std::vector<double>{1, 0.1, std::numeric_limits<double>::infinity()}},
                                 {"texts", std::vector<std::string>{"", "a"}}};
  plan.nodes[1].workspace_bytes = 1000;
  plan.instructions[3].start_s = 0.25;
  plan.instructions[3].workspace = 2;
  const Plan again = parse_plan(print_plan(plan), "plan.json");
  CHECK(again == plan);
  CHECK(std::signbit(again.devices[1].seconds));
  CHECK(std::signbit(again.nodes[0].attributes[0].number("beta")));
}

TEST_CASE("print_plan: costs that are not finite survive, so that the checker can refuse them") {
  Plan plan = test::inference_plan();
  plan.step_seconds = std::numeric_limits<double>::quiet_NaN();
  plan.nodes[0].seconds[0] = std::numeric_limits<double>::infinity();
  const Plan again = parse_plan(print_plan(plan), "plan.json");
  CHECK(std::isnan(again.step_seconds));
  CHECK(std::isinf(again.nodes[0].seconds[0]));
}

TEST_CASE("print_plan: literals keep their bits") {
  CHECK(round_trip(Literal::scalar(DType::f32, 0.1)) == Literal::scalar(DType::f32, 0.1));
  CHECK(round_trip(Literal::scalar(DType::f32, -0.0)) == Literal::scalar(DType::f32, -0.0));
  CHECK(round_trip(Literal::scalar(DType::f16, 65504)) == Literal::scalar(DType::f16, 65504));
  CHECK(round_trip(Literal::scalar(DType::bf16, 1e30)) == Literal::scalar(DType::bf16, 1e30));
  CHECK(round_trip(Literal::splat_number(DType::f32, {100, 100}, 3)) ==
        Literal::splat_number(DType::f32, {100, 100}, 3));
  CHECK(round_trip(Literal::splat_number(DType::f32, {0, 2}, 3)) == Literal::splat_number(DType::f32, {0, 2}, 3));
  CHECK(round_trip(Literal(DType::f32, {0, 2}, {})) == Literal(DType::f32, {0, 2}, {}));
  const Literal extremes =
      Literal::integers({std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), 0});
  CHECK(round_trip(extremes) == extremes);
  const Literal most = of_bytes(DType::u64, Shape{1}, {255, 255, 255, 255, 255, 255, 255, 255});
  CHECK(round_trip(most) == most);
  const Literal odd_bool = of_bytes(DType::boolean, Shape{2}, {1, 7});
  CHECK(round_trip(odd_bool) == odd_bool);
  const Literal nan_payload = of_bytes(DType::f32, Shape{1}, {0x34, 0x12, 0xC0, 0x7F});
  CHECK(round_trip(nan_payload) == nan_payload);
  for (int64_t count = 15; count < 60; ++count) {  // across the limit of inline numbers, all paddings of base64
    std::vector<unsigned char> bytes;
    for (int64_t i = 0; i < count; ++i) bytes.push_back(static_cast<unsigned char>(i * 37 + 250));
    const Literal literal = of_bytes(DType::u8, Shape{count}, bytes);
    CHECK(round_trip(literal) == literal);
  }
}

TEST_CASE("print_plan: one line per row") {
  const Plan plan = test::inference_plan();
  const std::string text = print_plan(plan);
  CHECK(text.find("\n{\"id\":0,\"op\":\"Gemm\",\"name\":\"gemm0\",") != std::string::npos);
  CHECK(text.find("\n{\"do\":\"run\",\"queue\":0,\"node\":0,\"microbatch\":0,\"reads\":[") != std::string::npos);
  const auto lines = static_cast<size_t>(std::ranges::count(text, '\n'));
  CHECK(lines > plan.instructions.size() + plan.slices.size() + plan.values.size() + plan.nodes.size());
}

TEST_CASE("parse_plan: what is not a plan is refused") {
  for (const char* text : {"", "null", "[]", "3", "\"plan\"", "{}", "{\"format\":\"other\"}", "{\"format\":3}", "nan",
                           "{\"format\":\"mpc-plan\"", "{\"format\":\"mpc-plan\",\"format\":\"mpc-plan\"}"}) {
    CHECK_MESSAGE(refusal(text) == "M060", text);
  }
}

TEST_CASE("parse_plan: a plan cut anywhere is refused") {
  const std::string text = print_plan(test::training_plan(2, true));
  const size_t last = text.rfind('}');
  for (size_t bytes = 0; bytes <= last; bytes += 7) CHECK(refusal(text.substr(0, bytes)) == "M060");
  CHECK(refusal(text) == "accepted");
}

TEST_CASE("parse_plan: another version is refused as such") {
  const std::string text = print_plan(test::inference_plan());
  CHECK(refusal(replaced(text, "\"version\":1", "\"version\":2")) == "M062");
  CHECK(refusal(replaced(text, "\"version\":1", "\"version\":0")) == "M062");
  CHECK(refusal(replaced(text, "\"version\":1", "\"version\":\"1\"")) == "M060");
}

TEST_CASE("parse_plan: members of a wrong type, range or name are refused") {
  const std::string text = print_plan(test::training_plan(2, true));
  REQUIRE(refusal(text) == "accepted");
  const std::pair<const char*, const char*> changes[] = {
      {"\"microbatches\":2", "\"microbatches\":0"},
      {"\"microbatches\":2", "\"microbatches\":4294967297"},
      {"\"microbatches\":2", "\"microbatches\":2.5"},
      {"\"microbatches\":2,", ""},
      {"\"batch\":7", "\"batch\":-1"},
      {"\"has_tail\":true", "\"has_tail\":1"},
      {"\"has_tail\":true", "\"has_tail\":true,\"extra\":1"},
      {"\"loss\":1", "\"loss\":-1"},
      {"\"kind\":\"input\"", "\"kind\":\"inputs\""},
      {"\"dtype\":\"f32\"", "\"dtype\":\"f33\""},
      {"\"shapes\":[[4,4],[3,4]]", "\"shapes\":[[4,-4],[3,4]]"},
      {"\"shapes\":[[4,4],[3,4]]", "\"shapes\":[[4,4,1,1,1,1,1,1,1],[3,4]]"},
      {"\"shapes\":[[4,4],[3,4]]", "\"shapes\":[[4611686018427387904,4],[3,4]]"},
      {"\"shapes\":[[4,4],[3,4]]", "\"shapes\":[[0,4611686018427387904],[3,4]]"},
      {"\"op\":\"Gemm\"", "\"op\":\"Gem\""},
      {"\"phase\":\"forward\"", "\"phase\":\"\""},
      {"\"device\":0", "\"device\":-1"},
      {"\"device\":0", "\"device\":4294967296"},
      {"\"device\":0", "\"device\":0.0"},
      {"\"do\":\"run\"", "\"do\":\"jump\""},
      {"\"do\":\"feed\",\"queue\":0,\"input\":1", "\"do\":\"feed\",\"queue\":0,\"output\":1"},
      {"\"microbatch\":0", "\"microbatch\":-1"},
      {"\"offset\":0", "\"offset\":9223372036854775808"},
      {"\"offset\":0", "\"offset\":1e3"},
      {"\"id\":0", "\"id\":1"},
      {"[\"alpha\",\"float\",1.0]", "[\"alpha\",\"int\",1.0]"},
      {"[\"alpha\",\"float\",1.0]", "[\"alpha\",\"double\",1.0]"},
      {"[\"alpha\",\"float\",1.0]", "[\"beta\",\"float\",1.0]"},
      {"[\"alpha\",\"float\",1.0]", "[\"alpha\",\"float\"]"},
      {"\"step_seconds\":0.0", "\"step_seconds\":\"fast\""},
      {"\"step_seconds\":0.0", "\"step_seconds\":\"1\""},
      {"\"step_seconds\":0.0", "\"step_seconds\":1e999"},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"values\":[2.0,2.0]"},
      {"\"is_splat\":true,\"values\":[2.0]", "\"values\":[2.0]"},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"base64\":\"AAA\""},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"base64\":\"AAAA\""},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"base64\":\"AA A\""},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"base64\":\"AAAAAB==\""},
      {"\"is_splat\":true,\"values\":[2.0]", "\"is_splat\":true,\"base64\":\"AA==AAAA\""},
  };
  for (const auto& [from, to] : changes) CHECK_MESSAGE(refusal(replaced(text, from, to)) == "M060", from, " -> ", to);
}

TEST_CASE(
    "parse_plan: a member of any other type ends in an error of the file or in a plan, never in an internal error") {
  const std::string text = print_plan(test::inference_plan());
  size_t tried = 0;
  for (size_t at = text.find("\":"); at != std::string::npos; at = text.find("\":", at + 1)) {
    for (const char* value : {"null", "{}", "[[]]", "-1", "1e300", "\"\""}) {
      const size_t end = text.find_first_of(",}\n", at + 2);
      if (text[at + 2] == '[' || text[at + 2] == '{') continue;
      const std::string result = refusal(text.substr(0, at + 2) + value + text.substr(end));
      CHECK((result == "M060" || result == "M062" || result == "M051" || result == "accepted"));
      ++tried;
    }
  }
  CHECK(tried > 1000);
}

}  // namespace
}  // namespace mpc
