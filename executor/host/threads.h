#pragma once

#include <string>
#include <vector>

namespace mpc::executor {

/// Threads that OpenMP regions started by this thread use, restored when the object goes. Without OpenMP: nothing.
class OpenMpThreads {
 public:
  explicit OpenMpThreads(int count);
  ~OpenMpThreads();
  OpenMpThreads(const OpenMpThreads&) = delete;
  OpenMpThreads& operator=(const OpenMpThreads&) = delete;

 private:
  int saved_ = 1;
};

/// The cores this process may run on, by the system's numbers; empty where the system does not tell.
std::vector<int> usable_cores();

/// Keeps the calling thread, and threads that it starts from now on, on these cores. Nothing happens where the system
/// does not let a thread choose: where it runs changes its speed, not what it computes.
void stay_on_cores(const std::vector<int>& cores);

/// Names the calling thread for debuggers and profilers ("mpc cpu:0", cut to what the system takes).
void name_this_thread(const std::string& name);

}  // namespace mpc::executor
