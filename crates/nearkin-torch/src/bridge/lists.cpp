#include "nearkin-torch/src/bridge/lists.hpp"

#include <c10/core/GradMode.h>

namespace nearkin {
namespace {

std::vector<at::Tensor> list_of(Pointers pointers) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(pointers.size());
  for (const auto pointer : pointers) {
    tensors.push_back(*reinterpret_cast<const at::Tensor*>(pointer));
  }
  return tensors;
}

// Whether every element of both is at the same place. The stride of a dimension of one element says
// nothing.
bool lies_as(const at::Tensor& one, const at::Tensor& other) {
  if (one.sizes() != other.sizes()) {
    return false;
  }
  for (int64_t axis = 0; axis < one.dim(); ++axis) {
    if (one.size(axis) > 1 && one.stride(axis) != other.stride(axis)) {
      return false;
    }
  }
  return true;
}

// Gradients that lie in memory as their parameters do, after a check that the rest does: the fused
// kernels walk through the memory of all.
std::vector<at::Tensor> along(const std::vector<at::Tensor>& parameters, Pointers gradients,
                              std::initializer_list<const std::vector<at::Tensor>*> remembered) {
  auto along = list_of(gradients);
  for (size_t i = 0; i < parameters.size(); ++i) {
    for (const auto* list : remembered) {
      TORCH_CHECK(lies_as((*list)[i], parameters[i]), "what is remembered, of ", (*list)[i].sizes(),
                  ", does not lie in memory as its parameter of ", parameters[i].sizes());
    }
    if (!lies_as(along[i], parameters[i])) {
      along[i] = at::empty_like(parameters[i]).copy_(along[i]);
    }
  }
  return along;
}

// Each of `live` takes its new value unless told otherwise.
void assign(const std::vector<at::Tensor>& live, const std::vector<at::Tensor>& fresh,
            const at::Tensor& unless) {
  const auto keep = unless > 0;
  for (size_t i = 0; i < live.size(); ++i) {
    auto to = live[i];
    at::where_out(to, keep, live[i], fresh[i]);
  }
}

}  // namespace

void move_towards(Pointers averages, Pointers values, double weight) {
  const c10::NoGradGuard no_gradient;
  at::_foreach_lerp_(list_of(averages), list_of(values), weight);
}

void move_towards_by(Pointers averages, Pointers values, const at::Tensor* weight) {
  const c10::NoGradGuard no_gradient;
  const auto all = list_of(averages);
  auto way = at::_foreach_sub(list_of(values), all);
  at::_foreach_mul_(way, *weight);
  at::_foreach_add_(all, way);
}

void descend(Pointers parameters, Pointers gradients, Pointers velocities, double learning_rate,
             const at::Tensor* held, const at::Tensor* unless, double weight_decay,
             double momentum, bool nesterov) {
  const c10::NoGradGuard no_gradient;
  const auto all = list_of(parameters), speeds = list_of(velocities);
  if (all.empty()) {
    return;
  }
  const auto slopes = along(all, gradients, {&speeds});
  // libtorch knows of no velocity where nothing of it stays.
  const auto kept = momentum == 0.0 ? std::vector<at::Tensor>() : speeds;
  if (held != nullptr) {
    at::_fused_sgd_(all, slopes, kept, weight_decay, momentum, *held, /*dampening=*/0.0, nesterov,
                    /*maximize=*/false, /*is_first_step=*/false, std::nullopt, *unless);
  } else {
    at::_fused_sgd_(all, slopes, kept, weight_decay, momentum, learning_rate, /*dampening=*/0.0,
                    nesterov, /*maximize=*/false, /*is_first_step=*/false);
  }
}

void adapt(Pointers parameters, Pointers gradients, Pointers means, Pointers mean_squares,
           Pointers counts, double learning_rate, const at::Tensor* held, const at::Tensor* unless,
           double weight_decay, double beta_1, double beta_2, double epsilon) {
  const c10::NoGradGuard no_gradient;
  const auto all = list_of(parameters), steps = list_of(counts);
  const auto first = list_of(means), second = list_of(mean_squares);
  if (all.empty()) {
    return;
  }
  const auto slopes = along(all, gradients, {&first, &second});
  for (const auto& count : steps) {
    TORCH_CHECK(count.scalar_type() == at::kFloat && count.dim() == 0,
                "counts of steps are floats without dimensions");
  }
  at::_foreach_add_(steps, 1);
  if (held != nullptr) {
    at::_fused_adamw_(all, slopes, first, second, {}, steps, *held, beta_1, beta_2, weight_decay,
                      epsilon, /*amsgrad=*/false, /*maximize=*/false, std::nullopt, *unless);
    at::_foreach_add_(steps, *unless, -1);
  } else {
    at::_fused_adamw_(all, slopes, first, second, {}, steps, learning_rate, beta_1, beta_2,
                      weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
}

void descend_by_layer(Pointers parameters, Pointers gradients, Pointers velocities,
                      double learning_rate, const at::Tensor* held, const at::Tensor* unless,
                      double weight_decay, double momentum, double trust, bool inside) {
  const c10::NoGradGuard no_gradient;
  const auto all = list_of(parameters), speeds = list_of(velocities);
  auto slopes = list_of(gradients);
  if (all.empty()) {
    return;
  }
  // The gradients stay as they are.
  slopes = weight_decay != 0.0 ? at::_foreach_add(slopes, all, weight_decay)
                               : at::_foreach_mul(slopes, 1.0);
  const auto times_rate = [&](const std::vector<at::Tensor>& list) {
    held != nullptr ? at::_foreach_mul_(list, *held) : at::_foreach_mul_(list, learning_rate);
  };
  if (trust != 0.0) {
    const auto of_parameters = at::stack(at::_foreach_norm(all));
    const auto of_slopes = at::stack(at::_foreach_norm(slopes));
    const auto undefined = (of_parameters == 0).logical_or_(of_slopes == 0);
    const auto ratios = (of_parameters / of_slopes).mul_(trust).masked_fill_(undefined, 1.0);
    at::_foreach_mul_(slopes, ratios.unbind());
  }
  if (inside) {
    times_rate(slopes);
  }
  if (unless == nullptr) {
    at::_foreach_mul_(speeds, momentum);
    at::_foreach_add_(speeds, slopes);
    at::_foreach_add_(all, speeds, inside ? -1.0 : -learning_rate);
    return;
  }
  at::_foreach_add_(slopes, speeds, momentum);
  assign(speeds, slopes, *unless);
  if (!inside) {
    times_rate(slopes);
  }
  assign(all, at::_foreach_sub(all, slopes), *unless);
}

}  // namespace nearkin
