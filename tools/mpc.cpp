#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "compiler/base/env.h"
#include "compiler/base/error.h"
#include "compiler/base/log.h"
#include "compiler/base/text.h"
#include "tools/command.h"
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

/// The flag of `app` nearest to an unknown one.
std::string flag_hint(const CLI::App& app, const std::string& word) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  const std::optional<std::string> near = nearest(word.substr(0, word.find('=')), flags);
  if (near) return fmt::format("did you mean {}?", *near);
  return fmt::format("`mpc {} --help` lists the flags", app.get_name());
}

Error usage_error(const CLI::App& command, const CLI::ParseError& error) {
  const std::string where = "mpc " + command.get_name();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    for (const std::string& word : command.remaining()) {
      if (word.starts_with("-"))
        return Error(ErrorId::M001, where, fmt::format("unknown flag {}", word), flag_hint(command, word));
    }
    const std::vector<std::string> rest = command.remaining();
    return Error(ErrorId::M001, where, fmt::format("one argument too many: {}", rest.empty() ? "" : rest.front()));
  }
  return Error(ErrorId::M001, where, error.what(), fmt::format("`mpc {} --help` explains", command.get_name()));
}

struct Parsed {
  int exit_code = 0;
  Body body;  // empty: everything is done
};

/// @throws Error(M001, M002).
Parsed parse(int argc, char** argv, Console& console) {
  require_command(argc, argv);
  CLI::App app("mpc, the model-parallel compiler: splits an ONNX model over devices, runs and trains it", "mpc");
  app.set_version_flag("--version", "mpc " MPC_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  std::vector<Body> bodies;
  std::vector<CLI::App*> apps;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    apps.push_back(sub);
    bodies.push_back(command.add(*sub));
    sub->add_option("--json", console.json_path, "write the answer as JSON to a file, or to stdout (-)")
        ->type_name("FILE|-");
    sub->add_flag("--quiet", console.is_quiet, "print nothing but errors");
    sub->add_flag("-v,--verbose", console.is_verbose, "say more");
    // CLI11 lets the last of repeated flags win; here a repetition is a mistake.
    for (CLI::Option* option : sub->get_options()) {
      if (option->get_expected_max() == 0) option->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    }
  }
  const auto chosen = [&]() -> CLI::App& {
    for (CLI::App* sub : apps) {
      if (sub->parsed()) return *sub;
    }
    for (CLI::App* sub : apps) {
      if (argc > 1 && sub->get_name() == argv[1]) return *sub;
    }
    return app;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    const CLI::App& target = chosen();
    console.data(success.get_name() == "CallForVersion" ? std::string("mpc " MPC_VERSION "\n")
                                                        : target.help(&target == &app ? "" : "mpc"));
    return {};
  } catch (const CLI::ParseError& error) {
    throw usage_error(chosen(), error);
  }
  for (size_t i = 0; i < apps.size(); ++i) {
    if (apps[i]->parsed()) return {0, std::move(bodies[i])};
  }
  return {};
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
    const Parsed parsed = parse(argc, argv, console);
    return parsed.body ? parsed.body(console) : parsed.exit_code;
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

std::span<const Command> commands() {
  return kCommands;
}

}  // namespace mpc::tools

int main(int argc, char** argv) {
  return mpc::tools::run(argc, argv);
}
