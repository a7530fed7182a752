#include "fingerprint.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <tuple>
#include <vector>

namespace gcn::cpu {
namespace {

constexpr int64_t kChunk = 256 << 10;  // of one unit of work

// One binary, the widest vectors of the CPU it runs on.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define GCN_WIDEST_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GCN_WIDEST_VECTORS
#endif

GCN_WIDEST_VECTORS void mix_blocks(uint64_t* lanes, const char* data, int64_t blocks) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  uint64_t state[std::tuple_size<Fingerprint>::value], words[std::tuple_size<Fingerprint>::value];
  std::memcpy(state, lanes, sizeof state);
  for (int64_t b = 0; b < blocks; ++b, data += sizeof words) {
    std::memcpy(words, data, sizeof words);
    for (size_t i = 0; i < std::size(state); ++i) {
      // Each step is a bijection. The shift brings high bits down: without it two flipped signs would cancel.
      state[i] = (state[i] ^ words[i]) * kOdd;
      state[i] ^= state[i] >> 29;
    }
  }
  std::memcpy(lanes, state, sizeof state);
}

Fingerprint fingerprint_of_bytes(const char* data, int64_t bytes) {
  Fingerprint lanes;
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = i + 1;
  constexpr int64_t kBlock = sizeof(Fingerprint);
  const int64_t blocks = bytes / kBlock;
  mix_blocks(lanes.data(), data, blocks);
  char rest[kBlock] = {};
  std::memcpy(rest, data + blocks * kBlock, static_cast<size_t>(bytes - blocks * kBlock));
  mix_blocks(lanes.data(), rest, 1);
  return lanes;
}

}  // namespace

Fingerprint fingerprint(const void* data, int64_t bytes, const fft::Parallel& parallel) {
  struct Work {
    const char* data;
    int64_t bytes;
    std::vector<Fingerprint> chunks;
  };
  Work work{static_cast<const char*>(data), bytes, std::vector<Fingerprint>(static_cast<size_t>((bytes + kChunk - 1) / kChunk))};
  const auto one_chunk = [](void* arg, int64_t i) {
    Work& w = *static_cast<Work*>(arg);
    w.chunks[static_cast<size_t>(i)] = fingerprint_of_bytes(w.data + i * kChunk, std::min(kChunk, w.bytes - i * kChunk));
  };
  parallel.run(parallel.context, static_cast<int64_t>(work.chunks.size()), one_chunk, &work);
  return fingerprint_of_bytes(reinterpret_cast<const char*>(work.chunks.data()),
                              static_cast<int64_t>(work.chunks.size() * sizeof(Fingerprint)));
}

}  // namespace gcn::cpu
