#include "nearkin-torch/src/bridge/batch_norm.hpp"

#include <cmath>
#include <functional>

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include "nearkin-torch/src/bridge/rows.hpp"

namespace nearkin {

// What autograd takes for an input that may be absent.
using Optional = std::optional<at::Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the way back of `normalise` leaves for that of `moments`: the gradient behind the batch norm,
// and per group and channel the line through which it went.
struct Way : torch::CustomClassHolder {
  rows::After after = rows::After::Nothing;
  at::Tensor gradient;
  at::Tensor line;
};

namespace {

constexpr double MOMENTUM = 0.1;
constexpr double EPSILON = 1e-5;
// Elements below which a second thread costs more than it does.
constexpr int64_t ALONE = 32768;

// Calls `work(0)` to `work(parts - 1)` on libtorch's threads. Its own loop does it, since a loop
// compiled here would bring a second pool of threads where libtorch has a private OpenMP.
void on_threads(int64_t parts, const std::function<void(int64_t)>& work) {
  if (parts == 1) {
    return work(0);
  }
  auto numbers = at::arange(parts, at::kLong);
  auto iterator = at::TensorIterator::nullary_op(numbers);
  iterator.for_each(
      [&](char** data, const int64_t* strides, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
          work(*reinterpret_cast<int64_t*>(data[0] + i * strides[0]));
        }
      },
      1);
}

// How the passes see a tensor's values, and in what they compute.
template <typename Value>
struct Kind {
  using Stored = Value;
  using Computed = Value;
};
template <>
struct Kind<at::BFloat16> {
  using Stored = rows::Bfloat16;
  using Computed = float;
};

#define FOR_KIND(TENSOR, ...)                                                                      \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, (TENSOR).scalar_type(), "batch norm", [&] {        \
    using S [[maybe_unused]] = Kind<scalar_t>::Stored;                                             \
    using T [[maybe_unused]] = Kind<scalar_t>::Computed;                                           \
    __VA_ARGS__();                                                                                 \
  })

template <typename S>
const S* read(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const S*>(tensor.const_data_ptr()) : nullptr;
}

template <typename S>
S* write(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<S*>(tensor.mutable_data_ptr()) : nullptr;
}

// Per-channel tensors beside one of bfloat16 are of single precision.
at::TensorOptions per_channel(const at::Tensor& x) {
  return x.options().dtype(x.scalar_type() == at::kBFloat16 ? at::kFloat : x.scalar_type());
}

// Images as rows of channels; a matrix is one already.
at::Tensor in_rows(const at::Tensor& x) {
  return x.dim() == 4 ? x.contiguous(at::MemoryFormat::ChannelsLast) : x.contiguous();
}

// One block of rows of a batch, cut for the threads.
struct Blocks {
  int64_t groups, rows, channels, cuts;

  Blocks(const at::Tensor& x, int64_t groups)
      : groups(groups), channels(x.size(1)) {
    const auto all = channels == 0 ? 0 : x.numel() / channels;
    TORCH_CHECK(groups > 0 && all % groups == 0 && x.size(0) % groups == 0 && all > 0,
                "a batch of ", x.size(0), " does not make ", groups, " equal groups for batch norm");
    rows = all / groups;
    const auto wanted = std::max<int64_t>(1, x.numel() / groups / ALONE);
    cuts = std::min<int64_t>({wanted, rows, at::get_num_threads()});
  }

  // Calls `work(group, cut, first element, rows)`.
  void for_each(const std::function<void(int64_t, int64_t, int64_t, int64_t)>& work) const {
    on_threads(groups * cuts, [&](int64_t part) {
      const auto group = part / cuts, cut = part % cuts;
      const auto from = rows * cut / cuts, to = rows * (cut + 1) / cuts;
      work(group, cut, (group * rows + from) * channels, to - from);
    });
  }
};

