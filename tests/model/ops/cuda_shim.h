// Runs a CUDA kernel on the CPU, one block after another, the threads of a block as fibers that take turns at barriers.
// Where a GPU would hang or go wrong, namely at a barrier that some threads of a block never reach and at two barriers in
// different places at once, `shim::diverged` is set, and the launch reports it.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __shared__ static  // one block at a time
#define __restrict__

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
constexpr size_t STACK = 64 * 1024;
struct Fiber { ucontext_t context; std::vector<char> stack = std::vector<char>(STACK); bool done = false; };
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static void (*body)(void*);
static void* body_data;
static unsigned votes[32];
static int barrier[1024];  // the source line of the barrier at which each thread waits
static bool diverged = false;
static bool reversed = false;  // the order in which the threads of a block take their turns

static void enter() {
  body(body_data);
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

static void run_block() {
  const unsigned n = blockDim.x;
  if (fibers.size() < n) fibers.resize(n);
  for (unsigned i = 0; i < n; i++) {
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = fibers[i].stack.data();
    fibers[i].context.uc_stack.ss_size = STACK;
    fibers[i].context.uc_link = nullptr;
    fibers[i].done = false;
    makecontext(&fibers[i].context, enter, 0);
  }
  for (unsigned left = n; left > 0;) {
    for (unsigned k = 0; k < n; k++) {
      const unsigned i = reversed ? n - 1 - k : k;
      if (fibers[i].done) continue;
      current = i;
      threadIdx = {i, 0, 0};
      swapcontext(&scheduler, &fibers[i].context);
      if (fibers[i].done) left--;
    }
    for (unsigned i = 1; i < n && left > 0; i++)
      diverged |= fibers[i].done != fibers[0].done || barrier[i] != barrier[0];
  }
}
}  // namespace shim

static inline void wait_at(int line) {
  const unsigned own = shim::current;
  shim::barrier[own] = line;
  swapcontext(&shim::fibers[own].context, &shim::scheduler);
  threadIdx = {own, 0, 0};
}

#define __syncthreads() wait_at(__LINE__)

static inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned& word = shim::votes[threadIdx.x / 32];
  word = 0;
  __syncthreads();
  if (vote) word |= 1u << threadIdx.x % 32;
  __syncthreads();
  const unsigned result = word;
  __syncthreads();
  return result;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
template <class Word> Word atomicOr(Word* at, Word bits) { Word old = *at; *at |= bits; return old; }

#define half_to_float half_to_float
static inline float half_to_float(unsigned short bits) { _Float16 x; memcpy(&x, &bits, 2); return (float)x; }
static inline unsigned short float_to_half(float value) {
  _Float16 x = (_Float16)value;
  unsigned short bits;
  memcpy(&bits, &x, 2);
  return bits;
}

namespace shim {
// As the driver's launch: `arguments[i]` points to the i-th argument.
template <class... A> void launch(void (*kernel)(A...), Index grid, unsigned n_thread, void** arguments) {
  struct Call { void (*kernel)(A...); void** arguments; } call{kernel, arguments};
  body_data = &call;
  body = [](void* data) {
    auto* call = static_cast<Call*>(data);
    [&]<size_t... I>(std::index_sequence<I...>) {
      call->kernel(*static_cast<A*>(call->arguments[I])...);
    }(std::index_sequence_for<A...>());
  };
  gridDim = grid;
  blockDim = {n_thread, 1, 1};
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        run_block();
      }
}
}  // namespace shim

#define EXPORT(kernel)                                                                                             \
  extern "C" int launch_##kernel(unsigned x, unsigned y, unsigned z, unsigned n, int reversed, void** arguments) { \
    shim::reversed = reversed;                                                                                     \
    shim::diverged = false;                                                                                        \
    shim::launch(kernel, {x, y, z}, n, arguments);                                                                 \
    return shim::diverged;                                                                                         \
  }
