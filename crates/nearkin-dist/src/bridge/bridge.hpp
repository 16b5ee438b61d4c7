// What nearkin needs of PyTorch's c10d, as functions that cxx can call: a store, a group of processes
// with collectives, the same with gradients, and DDP's reducer. Every exception becomes an error of
// the caller's. Tensors come as pointers that stay the caller's; a returned pointer is the caller's.
#pragma once

#include <memory>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "errors.hpp"
#include "rust/cxx.h"

namespace c10d {
class Reducer;
}

namespace nearkin {

// A connection to the key-value store that all processes share.
class Store {
 public:
  explicit Store(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}
  void set(rust::Str key, rust::Slice<const uint8_t> value) const;
  // Waits until the key is there.
  rust::Vec<uint8_t> get(rust::Str key, uint64_t timeout_milliseconds) const;
  bool has(rust::Str key) const;
  // A connection of its own, for another thread.
  std::unique_ptr<Store> another() const;
  const c10::intrusive_ptr<c10d::Store>& inner() const { return store_; }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

// Serves the store on `listener`, a socket that already listens and now belongs to the store; with -1 another
// process serves it.
std::unique_ptr<Store> open_store(rust::Str host, uint16_t port, int32_t listener, rust::Str prefix,
                                  uint64_t timeout_milliseconds);

// The processes.
class Group {
 public:
  Group(c10::intrusive_ptr<c10d::ProcessGroup> group, at::Device home)
      : group_(std::move(group)), home_(home) {}
  // The largest number of all processes.
  int64_t maximum(int64_t number) const;
  void sum(const at::Tensor* tensor) const;
  void broadcast(const at::Tensor* tensor) const;
  at::Tensor* gather(const at::Tensor* rows) const;
  at::Tensor* differentiable_sum(const at::Tensor* tensor) const;
  at::Tensor* differentiable_gather(const at::Tensor* rows) const;
  const c10::intrusive_ptr<c10d::ProcessGroup>& inner() const { return group_; }

 private:
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  // Tensors of other devices are copied here and back.
  at::Device home_;
};

std::unique_ptr<Group> gloo(const Store& store, int32_t rank, int32_t size, rust::Str address,
                            rust::Str interface, uint64_t timeout_milliseconds);
bool has_nccl();
std::unique_ptr<Group> nccl(const Store& store, int32_t rank, int32_t size, int32_t device,
                            uint64_t timeout_milliseconds);

// DDP's reducer: means of gradients over the processes, by buckets, while backward goes on.
class Reducer {
 public:
  Reducer(const Group& group, rust::Slice<const size_t> parameters,
          rust::Slice<const size_t> bucket_ends, size_t bucket_bytes);
  ~Reducer();
  // The next backward pass reduces; without this call it only accumulates.
  void expect_backward() const;

 private:
  std::unique_ptr<c10d::Reducer> reducer_;
};

std::unique_ptr<Reducer> new_reducer(const Group& group, rust::Slice<const size_t> parameters,
                                     rust::Slice<const size_t> bucket_ends, size_t bucket_bytes);

}  // namespace nearkin
