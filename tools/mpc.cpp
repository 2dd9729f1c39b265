#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "compiler/base/env.h"
#include "compiler/base/error.h"
#include "compiler/base/log.h"
#include "compiler/base/text.h"
#include "tools/command.h"
#include "tools/command_line.h"
#include "tools/console.h"
#include "tools/signals.h"

// The command line: a table of subcommands, one way to report errors, one way to end.

namespace mpc::tools {
namespace {

constexpr Command kCommands[] = {
    {"zoo", "list the sample models, or write one as ONNX", add_zoo},
    {"inspect", "what a model consists of, and what of it mpc does not support", add_inspect},
    {"partition", "split a model over devices and write the plan", add_partition},
    {"run", "run a model or a plan", add_run},
    {"train", "train a model over devices", add_train},
    {"verify", "compare a model's outputs with expected ones", add_verify},
    {"check", "find everything that is wrong with a model or plan without running it", add_check},
    {"simulate", "replay a plan against its cost model: timeline, bubble, memory", add_simulate},
    {"profile", "measure the rates of this machine, for --profile", add_profile},
    {"bench", "measure steps: median, p90, p99, throughput, time per op", add_bench},
    {"opt", "run compiler passes on a graph in text form", add_opt},
    {"ops", "the operators and what exists for each", add_ops},
    {"devices", "the devices of this machine and the kinds mpc knows", add_devices},
};

// Names that belong to the command line but are not in this build.
constexpr const char* kPlannedCommands[] = {"split"};

/// What --json, --quiet and -v say, whatever else is wrong with the command line.
void read_json_flag(int argc, char** argv, Console& console) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word(argv[i]);
    if (word == "--") return;
    if (word == "--json" && i + 1 < argc) console.json_path = argv[i + 1];
    if (word.starts_with("--json=")) console.json_path = word.substr(std::strlen("--json="));
  }
}

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  for (const Command& command : kCommands) names.emplace_back(command.name);
  return names;
}

/// @throws Error(M001, M046) when the first word is no subcommand.
void require_command(int argc, char** argv) {
  if (argc < 2) throw Error(ErrorId::M001, "", "no command was given", "`mpc --help` lists them");
  const std::string word(argv[1]);
  if (word.starts_with("-")) return;
  const std::vector<std::string> names = command_names();
  if (std::ranges::find(names, word) != names.end()) return;
  for (const char* planned : kPlannedCommands) {
    if (word == planned) throw Error(ErrorId::M046, "mpc " + word, "is not supported by this version of mpc");
  }
  const std::optional<std::string> near = nearest(word, names);
  throw Error(ErrorId::M001, "mpc " + word, "is not a command",
              near ? fmt::format("did you mean `mpc {}`?", *near) : "`mpc --help` lists them");
}

/// MPC_LOG and the others (docs/env.md). @throws Error(M003) for a value that a variable cannot have.
void read_debugging_aids(Console& console) {
  console.environment = read_environment([](const char* name) -> const char* { return std::getenv(name); });
  set_log_sink(static_cast<LogLevel>(console.environment.log_level),
               [](LogLevel, std::string_view message) { std::fprintf(stderr, "mpc: %s\n", escaped(message).c_str()); });
}

int run(int argc, char** argv) {
  install_signal_handlers();
  Console console;
  read_json_flag(argc, argv, console);
  try {
    read_debugging_aids(console);
    require_command(argc, argv);
    const Body body = read_command_line(argc, argv, kCommands, console);
    return body ? body(console) : 0;
  } catch (const Error& error) {
    console.report(error);
    return error.code();
  } catch (const std::bad_alloc&) {
    console.report(Error(ErrorId::M070, "", "the host's memory is used up"));
    return exit_code(ErrorId::M070);
  } catch (const std::exception& error) {
    console.report(Error(ErrorId::M700, "", error.what(), "this is a bug in mpc, please report it"));
    return exit_code(ErrorId::M700);
  }
}

}  // namespace

}  // namespace mpc::tools

int main(int argc, char** argv) {
  return mpc::tools::run(argc, argv);
}
