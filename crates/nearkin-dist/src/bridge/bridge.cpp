#include "nearkin-dist/src/bridge/bridge.hpp"

#include <cstdlib>

#include <c10/util/Logging.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#ifdef NEARKIN_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace nearkin {
namespace {

using Inner = c10::intrusive_ptr<c10d::ProcessGroup>;

std::chrono::milliseconds milliseconds(uint64_t count) {
  return std::chrono::milliseconds(count);
}

// A dense tensor on the device whose tensors the group exchanges.
at::Tensor at_hand(const at::Tensor& tensor, at::Device home) {
  return tensor.detach().contiguous().to(home);
}

// The sum as a new tensor.
at::Tensor summed(const Inner& group, at::Device home, const at::Tensor& tensor) {
  auto dense = at_hand(tensor, home);
  std::vector<at::Tensor> sums{dense.is_alias_of(tensor) ? dense.clone() : dense};
  group->allreduce(sums)->wait();
  return sums[0].to(tensor.device());
}

at::Tensor gathered(const Inner& group, at::Device home, const at::Tensor& rows) {
  auto dense = at_hand(rows, home);
  auto shape = dense.sizes().vec();
  shape.at(0) *= group->getSize();
  auto all = at::empty(shape, dense.options());
  group->_allgather_base(all, dense)->wait();
  return all.to(rows.device());
}

// Both functions keep the group in the graph, so that backward finds it.
struct Sum : torch::autograd::Function<Sum> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& tensor,
                            const Inner& group, at::Device home) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    context->saved_data["home"] = home;
    return summed(group, home, tensor);
  }
  // Every process's loss depends on the sum, and all losses are added up.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto group = c10::static_intrusive_pointer_cast<c10d::ProcessGroup>(
        context->saved_data["group"].toCapsule());
    return {summed(group, context->saved_data["home"].toDevice(), gradients[0]), {}, {}};
  }
};

struct Gather : torch::autograd::Function<Gather> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& rows,
                            const Inner& group, at::Device home) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    context->saved_data["home"] = home;
    context->saved_data["rows"] = rows.size(0);
    return gathered(group, home, rows);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto group = c10::static_intrusive_pointer_cast<c10d::ProcessGroup>(
        context->saved_data["group"].toCapsule());
    auto rows = context->saved_data["rows"].toInt();
    auto all = summed(group, context->saved_data["home"].toDevice(), gradients[0]);
    return {all.narrow(0, rows * group->getRank(), rows), {}, {}};
  }
};

std::unique_ptr<Group> group_of(const Store& store, int32_t rank, int32_t size, at::Device home,
                                c10d::ProcessGroup::BackendType kind,
                                const c10::intrusive_ptr<c10d::Backend>& backend) {
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store.inner(), rank, size);
  group->setBackend(home.type(), kind, backend);
  group->setDefaultBackend(kind);
  group->setGroupName("nearkin");
  return std::make_unique<Group>(group, home);
}

}  // namespace

void Store::set(rust::Str key, rust::Slice<const uint8_t> value) const {
  store_->set(std::string(key), std::vector<uint8_t>(value.begin(), value.end()));
}

rust::Vec<uint8_t> Store::get(rust::Str key, uint64_t timeout_milliseconds) const {
  store_->wait({std::string(key)}, milliseconds(timeout_milliseconds));
  auto value = store_->get(std::string(key));
  rust::Vec<uint8_t> bytes;
  bytes.reserve(value.size());
  std::copy(value.begin(), value.end(), std::back_inserter(bytes));
  return bytes;
}

bool Store::has(rust::Str key) const {
  return store_->check({std::string(key)});
}

std::unique_ptr<Store> Store::another() const {
  return std::make_unique<Store>(store_->clone());
}

std::unique_ptr<Store> open_store(rust::Str host, uint16_t port, int32_t listener, rust::Str prefix,
                                  uint64_t timeout_milliseconds) {
  // Lost connections are reported as errors; what torch prints about them are pages of C++ frames.
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
    FLAGS_caffe2_log_level = c10::GLOG_FATAL;
  }
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = listener >= 0;
  if (options.isServer) {
    options.masterListenFd = listener;
  }
  options.waitWorkers = false;
  options.timeout = milliseconds(timeout_milliseconds);
  auto store = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
  return std::make_unique<Store>(
      c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), std::move(store)));
}