template <typename S, typename T>
at::Tensor moments_of(const at::Tensor& x, const Blocks& blocks) {
  const auto channels = blocks.channels;
  const S* data = read<S>(x);
  // Around the mean of a few rows, sums keep their digits in single precision.
  std::vector<T> pivots(blocks.groups * channels);
  for (int64_t group = 0; group < blocks.groups; ++group) {
    const int64_t few = std::min<int64_t>(blocks.rows, 8);
    for (int64_t i = 0; i < few; ++i) {
      const S* row = data + (group * blocks.rows + blocks.rows * i / few) * channels;
      for (int64_t channel = 0; channel < channels; ++channel) {
        pivots[group * channels + channel] += rows::value_of(row[channel]) / T(few);
      }
    }
  }
  std::vector<double> sums(blocks.groups * blocks.cuts * 2 * channels);
  blocks.for_each([&](int64_t group, int64_t cut, int64_t first, int64_t rows) {
    double* own = &sums[(group * blocks.cuts + cut) * 2 * channels];
    rows::moments({data + first, rows, channels}, &pivots[group * channels], own, own + channels);
  });
  auto result = at::empty({2, blocks.groups, channels}, at::kDouble);
  auto* means = write<double>(result);
  auto* squares = means + blocks.groups * channels;
  for (int64_t group = 0; group < blocks.groups; ++group) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      double sum = 0, square = 0;
      for (int64_t cut = 0; cut < blocks.cuts; ++cut) {
        const double* own = &sums[(group * blocks.cuts + cut) * 2 * channels];
        sum += own[channel];
        square += own[channels + channel];
      }
      sum /= blocks.rows;
      square /= blocks.rows;
      const double pivot = pivots[group * channels + channel];
      means[group * channels + channel] = pivot + sum;
      squares[group * channels + channel] = square + pivot * (2 * sum + pivot);
    }
  }
  return result;
}

// Scale, mean and shift of each group and channel: [3, groups, channels], of the input's kind.
template <typename T>
at::Tensor line_of(const at::Tensor& moments, const at::Tensor& weight, const at::Tensor& bias,
                   const at::TensorOptions& options) {
  const auto groups = moments.size(1), channels = moments.size(2);
  auto line = at::empty({3, groups, channels}, options);
  const double* mean = read<double>(moments);
  const double* square = mean + groups * channels;
  const T *scales = read<T>(weight), *shifts = read<T>(bias);
  T* to = write<T>(line);
  for (int64_t i = 0; i < groups * channels; ++i) {
    const double variance = std::max(square[i] - mean[i] * mean[i], 0.0);
    const double scale = 1 / std::sqrt(variance + EPSILON);
    to[i] = scales == nullptr ? scale : scale * scales[i % channels];
    to[i + groups * channels] = mean[i];
    to[i + 2 * groups * channels] = shifts == nullptr ? T(0) : shifts[i % channels];
  }
  return line;
}

template <typename T>
rows::Line<T> line_at(const at::Tensor& line, int64_t group) {
  const auto groups = line.size(1), channels = line.size(2);
  const T* scale = read<T>(line) + group * channels;
  return {scale, scale + groups * channels, scale + 2 * groups * channels};
}

template <typename S, typename T>
void normalise(const at::Tensor& x, const Blocks& blocks, const at::Tensor& line,
               const at::Tensor& shortcut, bool relu, const at::Tensor& y) {
  const S *data = read<S>(x), *other = read<S>(shortcut);
  S* to = write<S>(y);
  blocks.for_each([&](int64_t group, int64_t, int64_t first, int64_t rows) {
    rows::apply({data + first, rows, blocks.channels}, line_at<T>(line, group),
                other == nullptr ? nullptr : other + first, relu, to + first);
  });
}

// Moves running statistics towards those of the blocks, of which each has `count` elements a channel.
template <typename T>
void follow(const at::Tensor& moments, const at::Tensor& running_mean,
            const at::Tensor& running_variance, double count) {
  const auto groups = moments.size(1), channels = moments.size(2);
  const double* mean = read<double>(moments);
  const double* square = mean + groups * channels;
  T *means = write<T>(running_mean), *variances = write<T>(running_variance);
  for (int64_t channel = 0; channel < channels; ++channel) {
    double sum = 0, spread = 0;
    for (int64_t i = channel; i < groups * channels; i += channels) {
      sum += mean[i];
      spread += std::max(square[i] - mean[i] * mean[i], 0.0);
    }
    spread *= count / std::max(count - 1, 1.0);
    means[channel] += MOMENTUM * (sum / groups - means[channel]);
    variances[channel] += MOMENTUM * (spread / groups - variances[channel]);
  }
}

