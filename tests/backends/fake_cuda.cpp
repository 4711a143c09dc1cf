// What PyTorch built without CUDA asks about a card while it computes shapes alone: which accelerator, device and stream.
// There is one of each, and nothing ever runs there. `fake_cuda.py` builds this, and loads it before PyTorch.
#include <ATen/DeviceAccelerator.h>
#include <ATen/SDPBackend.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

const c10::Device card(c10::DeviceType::CUDA, 0);
const c10::Stream stream(c10::Stream::DEFAULT, card);

// The base class answers with device -1, which autograd takes for none.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return card; }
  c10::Device getDevice() const override { return card; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream; }
};
const c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, new Guard());

}  // namespace

// In place of libtorch's, which was told when it was built that there is none.
std::optional<c10::DeviceType> at::accelerator::getAccelerator(bool) { return c10::DeviceType::CUDA; }

namespace at {

namespace native {

// As PyTorch chooses with CUDA, among its own kernels.
int64_t attention(const Tensor& query, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                  std::optional<double>, bool grouped) {
  const auto fused = query.scalar_type() != kFloat ? SDPBackend::flash_attention : SDPBackend::efficient_attention;
  return static_cast<int64_t>(fused == SDPBackend::efficient_attention && grouped ? SDPBackend::math : fused);
}
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &attention)

}  // namespace native

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasPrimaryContext(DeviceIndex) const override { return false; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
