#include "compiler/base/error.h"

#include <map>
#include <set>

#include <doctest/doctest.h>

#include "compiler/base/attributes.h"
#include "compiler/base/env.h"
#include "compiler/base/file.h"
#include "compiler/base/log.h"
#include "compiler/base/op_kind.h"
#include "compiler/base/text.h"
#include "tests/unit/helpers.h"

namespace mpc {
namespace {

TEST_CASE("error: what() is one line of place, finding and hint") {
  const Error error(ErrorId::M031, "net.onnx: node \"conv1\" (Conv)", "strides[0] is 0, must be > 0", "use 1");
  CHECK(std::string(error.what()) == "net.onnx: node \"conv1\" (Conv): strides[0] is 0, must be > 0; use 1");
  CHECK(error.code() == 3);
  CHECK(error_name(error.id()) == "M031");
  CHECK(std::string(Error(ErrorId::M001, "", "no command").what()) == "no command");
  CHECK(std::string(Error(ErrorId::M064, "3:7", "x").with_prefix("a.mpc").what()) == "a.mpc: 3:7: x");
  CHECK(std::string(Error(ErrorId::M064, "", "x").with_prefix("a.mpc").what()) == "a.mpc: x");
}

TEST_CASE("error: control bytes and invalid UTF-8 are escaped, valid UTF-8 is not") {
  CHECK(escaped("a\nb\x1b[31m\x7f") == "a\\x0ab\\x1b[31m\\x7f");
  CHECK(escaped(std::string_view("\0", 1)) == "\\x00");
  CHECK(escaped("\xc3\xa9\xe2\x82\xac") == "\xc3\xa9\xe2\x82\xac");
  CHECK(escaped("\xff\xc3(") == "\\xff\\xc3(");
  CHECK(escaped("\xed\xa0\x80") == "\\xed\\xa0\\x80");
  CHECK(escaped("\xc2\x9b") == "\\xc2\\x9b");
}

TEST_CASE("error: a long text is cut in the middle, between characters") {
  std::string euros;
  for (int i = 0; i < 1000; ++i) euros += "\xe2\x82\xac";
  for (size_t most = 0; most < 60; ++most) {
    const std::string cut = escaped(euros, most);
    REQUIRE(cut.size() <= std::max<size_t>(most, 5));
    REQUIRE(is_utf8(cut));
  }
  CHECK(escaped("abcdefghijklmnopqrstuvwxyz", 15) == "abcde ... vwxyz");
  CHECK(escaped("abcdefghijklmno", 15) == "abcdefghijklmno");
}

TEST_CASE("error: a message is at most 2 KB, whatever goes into it") {
  const Error error(ErrorId::M022, std::string(100000, '\x01'), std::string(100000, '\xff'), std::string(100000, 'h'));
  CHECK(std::string_view(error.what()).size() <= 2000);
}

TEST_CASE("error: every row has a name, a meaning and one of the exit codes") {
  const std::set<int> known = {2, 3, 4, 5, 6, 7, 8, 9, 10, 70, 130};
#define MPC_ERROR(id, code, meaning)                       \
  CHECK(known.contains(exit_code(ErrorId::id)));           \
  CHECK(error_name(ErrorId::id) == std::string_view(#id)); \
  CHECK(!error_meaning(ErrorId::id).empty());
#include "mpc/errors.def"
#undef MPC_ERROR
}

TEST_CASE("error: a failed check is an internal error with its place") {
  const auto error = test::error_of([] { MPC_CHECK(1 + 1 == 3, "sums"); });
  REQUIRE(error);
  CHECK(error->code() == 70);
  CHECK(error->where().starts_with("error_test.cpp:"));
  CHECK(error->what_happened() == "sums (1 + 1 == 3)");
}

TEST_CASE("attributes: sorted by name, typed, replaced when set again") {
  Attributes attributes{{"b", int64_t{1}}, {"a", 2.5}, {"b", int64_t{3}}};
  REQUIRE(attributes.items().size() == 2);
  CHECK(attributes.items()[0].first == "a");
  CHECK(attributes.integer("b") == 3);
  CHECK(attributes.number("a") == 2.5);
  CHECK(test::error_id([&] { (void)attributes.integer("a"); }) == "M700");
  CHECK(test::error_id([&] { (void)attributes.text("c"); }) == "M700");
  attributes.erase("a");
  attributes.erase("a");
  CHECK(!attributes.has("a"));
  CHECK(attributes == Attributes{{"b", int64_t{3}}});
}

TEST_CASE("op_kind: names are read back, and in-place outputs name their operand") {
  for (int i = 0; i < kOpCount; ++i) CHECK(find_op(op_name(static_cast<OpKind>(i))) == static_cast<OpKind>(i));
  CHECK(!find_op("NoSuchOp"));
  CHECK(!aliased_input(OpKind::Relu, 0));
  CHECK(aliased_input(OpKind::GradAccumulate, 0) == 1);
  CHECK(aliased_input(OpKind::AdamUpdate, 0) == 0);
  CHECK(aliased_input(OpKind::AdamUpdate, 2) == 3);
  CHECK(aliased_input(OpKind::AdamUpdate, 3) == 4);  // of the second tensor
  CHECK(aliased_input(OpKind::AdamUpdate, 8) == 11);
  CHECK(aliased_input(OpKind::SgdUpdate, 2) == 4);
  CHECK(!aliased_input(OpKind::BatchNormalizationTraining, 0));
  CHECK(aliased_input(OpKind::BatchNormalizationTraining, 2) == 4);
}

Environment environment(const std::map<std::string, std::string>& variables) {
  return read_environment([&](const char* name) -> const char* {
    const auto it = variables.find(name);
    return it == variables.end() ? nullptr : it->second.c_str();
  });
}

TEST_CASE("env: variables are read, empty ones are absent, wrong ones are refused by name") {
  CHECK(environment({}).log_level == 0);
  CHECK(environment({}).dump_dir.empty());
  const Environment all = environment({{"MPC_LOG", "3"},
                                       {"MPC_DUMP_DIR", "/d"},
                                       {"MPC_TIME_PASSES", "1"},
                                       {"MPC_VERIFY", "1"},
                                       {"MPC_TRACE", "t.json"}});
  CHECK(all.log_level == 3);
  CHECK(all.dump_dir == "/d");
  CHECK(all.times_passes);
  CHECK(all.verifies_passes);
  CHECK(all.trace_path == "t.json");
  CHECK(!environment({{"MPC_VERIFY", "0"}}).verifies_passes);
  CHECK(environment({{"MPC_LOG", ""}}).log_level == 0);
  for (const std::string value : {"4", "-1", "x", "1 "}) {
    const auto error = test::error_of([&] { (void)environment({{"MPC_LOG", value}}); });
    REQUIRE(error);
    CHECK(std::string(error->what()) == "MPC_LOG: is \"" + value + "\", must be a number from 0 to 3");
    CHECK(error->code() == 2);
  }
  CHECK(test::error_id([] { (void)environment({{"MPC_TIME_PASSES", "2"}}); }) == "M003");
}

TEST_CASE("env: the table names exactly the variables that are read") {
  std::set<std::string> read;
  (void)read_environment([&](const char* name) -> const char* {
    read.insert(name);
    return nullptr;
  });
  std::set<std::string> listed;
  for (const EnvironmentVariable& variable : environment_variables()) listed.emplace(variable.name);
  CHECK(read == listed);
}

TEST_CASE("env: docs/env.md holds the same table") {
  const std::string page = read_text_file(MPC_SOURCE_DIR "/docs/env.md", 1 << 20);
  for (const EnvironmentVariable& variable : environment_variables()) {
    std::string row = "| `" + std::string(variable.name) + "` | ";
    row += std::string(variable.values) + " | " + std::string(variable.meaning) + " |\n";
    CAPTURE(row);
    CHECK(page.find(row) != std::string::npos);
  }
}

TEST_CASE("log: messages go to the sink up to its level, and nowhere without one") {
  std::vector<std::string> heard;
  log(LogLevel::choice, "before");
  set_log_sink(LogLevel::phase, [&](LogLevel, std::string_view message) { heard.emplace_back(message); });
  CHECK(is_logged(LogLevel::phase));
  CHECK(!is_logged(LogLevel::detail));
  log(LogLevel::choice, "one");
  log(LogLevel::phase, "two");
  log(LogLevel::detail, "three");
  set_log_sink(LogLevel::none, nullptr);
  log(LogLevel::choice, "after");
  set_log_sink(LogLevel::detail, nullptr);
  log(LogLevel::choice, "no sink");
  CHECK(heard == std::vector<std::string>{"one", "two"});
}

}  // namespace
}  // namespace mpc