struct Moments : torch::autograd::Function<Moments> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given, int64_t groups,
                            const c10::intrusive_ptr<Way>& way) {
    const auto x = in_rows(given);
    context->saved_data["way"] = c10::IValue::make_capsule(way);
    context->saved_data["groups"] = groups;
    context->save_for_backward({x});
    at::Tensor result;
    FOR_KIND(x, [&] { result = (moments_of<S, T>)(x, Blocks(x, groups)); });
    return result;
  }

  // The moments' gradients, [2, groups, channels], and what `Normalise` left.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto x = context->get_saved_variables()[0];
    const Blocks blocks(x, context->saved_data["groups"].toInt());
    auto way = c10::static_intrusive_pointer_cast<Way>(context->saved_data["way"].toCapsule());
    TORCH_CHECK(way->gradient.defined(), "batch norm's moments have no other use than its own");
    const auto of_moments = gradients[0].contiguous();
    auto out = at::empty_like(x);
    FOR_KIND(x, [&] {
      const auto channels = blocks.channels;
      const auto cells = blocks.groups * channels;
      const double* of_mean = read<double>(of_moments);
      const double* of_square = of_mean + cells;
      const T* means = read<T>(way->line) + cells;
      // d(mean)/dx and d(square)/dx, around the mean that the line has.
      std::vector<T> slope(cells), level(cells);
      for (int64_t i = 0; i < cells; ++i) {
        slope[i] = 2 * of_square[i] / blocks.rows;
        level[i] = (of_mean[i] + 2.0 * means[i] * of_square[i]) / blocks.rows;
      }
      const S *data = read<S>(x), *gradient = read<S>(way->gradient);
      S* to = write<S>(out);
      blocks.for_each([&](int64_t group, int64_t, int64_t first, int64_t rows) {
        rows::spread({data + first, rows, channels}, gradient + first,
                     line_at<T>(way->line, group), way->after, &slope[group * channels],
                     &level[group * channels], to + first);
      });
    });
    way->gradient.reset();
    way->line.reset();
    return {out, {}, {}};
  }
};

