// Fibers: stacks of their own within one operating-system thread, switched by hand. x86-64, System V calling convention.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the emulator's fibers are written for x86-64"
#endif

namespace simt {

// Saves the callee-saved registers on the running stack, its pointer in *save, and goes on where `load` was saved.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save: rdi*/, void* /*load: rsi*/) {
  asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n"
      "movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
      "ret\n");
}

// Memory for one stack above a page that nothing may touch: an overflow is a fault at the place where it happens.
class Stack {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kBytes = 512 << 10;  // red zones around every array of every inlined function
#else
  static constexpr size_t kBytes = 128 << 10;
#endif

  Stack() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* mapped = mmap(nullptr, page + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped, page, PROT_NONE) != 0) throw std::bad_alloc();
    mapped_ = mapped, bottom_ = static_cast<unsigned char*>(mapped) + page;
  }
  Stack(Stack&& other) noexcept : mapped_(std::exchange(other.mapped_, nullptr)), bottom_(other.bottom_) {}
  Stack& operator=(Stack&&) = delete;
  ~Stack() {
    if (mapped_) munmap(mapped_, static_cast<size_t>(bottom_ - static_cast<unsigned char*>(mapped_)) + kBytes);
  }

  const void* bottom() const { return bottom_; }

  // The stack pointer to switch to so that `entry` starts on this stack.
  void* prepare(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom_, kBytes);  // frames that a reported bug left behind
#endif
    void** top = reinterpret_cast<void**>(bottom_ + kBytes);
    *--top = nullptr;  // where entry would return to; keeps the alignment the convention asks for
    *--top = reinterpret_cast<void*>(entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    return top;
  }

 private:
  void* mapped_;
  unsigned char* bottom_;
};

// Tells AddressSanitizer which stack runs. Every switch is announced before and confirmed after it, on the new stack.
struct StackSwitch {
#if defined(__SANITIZE_ADDRESS__)
  static void announce(void** fake_stack, const void* bottom, size_t bytes) {
    __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
  }
  static void confirm(void* fake_stack, const void** from_bottom, size_t* from_bytes) {
    __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_bytes);
  }
#else
  static void announce(void**, const void*, size_t) {}
  static void confirm(void*, const void**, size_t*) {}
#endif
};

}  // namespace simt
