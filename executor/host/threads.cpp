#include "executor/host/threads.h"

#include <pthread.h>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace mpc::executor {

#ifdef _OPENMP
OpenMpThreads::OpenMpThreads(int count) : saved_(omp_get_max_threads()) {
  omp_set_num_threads(count > 0 ? count : 1);
}
OpenMpThreads::~OpenMpThreads() {
  omp_set_num_threads(saved_);
}
#else
OpenMpThreads::OpenMpThreads(int) {}
OpenMpThreads::~OpenMpThreads() = default;
#endif

void name_this_thread(const std::string& name) {
  constexpr size_t kLongestName = 15;  // pthread_setname_np refuses more
  pthread_setname_np(pthread_self(), name.substr(0, kLongestName).c_str());
}

}  // namespace mpc::executor
