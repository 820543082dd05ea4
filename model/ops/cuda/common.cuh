// What the kernels share. Put before each .cu file by model/ops/kernel.py, which defines one of the three SCALAR names
// below, and CHANNELS, THREADS, MAX_BINS, TILE and PHASE, which it launches by;
// compiled by NVRTC for a GPU, and by g++ behind a shim in the tests. No header is included: NVRTC needs none then.
//
// Feature maps are float32, float16 or bfloat16 and are read and written through load() and store(); everything is
// computed in float32. Boxes are (y_min, x_min, y_max, x_max), float32.

#if defined(SCALAR_FLOAT32)

typedef float Scalar;
__device__ inline float load(const Scalar* p) { return *p; }
__device__ inline void store(Scalar* p, float value) { *p = value; }

#elif defined(SCALAR_FLOAT16)

typedef unsigned short Scalar;  // its bits
#ifndef half_to_float  // the shim of the tests brings its own two
__device__ inline float half_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ inline unsigned short float_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
#endif
__device__ inline float load(const Scalar* p) { return half_to_float(*p); }
__device__ inline void store(Scalar* p, float value) { *p = float_to_half(value); }

#elif defined(SCALAR_BFLOAT16)

typedef unsigned short Scalar;  // the upper half of a float32
__device__ inline float load(const Scalar* p) { return __uint_as_float((unsigned)*p << 16); }
__device__ inline void store(Scalar* p, float value) {
  unsigned bits = __float_as_uint(value);
  if (value != value)
    *p = 0x7fc0;
  else  // to nearest, ties to even
    *p = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif

#define FLOAT_LOWEST (-3.402823466e38f)

// One thread each tests a RoI; those that pass are listed in order of their index, so that sums over the list always
// have one order. All threads of a block of at most 1024, a multiple of 32, must call it. Returns the length.
__device__ inline int list_in_order(bool passes, int value, int* list) {
  __shared__ unsigned votes[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned vote = __ballot_sync(0xffffffffu, passes);
  if (lane == 0) votes[warp] = vote;
  __syncthreads();
  int before = __popc(vote & ((1u << lane) - 1u)), total = 0;
  for (int w = 0; w < (int)blockDim.x / 32; w++) {
    if (w < warp) before += __popc(votes[w]);
    total += __popc(votes[w]);
  }
  if (passes) list[before] = value;
  __syncthreads();
  return total;
}

constexpr int BINS = 64;  // of a RoI that a block of a forward pass holds in shared memory at a time

// The forward passes: a block has one RoI and CHANNELS channels; grid (R, C / CHANNELS). value(c, bin) is computed so
// that a warp reads 32 channels of a cell where the map is channels_last, else the bins of a channel; the results pass
// through shared memory, so that out (R, C, P, P) is written in order.
template <class Value>
__device__ inline void write_bins(Scalar* out, int C, int P, bool channels_last, Value value) {
  __shared__ float tile[CHANNELS][BINS + 1];
  const int r = blockIdx.x, c0 = blockIdx.y * CHANNELS, n_channel = min(CHANNELS, C - c0);
  for (int bin0 = 0; bin0 < P * P; bin0 += BINS) {
    const int n_bin = min(BINS, P * P - bin0);
    for (int item = threadIdx.x; item < n_channel * n_bin; item += blockDim.x) {
      const int c = channels_last ? item % n_channel : item / n_bin;
      const int bin = channels_last ? item / n_channel : item % n_bin;
      tile[c][bin] = value(c0 + c, bin0 + bin);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < n_channel * n_bin; item += blockDim.x) {
      const int c = item / n_bin, bin = item % n_bin;
      store(out + ((long long)r * C + c0 + c) * P * P + bin0 + bin, tile[c][bin]);
    }
    __syncthreads();
  }
}
