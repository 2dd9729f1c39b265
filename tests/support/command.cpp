#include "tests/support/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <stdexcept>

namespace mpc::test {
namespace {

struct Pipe {
  Pipe() {
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_end(size_t end) {
    if (ends[end] >= 0) close(ends[end]);
    ends[end] = -1;
  }
  std::array<int, 2> ends{-1, -1};
};

/// In the child, between fork and exec.
[[noreturn]] void start(const std::string& program, const std::vector<std::string>& arguments,
                        const CommandOptions& options, int out, int err) {
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  dup2(err, STDERR_FILENO);
  if (options.closes_stdout) {
    close(STDOUT_FILENO);
  } else if (!options.stdout_path.empty()) {
    dup2(open(options.stdout_path.c_str(), O_WRONLY), STDOUT_FILENO);
  } else {
    dup2(out, STDOUT_FILENO);
  }
  if (!options.folder.empty() && chdir(options.folder.c_str()) != 0) _exit(126);
  if (options.removes_folder && rmdir(options.folder.c_str()) != 0 && access(options.folder.c_str(), F_OK) == 0)
    _exit(126);
  if (options.address_space_bytes > 0) {
    const rlimit limit = {static_cast<rlim_t>(options.address_space_bytes),
                          static_cast<rlim_t>(options.address_space_bytes)};
    setrlimit(RLIMIT_AS, &limit);
  }
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

/// Reads what is there; false at the end.
bool drain(int descriptor, std::string& text) {
  std::array<char, 4096> buffer;
  const ssize_t count = read(descriptor, buffer.data(), buffer.size());
  if (count <= 0) return false;
  text.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

}  // namespace

CommandResult run_program(const std::string& program, const std::vector<std::string>& arguments,
                          const CommandOptions& options) {
  Pipe out;
  Pipe err;
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("no process");
  if (child == 0) start(program, arguments, options, out.ends[1], err.ends[1]);
  out.close_end(1);
  err.close_end(1);
  if (options.reads_nothing) out.close_end(0);

  CommandResult result;
  bool has_signalled = options.signal_after.empty();
  while (out.ends[0] >= 0 || err.ends[0] >= 0) {
    std::array<pollfd, 2> wait_for{{{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}}};
    poll(wait_for.data(), wait_for.size(), -1);
    if (wait_for[0].revents != 0 && !drain(out.ends[0], result.out)) out.close_end(0);
    if (wait_for[1].revents != 0 && !drain(err.ends[0], result.err)) err.close_end(0);
    if (!has_signalled && result.out.find(options.signal_after) != std::string::npos) {
      kill(child, options.signal_number);
      has_signalled = true;
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return result;
}

CommandResult run_mpc(const std::vector<std::string>& arguments, const CommandOptions& options) {
  return run_program(MPC_BINARY_DIR "/bin/mpc", arguments, options);
}

}  // namespace mpc::test
