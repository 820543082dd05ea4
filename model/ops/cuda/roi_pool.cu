// RoI pooling (Girshick 2015, Fast R-CNN, section 2.1), with torchvision's rounding.
//
// Letters: N images, C channels, (H, W) a map, R RoIs, P bins a side.

struct Region {  // a RoI in cells of the map
  int top, left, height, width;
  float bin_height, bin_width;
};

__device__ inline Region region_of(const float* roi, float spatial_scale, int P) {
  Region g;
  g.top = (int)roundf(roi[0] * spatial_scale);
  g.left = (int)roundf(roi[1] * spatial_scale);
  g.height = max((int)roundf(roi[2] * spatial_scale) - g.top + 1, 1);
  g.width = max((int)roundf(roi[3] * spatial_scale) - g.left + 1, 1);
  g.bin_height = (float)g.height / (float)P;
  g.bin_width = (float)g.width / (float)P;
  return g;
}

// The cells [begin, end) of a bin, counted from the RoI's first; neighbouring bins may share one.
__device__ inline int bin_begin(int bin, float size) { return (int)floorf((float)bin * size); }
__device__ inline int bin_end(int bin, float size) { return (int)ceilf((float)(bin + 1) * size); }

__device__ inline int clamp(int value, int limit) { return min(max(value, 0), limit); }

extern "C" __global__ void roi_pool_forward(
    const Scalar* x, long long stride_n, long long stride_c, long long stride_h, long long stride_w,
    const float* rois, const long long* roi_indices, float spatial_scale, int C, int H, int W, int P,
    Scalar* out,   // (R, C, P, P)
    int* argmax)   // (R, P, P, C) cell of the maximum, h * W + w; -1 in an empty bin
{
  const int r = blockIdx.x;
  const Region g = region_of(rois + 4 * (long long)r, spatial_scale, P);
  const Scalar* map = x + roi_indices[r] * stride_n;

  write_bins(out, C, P, stride_c == 1, [&](int c, int bin) {
    const int ph = bin / P, pw = bin % P;
    const int h0 = clamp(g.top + bin_begin(ph, g.bin_height), H), h1 = clamp(g.top + bin_end(ph, g.bin_height), H);
    const int w0 = clamp(g.left + bin_begin(pw, g.bin_width), W), w1 = clamp(g.left + bin_end(pw, g.bin_width), W);
    float best = h0 < h1 && w0 < w1 ? FLOAT_LOWEST : 0.0f;
    int at = -1;
    for (int h = h0; h < h1; h++)
      for (int w = w0; w < w1; w++) {
        const float value = load(map + c * stride_c + h * stride_h + w * stride_w);
        if (value > best) {
          best = value;
          at = h * W + w;
        }
      }
    argmax[((long long)r * P * P + bin) * C + c] = at;
    return best;
  });
}

// A block has one cell and THREADS channels, and gathers what the RoIs over this cell send to it, in order of their
// index: no atomics, so the sums are the same in every run. Grid (W, H, N * (C / THREADS)).
extern "C" __global__ void roi_pool_backward(
    const Scalar* grad,  // (R, P, P, C)
    const int* argmax,   // (R, P, P, C)
    const float* rois, const long long* roi_indices, float spatial_scale, int R, int C, int H, int W, int P,
    Scalar* grad_x)      // (N, H, W, C)
{
  __shared__ int covering[THREADS];
  __shared__ short first_bin[THREADS][2], last_bin[THREADS][2];  // of each RoI that covers the cell: rows, columns
  const int w = blockIdx.x, h = blockIdx.y, n_block = (C + THREADS - 1) / THREADS;
  const int n = blockIdx.z / n_block, c = blockIdx.z % n_block * THREADS + threadIdx.x;
  const int cell = h * W + w;

  float sum = 0.0f;
  for (int r0 = 0; r0 < R; r0 += THREADS) {
    const int r = r0 + threadIdx.x;
    bool covers = r < R && roi_indices[r] == n;
    if (covers) {
      const Region g = region_of(rois + 4 * (long long)r, spatial_scale, P);
      // the last bin's end, not the RoI's: rounding may take the bin one cell further, and the forward pass goes there
      covers = h >= g.top && h < g.top + bin_end(P - 1, g.bin_height) &&
               w >= g.left && w < g.left + bin_end(P - 1, g.bin_width);
      // which of its bins have the cell: by the numbers of the forward pass, so that none is missed by rounding
      int first[2] = {P, P}, last[2] = {-1, -1};
      for (int bin = 0; covers && bin < P; bin++) {
        const int cells[2] = {h - g.top, w - g.left};
        const float sizes[2] = {g.bin_height, g.bin_width};
        for (int axis = 0; axis < 2; axis++)
          if (bin_begin(bin, sizes[axis]) <= cells[axis] && cells[axis] < bin_end(bin, sizes[axis])) {
            first[axis] = min(first[axis], bin);
            last[axis] = bin;
          }
      }
      for (int axis = 0; axis < 2; axis++) {
        first_bin[threadIdx.x][axis] = (short)first[axis];
        last_bin[threadIdx.x][axis] = (short)last[axis];
      }
    }
    const int n_covering = list_in_order(covers, threadIdx.x, covering);
    for (int k = 0; c < C && k < n_covering; k++) {
      const int slot = covering[k];
      for (int ph = first_bin[slot][0]; ph <= last_bin[slot][0]; ph++)
        for (int pw = first_bin[slot][1]; pw <= last_bin[slot][1]; pw++) {
          const long long at = (((long long)(r0 + slot) * P + ph) * P + pw) * C + c;
          if (argmax[at] == cell) sum += load(grad + at);
        }
    }
    __syncthreads();
  }
  if (c < C) store(grad_x + (((long long)n * H + h) * W + w) * C + c, sum);
}
