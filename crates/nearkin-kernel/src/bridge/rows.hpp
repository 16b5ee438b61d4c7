// Passes over a matrix of rows and channels, row after row in memory: what a batch of channels-last
// images is. They know nothing of torch; each works on one range of rows, so that a caller can give
// every thread its own. Per-channel arguments have `channels` elements, sums are added to.
#pragma once

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

// Sums of x - pivot and of its square. Within a block of rows the sums are of T, around a pivot near
// the mean, so that they keep their digits; from block to block they are double.
void moments(Matrix<const float> x, const float* pivot, double* sums, double* squares);
void moments(Matrix<const double> x, const double* pivot, double* sums, double* squares);

// The line, plus `shortcut` unless it is null, not below 0 if `relu`. `y` may be `x`.
void apply(Matrix<const float> x, Line<float> line, const float* shortcut, bool relu, float* y);
void apply(Matrix<const double> x, Line<double> line, const double* shortcut, bool relu, double* y);

// Sums of the gradient g and of g * (x - mean), where g is `gradient` with what came after undone.
// Of a sum, `result` is what it made, and g is written to `passed`.
void reduce(Matrix<const float> x, const float* gradient, Line<float> line, After after,
            const float* result, float* passed, double* sums, double* products);
void reduce(Matrix<const double> x, const double* gradient, Line<double> line, After after,
            const double* result, double* passed, double* sums, double* products);

// scale * g + slope * (x - mean) + level, into `out`. `after` is not Sum: g has been written already.
void spread(Matrix<const float> x, const float* gradient, Line<float> line, After after,
            const float* slope, const float* level, float* out);
void spread(Matrix<const double> x, const double* gradient, Line<double> line, After after,
            const double* slope, const double* level, double* out);

}  // namespace nearkin::rows
