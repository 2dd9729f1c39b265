#pragma once

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/support/command.h"
#include "tests/unit/helpers.h"

// The program driven as a user would.

namespace mpc::test {

/// Runs a command that must succeed, and gives its --json answer.
inline nlohmann::json answer_of(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "-"});
  const CommandResult result = run_mpc(arguments);
  CAPTURE(result.err);
  CAPTURE(result.out);
  REQUIRE(result.exit_code == 0);
  return nlohmann::json::parse(result.out);
}

/// Writes a sample model into the folder and gives its path.
inline std::string zoo_model(const TemporaryFolder& folder, const std::string& name,
                             std::vector<std::string> more = {}) {
  const std::string path = folder / (name + ".onnx");
  std::vector<std::string> arguments = {"zoo", name, "-o", path, "--quiet"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const CommandResult result = run_mpc(arguments);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  return path;
}

}  // namespace mpc::test
