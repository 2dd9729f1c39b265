#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "tools/command.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace mpc::tools {

// The command line as the commands see it. Behind it is CLI11, whose header takes seconds to compile: command_line.cpp
// is the only file that includes it.

/// A flag or positional argument of a command: a handle, valid until the command line is read.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}

  /// What stands for the value in the help text; otherwise its type does.
  Flag& type(const char* name);
  /// The heading below which the help text has it; "" hides it.
  Flag& group(const char* heading);
  Flag& required();
  /// It may be given only together with `other`.
  Flag& needs(Flag other);
  /// It may not be given together with `other`.
  Flag& excludes(Flag other);
  /// The value is an integer from `least` to `most`.
  Flag& range(int64_t least, int64_t most);
  /// The value is a number above 0.
  Flag& positive();
  /// The value is 0 or above.
  Flag& not_negative();
  Flag& one_of(std::initializer_list<const char*> values);
  /// `fault` says what is wrong with a value, or "".
  Flag& check(std::function<std::string(const std::string&)> fault);

  /// The long name with its dashes; a positional argument's without.
  std::string name() const;
  bool is_given() const;

 private:
  CLI::Option* option_;  // of the CLI::App, which owns it
};

/// The flags of one command, while they are declared and read.
class CommandLine {
 public:
  explicit CommandLine(CLI::App& app) : app_(&app) {}

  /// A flag with a value ("--name", "-n,--name") or a positional argument ("name"). A std::vector takes one value each
  /// time that the flag is given; all others are given at most once.
  /// @pre `target` outlives reading. T is one of those at the end of command_line.cpp.
  template <class T>
  Flag option(const char* name, T& target, const char* help);
  /// A flag without a value.
  Flag flag(const char* name, bool& target, const char* help);

  /// All of them in the order in which they were added, --help first.
  std::vector<Flag> flags() const;

  /// Runs `act` when the words of this command are read, before those that no flag takes are refused.
  void when_read(std::function<void()> act);
  /// Runs `act` when nothing is wrong with the whole command line. It may throw Error.
  void when_accepted(std::function<void()> act);

 private:
  CLI::App* app_;
};

/// Reads the words of the program into the flags of the command that the first of them names. --help and --version are
/// answered here.
/// @return what is to be done; empty when all is done. @throws Error(M001), and what `when_accepted` throws.
Body read_command_line(int argc, char** argv, std::span<const Command> commands, Console& console);

}  // namespace mpc::tools