int64_t Group::maximum(int64_t number) const {
  std::vector<at::Tensor> numbers{at::full({1}, number, at::kLong).to(home_)};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::MAX;
  group_->allreduce(numbers, options)->wait();
  return numbers[0].item<int64_t>();
}

void Group::sum(const at::Tensor* tensor) const {
  at::NoGradGuard no_gradient;
  tensor->detach().copy_(summed(group_, home_, *tensor));
}

void Group::broadcast(const at::Tensor* tensor) const {
  at::NoGradGuard no_gradient;
  std::vector<at::Tensor> copies{at_hand(*tensor, home_)};
  group_->broadcast(copies)->wait();
  tensor->detach().copy_(copies[0]);
}

at::Tensor* Group::gather(const at::Tensor* rows) const {
  return new at::Tensor(gathered(group_, home_, *rows));
}

at::Tensor* Group::differentiable_sum(const at::Tensor* tensor) const {
  return new at::Tensor(Sum::apply(*tensor, group_, home_));
}

at::Tensor* Group::differentiable_gather(const at::Tensor* rows) const {
  return new at::Tensor(Gather::apply(*rows, group_, home_));
}

std::unique_ptr<Group> gloo(const Store& store, int32_t rank, int32_t size, rust::Str address,
                            rust::Str interface, uint64_t timeout_milliseconds) {
  auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_milliseconds));
  options->devices.push_back(
      interface.empty()
          ? c10d::ProcessGroupGloo::createDeviceForHostname(std::string(address))
          : c10d::ProcessGroupGloo::createDeviceForInterface(std::string(interface)));
  auto backend =
      c10::make_intrusive<c10d::ProcessGroupGloo>(store.inner(), rank, size, std::move(options));
  return group_of(store, rank, size, at::kCPU, c10d::ProcessGroup::BackendType::GLOO, backend);
}

#ifdef NEARKIN_NCCL
bool has_nccl() {
  return true;
}

std::unique_ptr<Group> nccl(const Store& store, int32_t rank, int32_t size, int32_t device,
                            uint64_t timeout_milliseconds) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = milliseconds(timeout_milliseconds);
  auto backend =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(store.inner(), rank, size, std::move(options));
  at::Device home(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  backend->setBoundDeviceId(home);
  return group_of(store, rank, size, home, c10d::ProcessGroup::BackendType::NCCL, backend);
}
#else
bool has_nccl() {
  return false;
}

std::unique_ptr<Group> nccl(const Store&, int32_t, int32_t, int32_t, uint64_t) {
  TORCH_CHECK(false, "this build has no NCCL");
}
#endif

Reducer::Reducer(const Group& group, rust::Slice<const size_t> parameters,
                 rust::Slice<const size_t> bucket_ends, size_t bucket_bytes) {
  std::vector<at::Tensor> tensors;
  for (auto pointer : parameters) {
    tensors.push_back(*reinterpret_cast<const at::Tensor*>(pointer));
  }
  // Gradients appear from the last parameter to the first; a fixed order of the buckets keeps the
  // sums the same to the last bit in a run that is continued.
  std::vector<std::vector<size_t>> buckets;
  size_t next = 0;
  for (auto end : bucket_ends) {
    auto& bucket = buckets.emplace_back();
    for (; next < end; ++next) {
      bucket.push_back(tensors.size() - 1 - next);
    }
  }
  auto bytes = static_cast<int64_t>(bucket_bytes);
  std::vector<bool> sparse(tensors.size(), false);
  reducer_ = std::make_unique<c10d::Reducer>(
      std::move(tensors), std::move(buckets), group.inner(), std::move(sparse), bytes,
      /*find_unused_parameters=*/false, /*gradient_as_bucket_view=*/false,
      std::unordered_map<size_t, std::string>{}, bytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false, std::vector<int64_t>{});
}

Reducer::~Reducer() = default;

void Reducer::expect_backward() const {
  reducer_->prepare_for_forward();
  reducer_->prepare_for_backward({});
}

std::unique_ptr<Reducer> new_reducer(const Group& group, rust::Slice<const size_t> parameters,
                                     rust::Slice<const size_t> bucket_ends, size_t bucket_bytes) {
  return std::make_unique<Reducer>(group, parameters, bucket_ends, bucket_bytes);
}

}  // namespace nearkin
