// Passes over a matrix of rows and channels, row after row in memory: what a batch of channels-last
// images is. They know nothing of torch; each works on one range of rows, so that a caller can give
// every thread its own. Per-channel arguments have `channels` elements, sums are added to.
#pragma once

#include <bit>
#include <cstdint>

namespace nearkin::rows {

// What happened to a value behind the batch norm, for its way back.
enum class After {
  // Nothing, or nothing that is left to undo.
  Nothing,
  // A ReLU: where the normalised value is not above 0, no gradient passes.
  Relu,
  // A sum with the shortcut and a ReLU, whose result is given.
  Sum,
};

template <typename T>
struct Matrix {
  T* data;
  int64_t rows;
  int64_t channels;
};

// y = scale * (x - mean) + shift, per channel.
template <typename T>
struct Line {
  const T* scale;
  const T* mean;
  const T* shift;
};

// The upper half of a float. Such values are computed with as floats, and so are their arguments per
// channel.
struct Bfloat16 {
  uint16_t bits;
};

__attribute__((always_inline)) inline float value_of(float x) { return x; }
__attribute__((always_inline)) inline double value_of(double x) { return x; }
__attribute__((always_inline)) inline float value_of(Bfloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Every pass for values of type S and per-channel arguments of type T.
#define NEARKIN_ROWS(S, T)                                                                         \
  /* Sums of x - pivot and of its square. Within a block of rows the sums are of T, around a */    \
  /* pivot near the mean, so that they keep their digits; from block to block they are double. */  \
  void moments(Matrix<const S> x, const T* pivot, double* sums, double* squares);                  \
  /* The line, plus `shortcut` unless it is null, not below 0 if `relu`. `y` may be `x`. */        \
  void apply(Matrix<const S> x, Line<T> line, const S* shortcut, bool relu, S* y);                 \
  /* Sums of the gradient g and of g * (x - mean), where g is `gradient` with what came after */   \
  /* undone. Of a sum, `result` is what it made, and g is written to `passed`. */                  \
  void reduce(Matrix<const S> x, const S* gradient, Line<T> line, After after, const S* result,    \
              S* passed, double* sums, double* products);                                          \
  /* scale * g + slope * (x - mean) + level, into `out`. `after` is not Sum: g was written. */     \
  void spread(Matrix<const S> x, const S* gradient, Line<T> line, After after, const T* slope,     \
              const T* level, S* out);
NEARKIN_ROWS(float, float)
NEARKIN_ROWS(double, double)
NEARKIN_ROWS(Bfloat16, float)
#undef NEARKIN_ROWS

}  // namespace nearkin::rows
