// A CUDA device made of host memory, for a CPU build of torch: what its kernels would compute, the CPU's do.
//
// Tensors have the device type CUDA for torch's dispatcher, autograd engine and autocast. Every operation checks that
// its tensors lie on one device, as CUDA's kernels do; what would make the host wait for a device is written down; the
// memory can be limited. What it cannot show: results of real kernels, their speed, streams.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

const Device kCuda(DeviceType::CUDA, 0);
const Device kHost(DeviceType::CPU);

std::atomic<int64_t> held{0}, peak{0}, limit{INT64_MAX};
std::mutex lock;
std::map<const char*, size_t> page_locked;  // start and size
std::map<std::string, int64_t> waits;
thread_local int nested = 0;  // copies of the fallback are none of the program's

void note_wait(const std::string& why) {
  if (nested) return;
  std::lock_guard<std::mutex> guard(lock);
  waits[why]++;
}

// -- memory --

struct Block {
  void* start;
  int64_t size;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  held -= block->size;
  std::free(block->start);
  delete block;
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t wanted) override {
    const int64_t size = (static_cast<int64_t>(wanted) + 511) / 512 * 512;  // CUDA's allocator rounds like this
    TORCH_CHECK_WITH(OutOfMemoryError, held + size <= limit, "CUDA out of memory. Tried to allocate ", size, " bytes.");
    void* start = wanted ? std::aligned_alloc(512, size) : nullptr;
    const int64_t now = held += size;
    for (int64_t seen = peak; now > seen && !peak.compare_exchange_weak(seen, now);) {
    }
    return {start, new Block{start, size}, &free_block, kCuda};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};

void free_pages(void* start) {
  std::lock_guard<std::mutex> guard(lock);
  page_locked.erase(static_cast<const char*>(start));
  std::free(start);
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* start = std::aligned_alloc(64, size / 64 * 64 + 128);
    std::lock_guard<std::mutex> guard(lock);
    page_locked[static_cast<const char*>(start)] = size;
    return {start, start, &free_pages, kHost};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pages; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(lock);
  auto after = page_locked.upper_bound(static_cast<const char*>(data));
  if (after == page_locked.begin()) return false;
  const auto& [start, size] = *--after;
  return static_cast<const char*>(data) < start + std::max<size_t>(size, 1);
}

// -- one device, one stream --

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return kCuda; }
  Device getDevice() const override { return kCuda; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, kCuda); }
  Stream getDefaultStream(Device) const override { return Stream(Stream::DEFAULT, kCuda); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

}  // namespace

namespace at {
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs = {}) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  Device getDeviceFromPtr(void*) const override { return kCuda; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  Allocator* getCUDADeviceAllocator() const override { return &device_memory; }
  void deviceSynchronize(DeviceIndex) const override {}
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

namespace {

// -- operations --

bool on_cuda(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == DeviceType::CUDA; }

at::Tensor on_host(const at::Tensor& tensor) {  // the same memory as a tensor of the CPU
  if (!on_cuda(tensor)) return tensor;
  const auto& storage = tensor.storage();
  c10::Storage same(
      c10::Storage::use_byte_size_t(), storage.nbytes(), c10::DataPtr(const_cast<void*>(storage.data()), kHost), nullptr,
      false);
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(same), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return made;
}

at::Tensor restrided(
    const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset.value_or(self.storage_offset()));
  return made;
}

at::Tensor like_view(const at::Tensor& self, const at::Tensor& seen) {
  return restrided(self, seen.sizes(), seen.strides(), seen.storage_offset());
}

at::Tensor view(const at::Tensor& self, c10::IntArrayRef size) { return like_view(self, on_host(self).view(size)); }

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  return like_view(self, on_host(self).unfold(dimension, size, step));
}

at::Tensor reshape_alias(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return restrided(self, size, stride, std::nullopt);
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &device_memory, c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &device_memory, c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (!on_cuda(self)) {
    note_wait("a copy from the device");
  } else if (!on_cuda(source) && !(non_blocking && is_pinned(source.storage().data()))) {
    note_wait(non_blocking ? "a copy from memory that is not pinned" : "a blocking copy to the device");
  }
  on_host(self).copy_(on_host(source));
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (to.sizes() != self.sizes()) to.resize_(self.sizes());
  on_host(to).copy_(on_host(self));
  return to;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  on_host(to).copy_(on_host(self));
  return to;
}

at::Scalar number(const at::Tensor& self) {
  note_wait("a number read");
  return at::_local_scalar_dense(on_host(self));
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  const size_t bytes = (impl->numel() + impl->storage_offset()) * impl->itemsize();
  auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    auto fresh = device_memory.allocate(bytes);
    if (storage->nbytes()) std::memcpy(fresh.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(fresh));
    storage->set_nbytes(bytes);
  }
  return self;
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  // CUDA's kernels take numbers, and these take indices, from the host
  const bool indexes = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  bool cuda = false, host = false;
  auto look = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (on_cuda(tensor)) cuda = true;
    else if (tensor.dim() > 0 && !indexes) host = true;
  };
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) look(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& each : value.toTensorList()) look(each);
    if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor>& each : value.toOptionalTensorList())
        if (each.has_value()) look(*each);
  }
  TORCH_CHECK(!(cuda && host), "Expected all tensors to be on the same device, but ", name, " got cuda:0 and cpu");
  if (name == "aten::nonzero" || name == "aten::masked_select" || name == "aten::_unique2" || name == "aten::equal")
    note_wait(name);
  struct Nest {
    Nest() { nested++; }
    ~Nest() { nested--; }
  } nest;
  at::native::cpu_fallback(op, stack);
}

int64_t written_out(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
    std::optional<double>, bool) {
  return 0;  // scaled_dot_product_attention by its definition
}

const bool registered = [] {
  c10::SetAllocator(DeviceType::CUDA, &device_memory);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&written_out);
  return true;
}();

}  // namespace

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("copy_", TORCH_FN(copy_));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(number));
  m.impl("as_strided", TORCH_FN(restrided));
  m.impl("view", TORCH_FN(view));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
  m.impl("unfold", TORCH_FN(unfold));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  m.impl("set_.source_Tensor", TORCH_FN(set_tensor));
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

extern "C" {
int64_t pretend_held() { return held; }
int64_t pretend_peak() { return peak; }
void pretend_limit(int64_t bytes) { limit = bytes; }
void pretend_forget_peak() { peak = held.load(); }
void pretend_forget_waits() {
  std::lock_guard<std::mutex> guard(lock);
  waits.clear();
}
void pretend_waits(char* to, int64_t size) {  // "why<TAB>times<NEWLINE>" of each
  std::lock_guard<std::mutex> guard(lock);
  std::string text;
  for (const auto& [why, times] : waits) text += why + "\t" + std::to_string(times) + "\n";
  std::strncpy(to, text.c_str(), size - 1);
  to[size - 1] = 0;
}
}