struct Normalise : torch::autograd::Function<Normalise> {
  // `x` comes without its history: its gradient is `Moments`'s to give.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& moments,
                            const Optional& given_weight, const Optional& given_bias,
                            const Optional& given_shortcut, bool relu, bool overwrite,
                            const c10::intrusive_ptr<Way>& way) {
    const auto weight = given_weight.value_or(at::Tensor());
    const auto bias = given_bias.value_or(at::Tensor());
    const auto shortcut = given_shortcut.value_or(at::Tensor());
    const Blocks blocks(x, moments.size(1));
    const auto other = shortcut.defined() ? in_rows(shortcut) : shortcut;
    auto y = overwrite ? x : at::empty_like(x);
    at::Tensor line;
    FOR_KIND(x, [&] {
      line = line_of<T>(moments, weight, bias, per_channel(x));
      nearkin::normalise<S, T>(x, blocks, line, other, relu, y);
    });
    const auto after = !relu               ? rows::After::Nothing
                       : shortcut.defined() ? rows::After::Sum
                                            : rows::After::Relu;
    context->saved_data["way"] = c10::IValue::make_capsule(way);
    context->saved_data["after"] = static_cast<int64_t>(after);
    context->saved_data["shortcut"] = shortcut.defined();
    context->saved_data["bias"] = bias.defined();
    context->save_for_backward(
        {x, moments, line, weight, after == rows::After::Sum ? y : at::Tensor()});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &moments = saved[1], &line = saved[2], &weight = saved[3],
               &y = saved[4];
    const auto after = static_cast<rows::After>(context->saved_data["after"].toInt());
    const Blocks blocks(x, moments.size(1));
    const auto gradient = in_rows(gradients[0]);
    const auto passed = after == rows::After::Sum ? at::empty_like(x) : at::Tensor();
    auto of_moments = at::zeros_like(moments);
    auto of_weight = at::empty({blocks.channels}, per_channel(x));
    auto of_bias = at::empty({blocks.channels}, per_channel(x));
    FOR_KIND(x, [&] {
      const auto channels = blocks.channels;
      const auto cells = blocks.groups * channels;
      std::vector<double> sums(blocks.groups * blocks.cuts * 2 * channels);
      const S *data = read<S>(x), *from = read<S>(gradient), *result = read<S>(y);
      S* to = write<S>(passed);
      blocks.for_each([&](int64_t group, int64_t cut, int64_t first, int64_t rows) {
        double* own = &sums[(group * blocks.cuts + cut) * 2 * channels];
        rows::reduce({data + first, rows, channels}, from + first, line_at<T>(line, group),
                     after, result == nullptr ? nullptr : result + first,
                     to == nullptr ? nullptr : to + first, own, own + channels);
      });
      const double* mean = read<double>(moments);
      const double* square = mean + cells;
      const T* scales = read<T>(weight);
      double* of_mean = write<double>(of_moments);
      double* of_square = of_mean + cells;
      for (int64_t channel = 0; channel < channels; ++channel) {
        double all_sums = 0, all_products = 0;
        for (int64_t group = 0; group < blocks.groups; ++group) {
          double sum = 0, product = 0;
          for (int64_t cut = 0; cut < blocks.cuts; ++cut) {
            const double* own = &sums[(group * blocks.cuts + cut) * 2 * channels];
            sum += own[channel];
            product += own[channels + channel];
          }
          const auto i = group * channels + channel;
          const double variance = std::max(square[i] - mean[i] * mean[i], 0.0);
          const double root = 1 / std::sqrt(variance + EPSILON);
          const double scale = scales == nullptr ? 1.0 : scales[channel];
          // The products were taken around the mean as the input's kind has it.
          product += (static_cast<double>(static_cast<T>(mean[i])) - mean[i]) * sum;
          of_square[i] = -0.5 * scale * root * root * root * product;
          of_mean[i] = -scale * root * sum - 2 * mean[i] * of_square[i];
          all_sums += sum;
          all_products += root * product;
        }
        write<T>(of_bias)[channel] = all_sums;
        write<T>(of_weight)[channel] = all_products;
      }
    });
    if (context->needs_input_grad(1)) {
      auto way = c10::static_intrusive_pointer_cast<Way>(context->saved_data["way"].toCapsule());
      way->after = after == rows::After::Relu ? after : rows::After::Nothing;
      way->gradient = passed.defined() ? passed : gradient;
      way->line = line;
    }
    const auto or_nothing = [](bool wanted, const at::Tensor& tensor) {
      return wanted ? tensor : at::Tensor();
    };
    return {at::Tensor(),
            of_moments,
            or_nothing(weight.defined(), of_weight),
            or_nothing(context->saved_data["bias"].toBool(), of_bias),
            or_nothing(context->saved_data["shortcut"].toBool(),
                       passed.defined() ? passed : gradient),
            {},
            {},
            {}};
  }
};

Optional or_none(const at::Tensor* tensor) {
  return tensor == nullptr ? Optional() : Optional(*tensor);
}

}  // namespace

Pass::Pass(c10::intrusive_ptr<Way> way) : way_(std::move(way)) {}
Pass::~Pass() = default;

at::Tensor* Pass::moments(const at::Tensor* x, int64_t groups) const {
  return new at::Tensor(Moments::apply(*x, groups, way_));
}

at::Tensor* Pass::normalise(const at::Tensor* x, const at::Tensor* moments,
                            const at::Tensor* weight, const at::Tensor* bias,
                            const at::Tensor* shortcut, bool relu, const at::Tensor* running_mean,
                            const at::Tensor* running_variance, double count,
                            bool overwrite) const {
  const auto exchanged = moments->contiguous();
  FOR_KIND(*x, [&] {
    follow<T>(exchanged, *running_mean, *running_variance, count);
  });
  const auto input = in_rows(x->detach());
  return new at::Tensor(Normalise::apply(input, exchanged, or_none(weight), or_none(bias),
                                         or_none(shortcut), relu,
                                         overwrite && !at::GradMode::is_enabled(), way_));
}

std::unique_ptr<Pass> begin_pass() {
  return std::make_unique<Pass>(c10::make_intrusive<Way>());
}

}  // namespace nearkin
