#pragma once

#include <cfenv>

namespace mpc::executor {

/// The floating-point environment of every thread that runs kernels: round to nearest, denormals kept (neither flushed
/// nor taken for zero), no traps; what the thread had is restored. Threads that differed in it would give different
/// bits.
class FloatEnvironment {
 public:
  FloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatEnvironment() { std::fesetenv(&saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::fenv_t saved_{};
};

}  // namespace mpc::executor
