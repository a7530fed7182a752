// The spectra cache and the spare memory by themselves, without PyTorch.
//
//   threads   several threads insert, find, clear and free, for the thread sanitizer to watch
//   forks     the same while the process forks; every child has to get through a few calls of its own
//   bounds    the entries and bytes that are kept, and what find returns
//   speed     nanoseconds of one find among 4, 400 and 16000 entries, of this thread's own time on a processor
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/cpu/gcn/spectra_cache.h"
#include "../../csrc/cpu/spare_memory.h"

namespace {

using gcn::cpu::Fingerprint;
using gcn::cpu::new_floats;
using gcn::cpu::SpectraCache;

constexpr int64_t kBytes = 256;

SpectraCache::Key key_of(int64_t weight, int64_t bytes = kBytes) {
  SpectraCache::Key key{};
  key.data = reinterpret_cast<const void*>(4096 + 64 * weight);
  key.plan.spectra_bytes = bytes;
  return key;
}

Fingerprint contents(int64_t version) {
  Fingerprint made{};
  made[0] = static_cast<uint64_t>(version);
  return made;
}

SpectraCache::Spectra spectra_of(int64_t version, int64_t bytes = kBytes) {
  SpectraCache::Spectra made = new_floats(bytes);
  made[0] = static_cast<float>(version);
  return made;
}

// One call of the operator as the cache sees it; false where it was handed the spectra of other contents.
bool call(int64_t weight, int64_t version) {
  SpectraCache& cache = SpectraCache::instance();
  SpectraCache::Spectra found = cache.find(key_of(weight), contents(version));
  if (!found) {
    found = spectra_of(version);
    cache.insert(key_of(weight), contents(version), found);
  }
  return found[0] == static_cast<float>(version);
}

int failed(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  return 1;
}

class Workers {
 public:
  explicit Workers(int count) {
    for (int t = 0; t < count; ++t)
      threads_.emplace_back([this, t] {
        for (int64_t i = t; !stop_; ++i) {
          if (!call(i * 7 % 50, i % 3)) wrong_ = true;
          const auto workspace = new_floats(64 * (1 + i % 5));
          if (i % 1000 == 0) SpectraCache::instance().clear();
          if (i % 1500 == 0) gcn::cpu::release_spare_memory();
          ++calls_;
        }
      });
  }
  bool wrong() const { return wrong_; }
  int64_t calls() const { return calls_; }
  void stop() {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> stop_{false}, wrong_{false};
  std::atomic<int64_t> calls_{0};
  std::vector<std::thread> threads_;
};

int threads() {
  Workers workers(4);
  while (workers.calls() < 40000) std::this_thread::yield();
  workers.stop();
  return workers.wrong() ? failed("a call was handed the spectra of other contents") : 0;
}

int forks() {
  Workers workers(3);
  int stuck = 0;
  for (int i = 0; i < 100 && stuck == 0; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(120);  // its signal ends a child that waits for a lock, and none that waits for a processor
      for (int64_t j = 0; j < 20; ++j) {
        call(1000 + j, j);
        const auto workspace = new_floats(64 * (1 + j % 5));
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status)) ++stuck;
  }
  workers.stop();
  return stuck ? failed("a child waited for a lock that no thread of it holds") : 0;
}

int bounds() {
  SpectraCache& cache = SpectraCache::instance();
  const auto most = static_cast<int64_t>(SpectraCache::kMostEntries);
  for (int64_t i = 0; i < most + 100; ++i) cache.insert(key_of(i), contents(i), spectra_of(i));
  if (cache.entries() != SpectraCache::kMostEntries || cache.bytes() != most * kBytes) return failed("entries are not bounded");
  if (cache.find(key_of(99), contents(99))) return failed("the oldest are to go first");
  for (int64_t i = 100; i < most + 100; ++i) {
    const auto found = cache.find(key_of(i), contents(i));
    if (!found || found[0] != static_cast<float>(i)) return failed("an entry is lost");
    if (cache.find(key_of(i), contents(i + 1))) return failed("found for other contents");
  }
  if (cache.find(key_of(100, kBytes + 64), contents(100))) return failed("found for another plan");
  cache.find(key_of(100), contents(100));  // now the most recently used
  cache.insert(key_of(101), contents(-1), spectra_of(-1));
  if (cache.entries() != SpectraCache::kMostEntries) return failed("new contents of a weight are to replace the old");
  if (!cache.find(key_of(101), contents(-1))) return failed("new contents are not found");
  // 256 MB are kept unless the environment says otherwise.
  cache.clear();
  for (int64_t i = 0; i < 5; ++i) cache.insert(key_of(i, 60 << 20), contents(i), spectra_of(i));
  if (cache.entries() != 4 || cache.bytes() != 240 << 20) return failed("bytes are not bounded");
  cache.insert(key_of(9, 257 << 20), contents(9), spectra_of(9));
  if (cache.entries() != 4) return failed("more than the cache can hold was taken in");
  cache.clear();
  return cache.entries() == 0 && cache.bytes() == 0 ? 0 : failed("cleared, and not empty");
}

double nanoseconds_of_this_thread() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

int speed() {
  SpectraCache& cache = SpectraCache::instance();
  for (const int64_t entries : {4, 400, 16000}) {
    cache.clear();
    for (int64_t i = 0; i < entries; ++i) cache.insert(key_of(i), contents(i), spectra_of(i));
    double least = std::numeric_limits<double>::infinity();
    for (int r = 0; r < 9; ++r) {
      const double begin = nanoseconds_of_this_thread();
      for (int64_t i = 0; i < 4000; ++i) cache.find(key_of(i % entries), contents(i % entries));
      least = std::min(least, (nanoseconds_of_this_thread() - begin) / 4000);
    }
    std::printf("%ld %.0f\n", static_cast<long>(entries), least);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "threads") return threads();
  if (what == "forks") return forks();
  if (what == "bounds") return bounds();
  if (what == "speed") return speed();
  return failed("expected threads, forks, bounds or speed");
}
