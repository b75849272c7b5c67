// Inner products and linear combinations of float32 vectors in float64, in one pass over them (docs/speed.md).
//
// Every number is added in the order of the eager path (cpl_ray/vectors.py), so that the bits are the same: products of
// two floats are exact in a double, a block of them is halved until one is left, and a combination is fused where torch
// fuses. The compiler must not contract on its own.
#include <cstdint>

namespace {

constexpr int64_t BLOCK = 1024, HALF = BLOCK / 2;

double block(const float* __restrict a, const float* __restrict b) {
  double sums[HALF];
  for (int64_t i = 0; i < HALF; ++i)
    sums[i] = (double)a[i] * (double)b[i] + (double)a[i + HALF] * (double)b[i + HALF];
  for (int64_t half = HALF / 2; half >= 8; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  for (int64_t half = 4; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

}  // namespace

extern "C" {

// Writes sums[pair * stride + block] for each pair i <= j of `count` vectors, row by row of the upper triangle, and each
// block of the `n` elements; the last block is filled up with zeros.
void cpl_products(int64_t n, int64_t count, const float* const* vectors, int64_t stride, double* sums) {
  for (int64_t start = 0; start < n; start += BLOCK) {
    const int64_t number = start / BLOCK, rest = n - start;
    double* at = sums + number;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = i; j < count; ++j, at += stride) {
        if (rest >= BLOCK) {
          *at = block(vectors[i] + start, vectors[j] + start);
          continue;
        }
        float a[BLOCK] = {}, b[BLOCK] = {};
        for (int64_t k = 0; k < rest; ++k) a[k] = vectors[i][start + k], b[k] = vectors[j][start + k];
        *at = block(a, b);
      }
  }
}

// result = sum_k factors[k] * vectors[k], added up in float64 and rounded once.
void cpl_combination(int64_t n, int64_t count, const float* const* vectors, const double* factors,
                     float* __restrict result) {
  constexpr int64_t PART = 512;
  double total[PART];
  for (int64_t start = 0; start < n; start += PART) {
    const int64_t size = n - start < PART ? n - start : PART;
    const float* first = vectors[0] + start;
    for (int64_t i = 0; i < size; ++i) total[i] = (double)first[i] * factors[0];
    for (int64_t k = 1; k < count; ++k) {
      const float* other = vectors[k] + start;
      const double factor = factors[k];
      for (int64_t i = 0; i < size; ++i) total[i] = __builtin_fma((double)other[i], factor, total[i]);
    }
    for (int64_t i = 0; i < size; ++i) result[start + i] = (float)total[i];
  }
}
}
