#pragma once

#include <functional>
#include <span>

namespace CLI {
class App;
}

namespace mpc::tools {

class Console;

/// What a command does once its flags are read. @return the exit code. @throws Error.
using Body = std::function<int(Console&)>;

/// A subcommand: its flags are added to `app`, and what it does comes back.
struct Command {
  const char* name;
  const char* summary;
  Body (*add)(CLI::App& app);
};

/// Every subcommand, in the order of the help text.
std::span<const Command> commands();

Body add_bench(CLI::App& app);
Body add_check(CLI::App& app);
Body add_devices(CLI::App& app);
Body add_inspect(CLI::App& app);
Body add_ops(CLI::App& app);
Body add_opt(CLI::App& app);
Body add_partition(CLI::App& app);
Body add_profile(CLI::App& app);
Body add_run(CLI::App& app);
Body add_simulate(CLI::App& app);
Body add_train(CLI::App& app);
Body add_verify(CLI::App& app);
Body add_zoo(CLI::App& app);

}  // namespace mpc::tools
