// The calibration kernels on a GPU, behind a C interface for ctypes. Built and called by calibration.py.
#include <cstring>

#include "calibration.cuh"
#if defined(GCN_HOPPER)
#include "hopper_calibration.cuh"
#endif

namespace {

class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes) { error_ = cudaMalloc(&pointer_, bytes); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(pointer_); }
  cudaError_t error() const { return error_; }
  unsigned char* get() const { return static_cast<unsigned char*>(pointer_); }

 private:
  void* pointer_ = nullptr;
  cudaError_t error_;
};

template <class Case>
cudaError_t run_with_copies(const Case& c, const void* in, void* out, unsigned sets) {
  DeviceBuffer device_in(c.input_bytes * sets), device_out(c.output_bytes * sets);
  cudaError_t error = device_in.error() != cudaSuccess ? device_in.error() : device_out.error();
  if (error == cudaSuccess) error = cudaMemcpy(device_in.get(), in, c.input_bytes * sets, cudaMemcpyHostToDevice);
  if (error == cudaSuccess) error = cudaMemset(device_out.get(), 0xFF, c.output_bytes * sets);
  if (error == cudaSuccess) error = gcn::cuda::calibration::run(c, device_in.get(), device_out.get(), sets, nullptr);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) error = cudaMemcpy(out, device_out.get(), c.output_bytes * sets, cudaMemcpyDeviceToHost);
  return error;
}

constexpr const char* kUnknown = "no such calibration";

template <class Cases>
const char* calibrate(const Cases& cases, const char* name, const void* in, void* out, unsigned sets) {
  for (const auto& c : cases) {
    if (std::strcmp(c.name, name) != 0) continue;
    const cudaError_t error = run_with_copies(c, in, out, sets);
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
  return kUnknown;
}

}  // namespace

// Returns null, or what went wrong.
extern "C" const char* gcn_calibrate(const char* name, const void* in, void* out, unsigned sets) {
  const char* error = calibrate(gcn::cuda::calibration::kCases, name, in, out, sets);
#if defined(GCN_HOPPER)
  if (error == kUnknown) error = calibrate(gcn::cuda::calibration::kHopperCases, name, in, out, sets);
#endif
  return error;
}
