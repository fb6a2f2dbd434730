"""ggml's matrix product through its public C interface, for libraries that the person at the keyboard names.

    python benchmarks/ternary.py --ggml DIR_OR_FILE [--ik-llama FILE]

``--ggml`` takes libggml-cpu and finds libggml-base beside it, or one libggml that holds both. Weights are quantized by
the library itself (TQ2_0; IQ2_BN_R4 of ik_llama), so that both sides multiply the same ternary numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

TYPES = {"tq2_0": 35, "iq2_bn_r4": 335}
"""Numbers of enum ggml_type in ggml.h (ggml, and ik_llama's fork of it)."""

_F32 = 0


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_POINTER, _LONG, _SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "ggml_init": (_POINTER, [_InitParams]),
    "ggml_new_tensor_2d": (_POINTER, [_POINTER, ctypes.c_int, _LONG, _LONG]),
    "ggml_get_data": (_POINTER, [_POINTER]),
    "ggml_nbytes": (_SIZE, [_POINTER]),
    "ggml_row_size": (_SIZE, [ctypes.c_int, _LONG]),
    "ggml_mul_mat": (_POINTER, [_POINTER] * 3),
    "ggml_new_graph": (_POINTER, [_POINTER]),
    "ggml_build_forward_expand": (None, [_POINTER] * 2),
    "ggml_quantize_chunk": (
        _SIZE,
        [
            ctypes.c_int,
            _POINTER,
            _POINTER,
            _LONG,
            _LONG,
            _LONG,
            _POINTER,
        ],
    ),
    "ggml_backend_cpu_init": (_POINTER, []),
    "ggml_backend_cpu_set_n_threads": (None, [_POINTER, ctypes.c_int]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_POINTER] * 2),
}


class Ggml:
    """One library, bound.

    Raises:
        SystemExit: a function that is needed is in none of its files.
    """

    def __init__(self, path: Path, threads: int) -> None:
        files = sorted(path.glob("libggml*.so*")) if path.is_dir() else [*_companions(path), path]
        libraries = [ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL) for file in files]
        for name, (result, arguments) in _SIGNATURES.items():
            found = next((getattr(library, name) for library in libraries if hasattr(library, name)), None)
            if found is None:
                raise SystemExit(f"ternary.py: {path} has no {name}; name the library file that holds ggml's CPU code")
            found.restype, found.argtypes = result, arguments
            setattr(self, name, found)
        self.backend = self.ggml_backend_cpu_init()
        self.ggml_backend_cpu_set_n_threads(self.backend, threads)

    def layers(self, kind: str, weights: list[np.ndarray], x: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
        """A call that multiplies x with every weight, and where the first product will lie.

        Args:
            kind: a key of TYPES.
            weights: float32 (N, K) each; the same array twice is stored once.
            x: float32 (M, K).

        Returns:
            The call, and a float32 (M, N) view of the first result.
        """
        (n, k), m, number = weights[0].shape, len(x), TYPES[kind]
        one = self.ggml_row_size(number, k) * n
        distinct = len({id(weight) for weight in weights})
        size = distinct * (one + 4096) + x.nbytes + len(weights) * (4 * m * n + 4096) + (1 << 20)
        context = self.ggml_init(_InitParams(size, None, False))
        source = self.ggml_new_tensor_2d(context, _F32, k, m)
        ctypes.memmove(self.ggml_get_data(source), x.ctypes.data, x.nbytes)
        stored: dict[int, int] = {}
        graph, products = self.ggml_new_graph(context), []
        for weight in weights:
            if id(weight) not in stored:
                tensor = self.ggml_new_tensor_2d(context, number, k, n)
                self.ggml_quantize_chunk(number, weight.ctypes.data, self.ggml_get_data(tensor), 0, n, k, None)
                stored[id(weight)] = tensor
            products.append(self.ggml_mul_mat(context, stored[id(weight)], source))
            self.ggml_build_forward_expand(graph, products[-1])
        data = ctypes.cast(self.ggml_get_data(products[0]), ctypes.POINTER(ctypes.c_float))
        return lambda: self._compute(graph), np.ctypeslib.as_array(data, (m, n))

    def _compute(self, graph: int) -> None:
        if self.ggml_backend_graph_compute(self.backend, graph) != 0:
            raise SystemExit("ternary.py: ggml could not compute its graph")


def _companions(path: Path) -> list[Path]:
    """libggml-base beside libggml-cpu, which needs it."""
    return [file for file in sorted(path.parent.glob("libggml-base*.so")) if file != path]
