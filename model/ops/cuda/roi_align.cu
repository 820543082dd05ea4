// RoI align (He et al. 2017, Mask R-CNN, section 3), as torchvision computes it.
//
// Letters: N images, C channels, (H, W) a map, R RoIs, P bins a side, G samples a side of a bin.

struct Axis {  // the samples of a RoI along one axis, in cells
  float begin, bin;
  int G;
};

__device__ inline Axis axis_of(float low, float high, float spatial_scale, int aligned, int sampling_ratio, int P) {
  const float offset = aligned ? 0.5f : 0.0f;
  Axis a;
  a.begin = low * spatial_scale - offset;
  float size = high * spatial_scale - offset - a.begin;
  if (!aligned) size = fmaxf(size, 1.0f);
  a.bin = size / (float)P;
  a.G = sampling_ratio > 0 ? sampling_ratio : (int)ceilf(a.bin);
  return a;
}

__device__ inline float sample(const Axis& a, int bin, int g) {
  return a.begin + (float)bin * a.bin + ((float)g + 0.5f) * a.bin / (float)a.G;
}

// Samples further than a cell from the map count 0; those nearer take the border's value.
__device__ inline bool outside(float at, int n_cell) { return at < -1.0f || at > (float)n_cell; }

__device__ inline float onto_map(float at, int n_cell) { return fminf(fmaxf(at, 0.0f), (float)(n_cell - 1)); }

extern "C" __global__ void roi_align_forward(
    const Scalar* x, long long stride_n, long long stride_c, long long stride_h, long long stride_w,
    const float* rois, const long long* roi_indices, float spatial_scale, int aligned, int sampling_ratio,
    int C, int H, int W, int P,
    Scalar* out)  // (R, C, P, P)
{
  const int r = blockIdx.x;
  const float* roi = rois + 4 * (long long)r;
  const Axis vertical = axis_of(roi[0], roi[2], spatial_scale, aligned, sampling_ratio, P);
  const Axis horizontal = axis_of(roi[1], roi[3], spatial_scale, aligned, sampling_ratio, P);
  const float count = (float)max(vertical.G * horizontal.G, 1);
  const Scalar* map = x + roi_indices[r] * stride_n;

  write_bins(out, C, P, stride_c == 1, [&](int c, int bin) {
    const Scalar* plane = map + c * stride_c;
    float sum = 0.0f;
    for (int gy = 0; gy < vertical.G; gy++) {
      float y = sample(vertical, bin / P, gy);
      if (outside(y, H)) continue;
      y = onto_map(y, H);
      const int top = (int)y, bottom = min(top + 1, H - 1);
      const float below = y - (float)top, above = 1.0f - below;
      for (int gx = 0; gx < horizontal.G; gx++) {
        float at = sample(horizontal, bin % P, gx);
        if (outside(at, W)) continue;
        at = onto_map(at, W);
        const int left = (int)at, right = min(left + 1, W - 1);
        const float after = at - (float)left, before = 1.0f - after;
        sum += above * before * load(plane + top * stride_h + left * stride_w) +
               above * after * load(plane + top * stride_h + right * stride_w) +
               below * before * load(plane + bottom * stride_h + left * stride_w) +
               below * after * load(plane + bottom * stride_h + right * stride_w);
      }
    }
    return sum / count;
  });
}

// How much of the cell is in a bin along one axis: the mean over the bin's samples of their bilinear weights.
__device__ inline float weight_of(const Axis& a, int bin, int cell, int n_cell) {
  float sum = 0.0f;
  for (int g = 0; g < a.G; g++) {
    const float at = sample(a, bin, g);
    if (!outside(at, n_cell)) sum += fmaxf(1.0f - fabsf(onto_map(at, n_cell) - (float)cell), 0.0f);
  }
  return a.G > 0 ? sum / (float)a.G : 0.0f;
}

constexpr int BATCH = 32;  // RoIs whose weights a block holds at a time

// As roi_pool_backward: a block has one cell and THREADS channels, and gathers. A RoI's gradient reaches the cell with
// a weight in y times a weight in x, since its samples are a grid. Grid (W, H, N * (C / THREADS)).
extern "C" __global__ void roi_align_backward(
    const Scalar* grad,  // (R, P, P, C)
    const float* rois, const long long* roi_indices, float spatial_scale, int aligned, int sampling_ratio,
    int R, int C, int H, int W, int P,
    Scalar* grad_x)      // (N, H, W, C)
{
  __shared__ int covering[THREADS];
  __shared__ float weights[BATCH][2][MAX_BINS];  // rows, columns
  const int w = blockIdx.x, h = blockIdx.y, n_block = (C + THREADS - 1) / THREADS;
  const int n = blockIdx.z / n_block, c = blockIdx.z % n_block * THREADS + threadIdx.x;

  float sum = 0.0f;
  for (int r0 = 0; r0 < R; r0 += THREADS) {
    const int r = r0 + threadIdx.x;
    bool covers = r < R && roi_indices[r] == n;
    if (covers) {  // a sample reaches less than a cell
      const float* roi = rois + 4 * (long long)r;
      const Axis vertical = axis_of(roi[0], roi[2], spatial_scale, aligned, sampling_ratio, P);
      const Axis horizontal = axis_of(roi[1], roi[3], spatial_scale, aligned, sampling_ratio, P);
      const float bottom = vertical.begin + vertical.bin * (float)P, right = horizontal.begin + horizontal.bin * (float)P;
      covers = (float)h >= fminf(vertical.begin, bottom) - 1.0f && (float)h <= fmaxf(vertical.begin, bottom) + 1.0f &&
               (float)w >= fminf(horizontal.begin, right) - 1.0f && (float)w <= fmaxf(horizontal.begin, right) + 1.0f;
    }
    const int n_covering = list_in_order(covers, r, covering);
    for (int k0 = 0; k0 < n_covering; k0 += BATCH) {
      const int n_batch = min(BATCH, n_covering - k0);
      for (int item = threadIdx.x; item < n_batch * 2 * P; item += THREADS) {
        const int k = item / (2 * P), axis = item / P % 2, bin = item % P;
        const float* roi = rois + 4 * (long long)covering[k0 + k];
        const Axis a = axis_of(roi[axis], roi[axis + 2], spatial_scale, aligned, sampling_ratio, P);
        weights[k][axis][bin] = weight_of(a, bin, axis ? w : h, axis ? W : H);
      }
      __syncthreads();
      for (int k = 0; c < C && k < n_batch; k++)
        for (int ph = 0; ph < P; ph++) {
          if (weights[k][0][ph] == 0.0f) continue;
          for (int pw = 0; pw < P; pw++) {
            const float weight = weights[k][0][ph] * weights[k][1][pw];
            if (weight != 0.0f)
              sum += weight * load(grad + (((long long)covering[k0 + k] * P + ph) * P + pw) * C + c);
          }
        }
      __syncthreads();
    }
  }
  if (c < C) store(grad_x + (((long long)n * H + h) * W + w) * C + c, sum);
}
