"""The leading eigenvectors of a symmetric matrix, by LAPACK's dsyevr, without holding Python's lock.

`scipy.linalg.eigh(subset_by_index=..., driver="evr")` runs the same routine but holds the interpreter's lock
throughout, so that two matrices can't be decomposed concurrently (benchmarks/eigenvectors.py). scipy exposes its LAPACK
to compiled code through `cython_lapack`; ctypes calls the same pointer, and releases the lock during the call.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np


def leading_eigenvectors(matrix: np.ndarray, count: int) -> np.ndarray:
    """Return the eigenvectors of the `count` largest eigenvalues.

    Args:
        matrix: (n x n) float64, symmetric, C-contiguous; overwritten.
        count: 1 to n.

    Returns:
        (n x count) float64, orthonormal columns, the largest eigenvalue first.

    Raises:
        ArithmeticError: LAPACK failed, as it does on entries that are not finite.
    """
    size = len(matrix)
    values, vectors = np.empty(size), np.empty((count, size))
    support = np.empty(2 * max(1, count), np.int32)
    num_found, info = ctypes.c_int(0), ctypes.c_int(0)

    def call(work: np.ndarray, work_size: int, integers: np.ndarray, integers_size: int) -> None:
        first, last, order = size - count + 1, size, ctypes.byref(ctypes.c_int(size))
        _dsyevr()(
            *(b"V", b"I", b"L"),
            *(order, _pointer(matrix), order),
            *(ctypes.byref(ctypes.c_double(0)), ctypes.byref(ctypes.c_double(0))),
            *(ctypes.byref(ctypes.c_int(first)), ctypes.byref(ctypes.c_int(last)), ctypes.byref(ctypes.c_double(0))),
            *(ctypes.byref(num_found), _pointer(values), _pointer(vectors), order, _pointer(support)),
            *(_pointer(work), ctypes.byref(ctypes.c_int(work_size))),
            *(_pointer(integers), ctypes.byref(ctypes.c_int(integers_size)), ctypes.byref(info)),
        )

    work, integers = np.empty(1), np.empty(1, np.int32)
    call(work, -1, integers, -1)  # a query: LAPACK returns the sizes of the work arrays
    work, integers = np.empty(int(work[0])), np.empty(int(integers[0]), np.int32)
    call(work, len(work), integers, len(integers))
    if info.value != 0 or num_found.value != count:
        raise ArithmeticError(f"LAPACK dsyevr found {num_found.value} of {count} eigenvectors (info {info.value})")
    return vectors[::-1].T  # rows of a column-major result, in ascending order


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _dsyevr() -> Any:
    from scipy.linalg import cython_lapack  # slow to import, for those who decompose nothing

    capsule = cython_lapack.__pyx_capi__["dsyevr"]
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))(capsule)
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    address = get(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, name)
    arguments = [ctypes.c_char_p] * 3 + [ctypes.c_void_p] * 18
    return ctypes.CFUNCTYPE(None, *arguments)(address)
