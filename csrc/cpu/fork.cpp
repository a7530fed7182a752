// fork() while other threads infer: the child has a copy of every mutex but only the thread that forked, so one that another
// thread held would stay locked in it for good. The thread that forks therefore takes them all first.
#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>

#include "gcn/spectra_cache.h"
#include "spare_memory.h"

namespace gcn::cpu {
namespace {

void before_fork() {
  SpectraCache::instance().lock();
  lock_spare_memory();
}

void after_fork() {
  unlock_spare_memory();
  SpectraCache::instance().unlock();
}

[[maybe_unused]] const int registered = pthread_atfork(before_fork, after_fork, after_fork);

}  // namespace
}  // namespace gcn::cpu

#endif
