// Greedy non-maximum suppression of boxes that are sorted by score, for several images of unequal counts at once.
//
// The boxes are taken in phases of PHASE. Two kernels a phase: `nms_compare` finds, in parallel, which box of the phase
// overlaps which later one, and which overlaps a box kept before; `nms_keep` then walks through the phase, 64 boxes at
// a time. A phase that begins after an image has enough boxes, or none left, returns at once: the host never asks.
//
// Letters: N images, K boxes an image at the most, T tiles of 64 boxes a phase.

typedef unsigned long long Bits;  // one a box of a tile

constexpr int T = PHASE / TILE;

// torchvision's rule and order of operations: the last bit decides at a tie, and a tie keeps both.
__device__ inline bool overlap(const float* a, const float* b, float thresh) {
  const float height = fmaxf(fminf(a[2], b[2]) - fmaxf(a[0], b[0]), 0.0f);
  const float width = fmaxf(fminf(a[3], b[3]) - fmaxf(a[1], b[1]), 0.0f);
  const float both = height * width;
  const float area_a = (a[2] - a[0]) * (a[3] - a[1]), area_b = (b[2] - b[0]) * (b[3] - b[1]);
  return both / (area_a + area_b - both) > thresh;
}

// Blocks of TILE threads; grid (T, T + kept tiles, N). Rows y < T: tile y of the phase against tile x of the phase.
// Rows y >= T: the (y - T)-th tile of the boxes kept before against tile x.
extern "C" __global__ void nms_compare(
    const float* boxes,      // (N, K, 4) best score first
    const long long* groups,  // (N, K): boxes of different groups never suppress each other; or null
    const int* counts,       // (N,) how many of the K there are
    float thresh, int K, int start, int n_post,
    const long long* keep,   // (N, n_post) what was kept before: indices of boxes
    const int* n_keep,       // (N,)
    Bits* overlaps,          // (N, PHASE, T) which boxes of a tile a box suppresses
    Bits* gone)              // (N, T) zeros: which boxes of the phase were suppressed by those kept before
{
  __shared__ float other[TILE][4];
  __shared__ long long other_group[TILE];
  const int n = blockIdx.z, column = blockIdx.x, kept_tile = (int)blockIdx.y - T;
  const int count = min(counts[n], K), kept = n_keep[n];
  if (kept >= n_post || start + column * TILE >= count) return;
  if (kept_tile >= 0 ? kept_tile * TILE >= kept : (int)blockIdx.y > column || start + (int)blockIdx.y * TILE >= count) return;

  boxes += (long long)n * K * 4;
  if (groups) groups += (long long)n * K;
  keep += (long long)n * n_post;

  // `own` is this thread's box, the others stand in shared memory: the later tile, or the boxes kept before
  const int own = start + (kept_tile >= 0 ? column : (int)blockIdx.y) * TILE + threadIdx.x;
  const int first = kept_tile >= 0 ? kept_tile * TILE : start + column * TILE;
  const int n_other = min(TILE, (kept_tile >= 0 ? kept : count) - first);
  if ((int)threadIdx.x < n_other) {
    const long long at = kept_tile >= 0 ? keep[first + threadIdx.x] : first + threadIdx.x;
    for (int i = 0; i < 4; i++) other[threadIdx.x][i] = boxes[at * 4 + i];
    other_group[threadIdx.x] = groups ? groups[at] : 0;
  }
  __syncthreads();
  if (own >= count) return;
  const float box[4] = {boxes[own * 4LL], boxes[own * 4LL + 1], boxes[own * 4LL + 2], boxes[own * 4LL + 3]};
  const long long group = groups ? groups[own] : 0;

  if (kept_tile >= 0) {
    for (int j = 0; j < n_other; j++)
      if (other_group[j] == group && overlap(other[j], box, thresh)) {
        atomicOr(gone + (long long)n * T + column, 1ULL << threadIdx.x);
        return;
      }
  } else {
    Bits bits = 0;
    for (int j = (int)blockIdx.y == column ? threadIdx.x + 1 : 0; j < n_other; j++)  // later boxes only
      if (other_group[j] == group && overlap(box, other[j], thresh)) bits |= 1ULL << j;
    overlaps[((long long)n * PHASE + own - start) * T + column] = bits;
  }
}

// One block of THREADS threads an image.
extern "C" __global__ void nms_keep(
    const Bits* overlaps, const Bits* gone, const int* counts, int K, int start, int n_post, long long* keep, int* n_keep)
{
  __shared__ Bits dead[T], diagonal[TILE], alive;
  const int n = blockIdx.x, count = min(counts[n], K);
  int kept = n_keep[n];
  if (kept >= n_post || start >= count) return;
  overlaps += (long long)n * PHASE * T;
  keep += (long long)n * n_post;

  if (threadIdx.x < T) dead[threadIdx.x] = gone[(long long)n * T + threadIdx.x];
  __syncthreads();
  for (int tile = 0; tile < T && start + tile * TILE < count && kept < n_post; tile++) {
    const int n_own = min(TILE, count - start - tile * TILE);
    if ((int)threadIdx.x < n_own) diagonal[threadIdx.x] = overlaps[(tile * TILE + threadIdx.x) * T + tile];
    __syncthreads();
    if (threadIdx.x == 0) {
      Bits open = ~dead[tile] & (n_own == TILE ? ~0ULL : (1ULL << n_own) - 1), chosen = 0;
      for (int room = n_post - kept; open && room > 0; room--) {
        const int best = __ffsll((long long)open) - 1;
        chosen |= 1ULL << best;
        open &= ~(1ULL << best) & ~diagonal[best];
      }
      alive = chosen;
    }
    __syncthreads();
    // each thread has a later tile and every eighth box of this one
    const int later = threadIdx.x % T;
    Bits bits = 0;
    if (later > tile && start + later * TILE < count)
      for (int i = threadIdx.x / T; i < n_own; i += (int)blockDim.x / T)
        if (alive >> i & 1) bits |= overlaps[(tile * TILE + i) * T + later];
    if (bits) atomicOr(dead + later, bits);
    if ((int)threadIdx.x < n_own && alive >> threadIdx.x & 1)
      keep[kept + __popcll(alive & ((1ULL << threadIdx.x) - 1))] = start + tile * TILE + threadIdx.x;
    kept += __popcll(alive);
    __syncthreads();
  }
  if (threadIdx.x == 0) n_keep[n] = kept;
}
