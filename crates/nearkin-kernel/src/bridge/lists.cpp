#include "nearkin-kernel/src/bridge/lists.hpp"

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

}  // namespace

void move_towards(Pointers averages, Pointers values, double weight) {
  const c10::NoGradGuard no_gradient;
  at::_foreach_lerp_(list_of(averages), list_of(values), weight);
}

void descend(Pointers parameters, Pointers gradients, Pointers velocities, double learning_rate,
             double weight_decay, double momentum, bool nesterov) {
  const c10::NoGradGuard no_gradient;
  const auto all = list_of(parameters), speeds = list_of(velocities);
  auto along = list_of(gradients);
  // The kernel walks through the memory of all three.
  for (size_t i = 0; i < all.size(); ++i) {
    TORCH_CHECK(lies_as(speeds[i], all[i]), "a velocity of ", speeds[i].sizes(),
                " does not lie in memory as its parameter of ", all[i].sizes());
    if (!lies_as(along[i], all[i])) {
      along[i] = at::empty_like(all[i]).copy_(along[i]);
    }
  }
  // libtorch knows of no velocity where nothing of it stays.
  const auto kept = momentum == 0.0 ? std::vector<at::Tensor>() : speeds;
  at::_fused_sgd_(all, along, kept, weight_decay, momentum, learning_rate,
                  /*dampening=*/0.0, nesterov, /*maximize=*/false, /*is_first_step=*/false);
}

}  // namespace nearkin
