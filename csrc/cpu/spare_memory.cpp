#include "spare_memory.h"

#include <list>
#include <mutex>
#include <new>

namespace gcn::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Piece {
  float* data;
  int64_t bytes;
};

struct Spare {
  std::mutex mutex;
  std::list<Piece> pieces;  // most recently freed first
  int64_t bytes = 0;

  void drop_until(int64_t limit) {
    while (bytes > limit) {
      bytes -= pieces.back().bytes;
      ::operator delete[](pieces.back().data, kAlignment);
      pieces.pop_back();
    }
  }
};

Spare& spare() {
  static Spare* kept = new Spare;  // never destroyed: threads may outlive static destruction
  return *kept;
}

}  // namespace

void GiveBack::operator()(float* p) const {
  Spare& kept = spare();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  kept.pieces.push_front({p, bytes});
  kept.bytes += bytes;
  kept.drop_until(kSpareMemory);
}

Floats new_floats(int64_t bytes) {
  Spare& kept = spare();
  {
    const std::lock_guard<std::mutex> lock(kept.mutex);
    for (auto piece = kept.pieces.begin(); piece != kept.pieces.end(); ++piece) {
      if (piece->bytes != bytes) continue;
      Floats found(piece->data, GiveBack{bytes});
      kept.bytes -= bytes;
      kept.pieces.erase(piece);
      return found;
    }
  }
  return Floats(static_cast<float*>(::operator new[](static_cast<size_t>(bytes), kAlignment)), GiveBack{bytes});
}

int64_t spare_memory() {
  Spare& kept = spare();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  return kept.bytes;
}

void release_spare_memory() {
  Spare& kept = spare();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  kept.drop_until(0);
}

void lock_spare_memory() { spare().mutex.lock(); }
void unlock_spare_memory() { spare().mutex.unlock(); }

}  // namespace gcn::cpu
