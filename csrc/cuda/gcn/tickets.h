// Counters by which the blocks of a launch find out which of them is the last: each call's are its own, and zero when it starts.
//
// Nothing of a call could set them to zero, where the first launch uses them. So they live in the kernel's module, zero from the
// start, and the block that takes a counter's last ticket sets it back. Which counters a call has follows from its workspace: two
// calls that run at a time, from two streams or graphs, have two of these, and whoever replays a graph has the one that it was
// captured with. A call in memory that none has had before is given new ones, as long as there are any: of a process that has
// used them all, calls in other memory have them in their workspace, and clear them first, which takes a microsecond or two.
#pragma once

#include <mutex>
#include <unordered_map>

#include "tiles.h"

namespace gcn::cuda {

class TicketCounters {
 public:
  // Of the call with this workspace the first counter, or -1.
  static int of(const void* workspace) {
    static TicketCounters all;
    const std::lock_guard<std::mutex> lock(all.mutex_);
    const auto found = all.slots_.find(workspace);
    if (found != all.slots_.end()) return found->second * kTicketsOfACall;
    if (all.slots_.size() == kTicketSlots) return -1;
    const int slot = int(all.slots_.size());
    all.slots_.emplace(workspace, slot);
    return slot * kTicketsOfACall;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const void*, int> slots_;
};

}  // namespace gcn::cuda
