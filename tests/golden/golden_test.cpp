// Golden cases: a graph in text form, and in comments what `mpc opt` makes of it.
//
// tests/golden/PASS/CASE.mpc is the graph that goes in, with comments that justify the expectation. Lines that begin
// with `#=` are the graph that must come out; `# flags:` gives more flags. `golden_test --update` writes what comes out
// into the cases; read the difference before you keep it.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/base/file.h"
#include "compiler/base/text.h"
#include "tests/support/command.h"

namespace {

using namespace mpc;
namespace fs = std::filesystem;

constexpr std::string_view kExpected = "#=";
constexpr std::string_view kFlags = "# flags: ";
constexpr int64_t kMostBytes = int64_t{1} << 20;

bool is_updating = false;

/// A case as its file has it.
struct Case {
  std::string head;      // all but the expectation
  std::string expected;  // without the marks
  std::vector<std::string> flags;
};

Case read_case(const std::string& path) {
  Case result;
  std::istringstream lines(read_text_file(path, kMostBytes));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(kExpected)) {
      const size_t mark = line.size() > kExpected.size() ? kExpected.size() + 1 : kExpected.size();
      result.expected += line.substr(mark) + "\n";
      continue;
    }
    if (line.starts_with(kFlags)) result.flags = split(line.substr(kFlags.size()), ' ');
    result.head += line + "\n";
  }
  return result;
}

void write_case(const std::string& path, const Case& golden, const std::string& actual) {
  std::string text = golden.head;
  std::istringstream lines(actual);
  for (std::string line; std::getline(lines, line);) {
    text += std::string(kExpected) + (line.empty() ? "" : " ") + line + "\n";
  }
  write_file_atomic(path, text);
}

/// Files of a pass, in the order of their names.
std::vector<std::string> cases_of(const std::string& pass) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(std::string(MPC_SOURCE_DIR) + "/tests/golden/" + pass)) {
    if (entry.path().extension() == ".mpc") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void check_cases(const std::string& pass) {
  const std::vector<std::string> paths = cases_of(pass);
  CHECK(!paths.empty());
  for (const std::string& path : paths) {
    CAPTURE(path);
    const Case golden = read_case(path);
    std::vector<std::string> arguments = {"opt", "--passes", pass, path};
    arguments.insert(arguments.end(), golden.flags.begin(), golden.flags.end());
    const test::CommandResult result = test::run_mpc(arguments);
    CHECK(result.exit_code == 0);
    CHECK(result.err == "");
    if (is_updating) {
      write_case(path, golden, result.out);
    } else {
      CHECK(result.out == golden.expected);
    }
  }
}

}  // namespace

TEST_CASE("golden: canonicalize") {
  check_cases("canonicalize");
}
TEST_CASE("golden: differentiate") {
  check_cases("differentiate");
}
TEST_CASE("golden: insert_transfers") {
  check_cases("insert_transfers");
}

int main(int argc, char** argv) {
  is_updating =
      std::any_of(argv + 1, argv + argc, [](const char* argument) { return std::string_view(argument) == "--update"; });
  return doctest::Context(argc, argv).run();
}
