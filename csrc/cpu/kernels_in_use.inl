// Included in the namespace of an operator that has a struct Kernels and a table of it for each instruction set: which of them
// serves a call.

// The table of the instruction set in use; null where there are no vectors.
const Kernels* kernels() {
#if GCN_FFT_HAVE_X86
  if (fft::active_isa() == fft::Isa::kAvx512) return &kAvx512Kernels;
  if (fft::active_isa() == fft::Isa::kAvx2) return &kAvx2Kernels;
#endif
#if GCN_FFT_HAVE_VECTORS
  return &kPortableKernels;
#else
  return nullptr;
#endif
}

// Where vectors of float do not serve, plain loops do.
bool is_plain(const Tensor& x) { return x.scalar_type() == ScalarType::Double || !kernels(); }
