#include "executor/host/threads.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

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

#ifdef __linux__
std::vector<int> usable_cores() {
  std::vector<int> cores;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;  // more cores than a cpu_set_t counts
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

void stay_on_cores(const std::vector<int>& cores) {
  if (cores.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}
#else
std::vector<int> usable_cores() {
  return {};
}

void stay_on_cores(const std::vector<int>&) {}
#endif

void name_this_thread(const std::string& name) {
  constexpr size_t kLongestName = 15;  // pthread_setname_np refuses more
  pthread_setname_np(pthread_self(), name.substr(0, kLongestName).c_str());
}

}  // namespace mpc::executor
