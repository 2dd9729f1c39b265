#pragma once

#include <string>

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

/// Names the calling thread for debuggers and profilers ("mpc cpu:0", cut to what the system takes).
void name_this_thread(const std::string& name);

}  // namespace mpc::executor
