#include <cstdlib>
#include <filesystem>

#include "tests/e2e/cli.h"

using namespace mpc::test;

namespace {

/// Sets a variable for the programs that are started while it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

}  // namespace

TEST_CASE("environment: every graph that a pass makes is dumped, and none changes the plan") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  const std::vector<std::string> request = {"partition", model, "--devices", "cpu:2", "--train", "--quiet", "-o"};
  std::vector<std::string> plain = request;
  plain.push_back(folder / "plain.json");
  CHECK(run_mpc(plain).exit_code == 0);
  const std::string dumps = folder / "dumps";
  std::filesystem::create_directory(dumps);
  const Variable variable("MPC_DUMP_DIR", dumps);
  std::vector<std::string> dumped = request;
  dumped.push_back(folder / "dumped.json");
  CHECK(run_mpc(dumped).exit_code == 0);
  const auto text = [](const std::string& path) { return run_program("/bin/cat", {path}).out; };
  CHECK(text(folder / "plain.json") == text(folder / "dumped.json"));
  CHECK(text(dumps + "/plan.json") == text(folder / "plain.json"));
  CHECK(text(dumps + "/plan.dot").starts_with("digraph"));
  int graphs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dumps)) {
    if (entry.path().extension() != ".mpc") continue;
    ++graphs;
    // A dump is a test case in waiting: it reads back and prints as it was.
    CAPTURE(entry.path().string());
    const CommandResult read = run_mpc({"opt", entry.path().string()});
    CHECK(read.exit_code == 0);
    CHECK(read.out == text(entry.path().string()));
  }
  CHECK(graphs >= 5);
}

TEST_CASE("environment: the time of each pass is told, a run leaves its trace, and bad values end with code 2") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "two-linear");
  {
    const Variable variable("MPC_TIME_PASSES", "1");
    CHECK(run_mpc({"partition", model, "--devices", "cpu:2"}).err.find("mpc: place ") != std::string::npos);
  }
  {
    const Variable variable("MPC_TRACE", folder / "trace.json");
    CHECK(run_mpc({"run", model, "--input", "random"}).exit_code == 0);
    CHECK(nlohmann::json::accept(run_program("/bin/cat", {folder / "trace.json"}).out));
  }
  const Variable variable("MPC_LOG", "loud");
  const CommandResult result = run_mpc({"zoo"});
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("MPC_LOG") != std::string::npos);
}
