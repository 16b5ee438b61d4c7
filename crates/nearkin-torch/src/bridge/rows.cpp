#include "nearkin-torch/src/bridge/rows.hpp"

#include <algorithm>
#include <vector>

// One binary runs on every x86-64: the loader takes the form that fits the processor.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
// Only what is inlined is compiled in every form.
#define INLINED __attribute__((always_inline))
#define INLINE inline INLINED

namespace nearkin::rows {
namespace {

// Channels whose sums are kept in registers.
constexpr int64_t TILE = 32;
// Narrow matrices are worked on some rows at a time, as if they were one row of about this width.
constexpr int64_t WIDE = 64;
// Elements of a block of rows, which stays in the cache from tile to tile.
constexpr int64_t BLOCK = 16384;
// Rows of a block at most, so that sums within it stay short.
constexpr int64_t LONGEST = 256;

INLINE void put(float* to, float value) { *to = value; }
INLINE void put(double* to, double value) { *to = value; }
// To the nearest, of two to the even one.
INLINE void put(Bfloat16* to, float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to->bits = value != value ? 0x7fc0 : rounded;
}

INLINE int64_t rows_at_a_time(int64_t channels) {
  return std::max<int64_t>(1, WIDE / channels);
}

// A per-channel argument, once for each of the rows at a time.
template <typename T>
INLINE std::vector<T> repeated(const T* values, int64_t channels, int64_t times) {
  std::vector<T> all(channels * times);
  for (int64_t i = 0; i < times; ++i) {
    std::copy(values, values + channels, all.begin() + i * channels);
  }
  return all;
}

// Calls `tile(first element, rows, width, column)` for `TILE` columns at a time of a block of wide
// rows, and `single(element, column)` for what is left.
template <typename Tile, typename Single>
INLINE void in_tiles(int64_t rows, int64_t channels, Tile tile, Single single) {
  const int64_t times = rows_at_a_time(channels);
  const int64_t width = channels * times;
  const int64_t wide_rows = rows / times;
  const int64_t tiled = width / TILE * TILE;
  const int64_t step = std::clamp<int64_t>(BLOCK / width, 4, LONGEST);
  for (int64_t first = 0; first < wide_rows; first += step) {
    const int64_t count = std::min(step, wide_rows - first);
    for (int64_t column = 0; column < tiled; column += TILE) {
      tile(first * width + column, count, width, column);
    }
    for (int64_t row = first; row < first + count; ++row) {
      for (int64_t column = tiled; column < width; ++column) {
        single(row * width + column, column);
      }
    }
  }
  for (int64_t element = wide_rows * width; element < rows * channels; ++element) {
    single(element, element - wide_rows * width);
  }
}

template <typename T>
INLINE void add_folded(const std::vector<double>& wide, int64_t channels, double* sums) {
  for (size_t column = 0; column < wide.size(); ++column) {
    sums[column % channels] += wide[column];
  }
}

template <typename S, typename T>
INLINE void moments_of(Matrix<const S> x, const T* pivot, double* sums, double* squares) {
  const int64_t times = rows_at_a_time(x.channels);
  const auto pivots = repeated(pivot, x.channels, times);
  std::vector<double> wide_sums(pivots.size()), wide_squares(pivots.size());
  in_tiles(
      x.rows, x.channels,
      [&](int64_t start, int64_t count, int64_t width, int64_t column) INLINED {
        T sum[TILE] = {}, square[TILE] = {}, from[TILE];
        std::copy_n(&pivots[column], TILE, from);
        const S* at = x.data + start;
        for (int64_t row = 0; row < count; ++row, at += width) {
          for (int64_t j = 0; j < TILE; ++j) {
            const T distance = value_of(at[j]) - from[j];
            sum[j] += distance;
            square[j] += distance * distance;
          }
        }
        for (int64_t j = 0; j < TILE; ++j) {
          wide_sums[column + j] += sum[j];
          wide_squares[column + j] += square[j];
        }
      },
      [&](int64_t element, int64_t column) INLINED {
        const T distance = value_of(x.data[element]) - pivots[column];
        wide_sums[column] += distance;
        wide_squares[column] += distance * distance;
      });
  add_folded<T>(wide_sums, x.channels, sums);
  add_folded<T>(wide_squares, x.channels, squares);
}

// Calls `loop(first element, elements)` for each wide row.
template <typename Loop>
INLINE void in_rows(int64_t rows, int64_t channels, Loop loop) {
  const int64_t width = channels * rows_at_a_time(channels);
  const int64_t all = rows * channels;
  int64_t element = 0;
  for (; element + width <= all; element += width) {
    loop(element, width);
  }
  loop(element, all - element);
}

template <typename T>
struct WideLine {
  std::vector<T> scale, mean, shift;
  WideLine(Line<T> line, int64_t channels)
      : scale(repeated(line.scale, channels, rows_at_a_time(channels))),
        mean(repeated(line.mean, channels, rows_at_a_time(channels))),
        shift(repeated(line.shift, channels, rows_at_a_time(channels))) {}
};

template <bool SHORTCUT, bool RELU, typename S, typename T>
INLINE void apply_as(Matrix<const S> x, Line<T> line, const S* shortcut, S* y) {
  const WideLine<T> wide(line, x.channels);
  const T *scale = wide.scale.data(), *mean = wide.mean.data(), *shift = wide.shift.data();
  in_rows(x.rows, x.channels, [&](int64_t start, int64_t count) INLINED {
    const S* at = x.data + start;
    const S* other = SHORTCUT ? shortcut + start : nullptr;
    S* to = y + start;
#pragma GCC ivdep
    for (int64_t j = 0; j < count; ++j) {
      T value = scale[j] * (value_of(at[j]) - mean[j]) + shift[j];
      if (SHORTCUT) value += value_of(other[j]);
      put(to + j, RELU && !(value > 0) ? (value != value ? value : T(0)) : value);
    }
  });
}

template <typename S, typename T>
INLINE void apply_of(Matrix<const S> x, Line<T> line, const S* shortcut, bool relu, S* y) {
  if (shortcut != nullptr) {
    relu ? apply_as<true, true>(x, line, shortcut, y) : apply_as<true, false>(x, line, shortcut, y);
  } else {
    relu ? apply_as<false, true>(x, line, shortcut, y)
         : apply_as<false, false>(x, line, shortcut, y);
  }
}

template <After AFTER, typename S, typename T>
INLINE void reduce_as(Matrix<const S> x, const S* gradient, Line<T> line, const S* result,
                      S* passed, double* sums, double* products) {
  const WideLine<T> wide(line, x.channels);
  const T *scale = wide.scale.data(), *mean = wide.mean.data(), *shift = wide.shift.data();
  std::vector<double> wide_sums(wide.scale.size()), wide_products(wide.scale.size());
  auto one = [&](int64_t element, T distance, T scaled, T shifted) INLINED {
    T g = value_of(gradient[element]);
    if (AFTER == After::Relu) g = scaled * distance + shifted > 0 ? g : T(0);
    if (AFTER == After::Sum) {
      g = value_of(result[element]) > 0 ? g : T(0);
      put(passed + element, g);
    }
    return g;
  };
  in_tiles(
      x.rows, x.channels,
      [&](int64_t start, int64_t count, int64_t width, int64_t column) INLINED {
        T sum[TILE] = {}, product[TILE] = {}, scaled[TILE], from[TILE], shifted[TILE];
        std::copy_n(scale + column, TILE, scaled);
        std::copy_n(mean + column, TILE, from);
        std::copy_n(shift + column, TILE, shifted);
        for (int64_t row = 0; row < count; ++row) {
          const int64_t element = start + row * width;
          const S* at = x.data + element;
#pragma GCC ivdep
          for (int64_t j = 0; j < TILE; ++j) {
            const T distance = value_of(at[j]) - from[j];
            const T g = one(element + j, distance, scaled[j], shifted[j]);
            sum[j] += g;
            product[j] += g * distance;
          }
        }
        for (int64_t j = 0; j < TILE; ++j) {
          wide_sums[column + j] += sum[j];
          wide_products[column + j] += product[j];
        }
      },
      [&](int64_t element, int64_t column) INLINED {
        const T distance = value_of(x.data[element]) - mean[column];
        const T g = one(element, distance, scale[column], shift[column]);
        wide_sums[column] += g;
        wide_products[column] += g * distance;
      });
  add_folded<T>(wide_sums, x.channels, sums);
  add_folded<T>(wide_products, x.channels, products);
}

template <typename S, typename T>
INLINE void reduce_of(Matrix<const S> x, const S* gradient, Line<T> line, After after,
                      const S* result, S* passed, double* sums, double* products) {
  switch (after) {
    case After::Nothing:
      return reduce_as<After::Nothing>(x, gradient, line, result, passed, sums, products);
    case After::Relu:
      return reduce_as<After::Relu>(x, gradient, line, result, passed, sums, products);
    case After::Sum:
      return reduce_as<After::Sum>(x, gradient, line, result, passed, sums, products);
  }
}

template <bool RELU, typename S, typename T>
INLINE void spread_as(Matrix<const S> x, const S* gradient, Line<T> line, const T* slope,
                      const T* level, S* out) {
  const WideLine<T> wide(line, x.channels);
  const auto slopes = repeated(slope, x.channels, rows_at_a_time(x.channels));
  const auto levels = repeated(level, x.channels, rows_at_a_time(x.channels));
  const T *scale = wide.scale.data(), *mean = wide.mean.data(), *shift = wide.shift.data();
  const T *steep = slopes.data(), *high = levels.data();
  in_rows(x.rows, x.channels, [&](int64_t start, int64_t count) INLINED {
    const S *at = x.data + start, *from = gradient + start;
    S* to = out + start;
#pragma GCC ivdep
    for (int64_t j = 0; j < count; ++j) {
      const T distance = value_of(at[j]) - mean[j];
      T g = value_of(from[j]);
      if (RELU) g = scale[j] * distance + shift[j] > 0 ? g : T(0);
      put(to + j, scale[j] * g + (steep[j] * distance + high[j]));
    }
  });
}

template <typename S, typename T>
INLINE void spread_of(Matrix<const S> x, const S* gradient, Line<T> line, After after,
                      const T* slope, const T* level, S* out) {
  after == After::Relu ? spread_as<true>(x, gradient, line, slope, level, out)
                       : spread_as<false>(x, gradient, line, slope, level, out);
}

}  // namespace

#define FOR(S, T)                                                                                 \
  FOR_EACH_PROCESSOR void moments(Matrix<const S> x, const T* pivot, double* sums,                \
                                  double* squares) {                                              \
    moments_of(x, pivot, sums, squares);                                                          \
  }                                                                                               \
  FOR_EACH_PROCESSOR void apply(Matrix<const S> x, Line<T> line, const S* shortcut, bool relu,    \
                                S* y) {                                                           \
    apply_of(x, line, shortcut, relu, y);                                                         \
  }                                                                                               \
  FOR_EACH_PROCESSOR void reduce(Matrix<const S> x, const S* gradient, Line<T> line, After after, \
                                 const S* result, S* passed, double* sums, double* products) {    \
    reduce_of(x, gradient, line, after, result, passed, sums, products);                          \
  }                                                                                               \
  FOR_EACH_PROCESSOR void spread(Matrix<const S> x, const S* gradient, Line<T> line, After after, \
                                 const T* slope, const T* level, S* out) {                        \
    spread_of(x, gradient, line, after, slope, level, out);                                       \
  }
FOR(float, float)
FOR(double, double)
FOR(Bfloat16, float)
#undef FOR

}  // namespace nearkin::rows
