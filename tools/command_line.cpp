#include "tools/command_line.h"

#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "compiler/base/error.h"
#include "compiler/base/text.h"
#include "tools/console.h"

namespace mpc::tools {

Flag& Flag::type(const char* name) {
  option_->type_name(name);
  return *this;
}

Flag& Flag::group(const char* heading) {
  option_->group(heading);
  return *this;
}

Flag& Flag::required() {
  option_->required();
  return *this;
}

Flag& Flag::needs(Flag other) {
  option_->needs(other.option_);
  return *this;
}

Flag& Flag::excludes(Flag other) {
  option_->excludes(other.option_);
  return *this;
}

Flag& Flag::range(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return *this;
}

Flag& Flag::positive() {
  option_->check(CLI::PositiveNumber);
  return *this;
}

Flag& Flag::not_negative() {
  option_->check(CLI::NonNegativeNumber);
  return *this;
}

Flag& Flag::one_of(std::initializer_list<const char*> values) {
  option_->check(CLI::IsMember(std::vector<std::string>(values.begin(), values.end())));
  return *this;
}

Flag& Flag::check(std::function<std::string(const std::string&)> fault) {
  option_->check(std::move(fault));
  return *this;
}

std::string Flag::name() const {
  return option_->get_name();
}

bool Flag::is_given() const {
  return option_->count() > 0;
}

template <class T>
Flag CommandLine::option(const char* name, T& target, const char* help) {
  CLI::Option* added = app_->add_option(name, target, help);
  // By itself a vector would take all words that follow the flag.
  if constexpr (std::is_same_v<T, std::vector<std::string>>) added->expected(1)->take_all();
  return Flag(added);
}

Flag CommandLine::flag(const char* name, bool& target, const char* help) {
  return Flag(app_->add_flag(name, target, help));
}

std::vector<Flag> CommandLine::flags() const {
  std::vector<Flag> all;
  for (CLI::Option* option : app_->get_options()) all.emplace_back(option);
  return all;
}

void CommandLine::when_read(std::function<void()> act) {
  app_->parse_complete_callback(std::move(act));
}

void CommandLine::when_accepted(std::function<void()> act) {
  app_->final_callback(std::move(act));
}

template Flag CommandLine::option(const char*, int&, const char*);
template Flag CommandLine::option(const char*, uint64_t&, const char*);
template Flag CommandLine::option(const char*, double&, const char*);
template Flag CommandLine::option(const char*, std::string&, const char*);
template Flag CommandLine::option(const char*, std::optional<int>&, const char*);
template Flag CommandLine::option(const char*, std::optional<int64_t>&, const char*);
template Flag CommandLine::option(const char*, std::optional<std::string>&, const char*);
template Flag CommandLine::option(const char*, std::vector<std::string>&, const char*);

namespace {

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

}  // namespace

Body read_command_line(int argc, char** argv, std::span<const Command> commands, Console& console) {
  CLI::App app("mpc, the model-parallel compiler: splits an ONNX model over devices, runs and trains it", "mpc");
  app.set_version_flag("--version", "mpc " MPC_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  std::vector<Body> bodies;
  std::vector<CLI::App*> apps;
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    apps.push_back(sub);
    CommandLine line(*sub);
    bodies.push_back(command.add(line));
    line.option("--json", console.json_path, "write the answer as JSON to a file, or to stdout (-)").type("FILE|-");
    line.flag("--quiet", console.is_quiet, "print nothing but errors");
    line.flag("-v,--verbose", console.is_verbose, "say more");
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
    if (apps[i]->parsed()) return std::move(bodies[i]);
  }
  return {};
}

}  // namespace mpc::tools
