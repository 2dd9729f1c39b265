#pragma once

#include <functional>

namespace mpc::tools {

class CommandLine;
class Console;

/// What a command does once its flags are read. @return the exit code. @throws Error.
using Body = std::function<int(Console&)>;

/// A subcommand: its flags are added to `line`, and what it does comes back.
struct Command {
  const char* name;
  const char* summary;
  Body (*add)(CommandLine& line);
};

Body add_bench(CommandLine& line);
Body add_check(CommandLine& line);
Body add_devices(CommandLine& line);
Body add_inspect(CommandLine& line);
Body add_ops(CommandLine& line);
Body add_opt(CommandLine& line);
Body add_partition(CommandLine& line);
Body add_profile(CommandLine& line);
Body add_run(CommandLine& line);
Body add_simulate(CommandLine& line);
Body add_train(CommandLine& line);
Body add_verify(CommandLine& line);
Body add_zoo(CommandLine& line);

}  // namespace mpc::tools
