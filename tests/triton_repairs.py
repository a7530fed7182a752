"""Make Triton's interpreter compute what a GPU computes, and refuse what a GPU would not forgive.

The interpreter keeps bfloat16 as raw 16-bit integers and multiplies those; it truncates where hardware rounds to nearest; it
takes tf32 for float32; it reads and writes any address; and in Triton 3.6 it cannot use a scalar as the end of a loop with
NumPy 2.4. :func:`install` replaces those parts, once per process, before
a kernel runs. The repairs are for tests alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

#: First and one past the last byte of every tensor that the running kernel was given.
_RANGES: list[tuple[int, int]] = []
#: Modules of Triton's functions for which the language has been patched.
_PATCHED: set[str] = set()
#: Bits of a float32 that tf32 does not have.
_TF32_DROPPED = 13
#: Arithmetic of the interpreter's builder on two values, and on one, that bfloat16 needs in float32.
_BINARY = (
    *("create_fadd", "create_fsub", "create_fmul", "create_fdiv", "create_maxnumf", "create_minnumf"),
    *("create_fcmpOLT", "create_fcmpOGT", "create_fcmpOLE", "create_fcmpOGE", "create_fcmpOEQ", "create_fcmpUNE"),
)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as the interpreter holds it, to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 to the bits of the nearest bfloat16, ties to even; nan stays nan."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 to the nearest tf32, ties away from zero, as the conversion instruction does; nan and infinities stay."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(1 << (_TF32_DROPPED - 1))
    rounded = ((bits + half) >> _TF32_DROPPED << _TF32_DROPPED).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def cut_to_tf32(values: np.ndarray) -> np.ndarray:
    """What tensor cores read of a float32 that they take for tf32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits >> _TF32_DROPPED << _TF32_DROPPED).view(np.float32)


def install() -> None:
    """Replace the interpreter's parts."""
    builder = interpreter.InterpreterBuilder
    builder.create_dot = _create_dot(builder.create_dot)
    builder.create_fp_trunc = _create_fp_trunc(builder.create_fp_trunc)
    builder.create_fp_ext = _create_fp_ext(builder.create_fp_ext)
    for name in _BINARY:
        setattr(builder, name, _in_float32(getattr(builder, name)))
    builder.create_masked_load = _guarded(builder.create_masked_load, "read")
    builder.create_masked_store = _guarded(builder.create_masked_store, "write")
    interpreter._patch_lang_tensor = _patch_lang_tensor(interpreter._patch_lang_tensor)
    interpreter.InterpretedFunction.__call__ = _call_device_function
    executor = interpreter.GridExecutor
    executor._init_args_hst = _noting_ranges(executor._init_args_hst)


def _is_bfloat16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def _create_dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, *rest: Any) -> Any:
        if _is_bfloat16(a):
            product = np.matmul(to_float32(a.data), to_float32(b.data), dtype=np.float32)
        elif a.dtype.scalar == tl.float32 and str(input_precision).upper().endswith("TF32"):
            product = np.matmul(cut_to_tf32(a.data), cut_to_tf32(b.data), dtype=np.float32)
        else:
            return original(self, a, b, d, input_precision, *rest)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    return create_dot


def _create_fp_trunc(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_fp_trunc(self: Any, source: Any, target: Any) -> Any:
        if target.scalar == tl.bfloat16 and source.dtype.scalar == tl.float32:
            return interpreter.TensorHandle(to_bfloat16(source.data), tl.bfloat16)
        return original(self, source, target)

    return create_fp_trunc


def _create_fp_ext(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_fp_ext(self: Any, source: Any, target: Any) -> Any:
        if _is_bfloat16(source) and target.scalar == tl.float32:
            return interpreter.TensorHandle(to_float32(source.data), tl.float32)
        return original(self, source, target)

    return create_fp_ext


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic on bfloat16 is done in float32 and rounded, as hardware does."""

    def operation(self: Any, a: Any, b: Any) -> Any:
        if not _is_bfloat16(a):
            return original(self, a, b)
        wide = [interpreter.TensorHandle(to_float32(t.data), tl.float32) for t in (a, b)]
        result = original(self, *wide)
        if result.data.dtype == np.float32:
            return interpreter.TensorHandle(to_bfloat16(result.data), tl.bfloat16)
        return result

    return operation


def _patch_lang_tensor(original: Callable[..., None]) -> Callable[..., None]:
    """A scalar that was computed, an array of one element to the interpreter, is a Python int where one is needed."""

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patch


def _call_device_function(self: Any, *arguments: Any, **meta: Any) -> Any:
    """Patch the language for Triton's own functions once, and for others not at all.

    The kernel that calls has patched what it sees of the language. Doing so again takes longer than many a function.
    """
    module = self.fn.__module__
    if module.startswith("triton.") and module not in _PATCHED:
        _PATCHED.add(module)
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*arguments, **meta)


def _guarded(original: Callable[..., Any], action: str) -> Callable[..., Any]:
    def access(self: Any, pointers: Any, *rest: Any) -> Any:
        # A load is (pointers, mask, other, ...), a store (pointers, value, mask, ...).
        mask = rest[0] if action == "read" else rest[1]
        size = max(1, pointers.dtype.scalar.element_ty.primitive_bitwidth // 8)
        addresses = pointers.data.astype(np.int64)
        if mask is not None:
            addresses = addresses[np.broadcast_to(np.asarray(mask.data, bool), addresses.shape)]
        if addresses.size:
            _check_addresses(addresses.ravel(), size, action)
        return original(self, pointers, *rest)

    return access


def _check_addresses(addresses: np.ndarray, size: int, action: str) -> None:
    first, last = addresses.min(), addresses.max() + size
    if any(begin <= first and last <= end for begin, end in _RANGES):
        return
    inside = np.zeros(addresses.shape, bool)
    for begin, end in _RANGES:
        inside |= (addresses >= begin) & (addresses + size <= end)
    if not inside.all():
        raise IndexError(f"the kernel would {action} {(~inside).sum()} values outside of the tensors that it was given")


def _noting_ranges(original: Callable[..., Any]) -> Callable[..., Any]:
    def init_args_hst(self: Any, arguments: Any, options: Any) -> Any:
        result = original(self, arguments, options)
        storages = [t.untyped_storage() for t in result[0] if isinstance(t, torch.Tensor)]
        _RANGES[:] = [(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages]
        return result

    return init_args_hst
