#include <unistd.h>

#include "tests/e2e/cli.h"

using namespace mpc::test;

namespace {

constexpr const char* kDot = "/usr/bin/dot";

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("dot: a picture has a cluster per device and one labelled arrow per transfer") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "branches");
  for (const std::string level : {"op", "block", "device"}) {
    CAPTURE(level);
    const CommandResult result = run_mpc({"partition", model, "--devices", "cpu:3", "--pin", "branch_a/=0", "--pin",
                                          "branch_b/=1", "--pin", "join/=2", "--dot", "-", "--dot-level", level});
    CHECK(result.exit_code == 0);
    CHECK(result.out.starts_with("digraph"));
    CHECK(count(result.out, "subgraph cluster_") == 3);
    // Each branch sends 64 x 256 floats to the join.
    CHECK(count(result.out, "64.00 KiB</b>") == 2);
  }
}

TEST_CASE("dot: blocks fold a deep model to a few boxes") {
  const TemporaryFolder folder;
  const CommandResult result =
      run_mpc({"partition", zoo_model(folder, "resnet50", {"--no-weights"}), "--gpus", "2", "--dot", "-"});
  CHECK(result.exit_code == 0);
  const size_t boxes = count(result.out, "fillcolor=\"#") - 2;  // two clusters have one too
  CHECK(boxes >= 4);
  CHECK(boxes <= 20);
}

TEST_CASE("dot: a training step is drawn forward only, unless asked") {
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "seqnet");
  const std::vector<std::string> request = {"partition", model, "--devices", "cpu:2", "--train", "--dot", "-"};
  CHECK(count(run_mpc(request).out, " backward<") == 0);
  std::vector<std::string> more = request;
  more.push_back("--dot-backward");
  CHECK(count(run_mpc(more).out, " backward<") > 0);
}

TEST_CASE("dot: Graphviz accepts every level") {
  if (access(kDot, X_OK) != 0) {
    MESSAGE("skipped: Graphviz is not installed");
    return;
  }
  const TemporaryFolder folder;
  const std::string model = zoo_model(folder, "inception", {"--no-weights"});
  for (const std::string level : {"op", "block", "device"}) {
    const std::string dot = folder / (level + ".dot");
    CHECK(run_mpc({"partition", model, "--gpus", "2", "--train", "--dot-backward", "--dot", dot, "--dot-level", level,
                   "--quiet"})
              .exit_code == 0);
    const CommandResult drawn = run_program(kDot, {"-Tsvg", dot});
    CHECK(drawn.exit_code == 0);
    CHECK(drawn.err.empty());
    CHECK(drawn.out.find("</svg>") != std::string::npos);
  }
}
