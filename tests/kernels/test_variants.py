"""Every kernel variant equals the scalar one, and the scalar one equals the numpy reference: bit for bit."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from ternary_layers import Layer, random_layer, random_layers

from baker import _kernels
from baker.runtime import kernels

ISAS = ("avx512vbmi", "avx512vnni", "avxvnni", "avx2", "neondotprod", "neon", "scalar")


def multiply(layer: Layer, isa: str, threads: int = 1) -> np.ndarray:
    return kernels.ternary_matmul(
        layer.x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group, isa=isa, threads=threads
    )


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.fixture(params=ISAS)
def isa(request):
    if request.param not in _kernels.compiled_isas():
        pytest.skip(f"{request.param} is for another architecture")
    if request.param not in kernels.available_isas():
        pytest.skip(f"this CPU has no {request.param}")
    return request.param


def test_every_compiled_variant_is_known_here():
    assert set(_kernels.compiled_isas()) <= set(ISAS)
    assert kernels.available_isas()[-1] == "scalar"


def test_scalar_equals_the_reference():
    for layer in random_layers(seed=2, count=60):
        want = kernels.ternary_matmul_reference(
            layer.x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group
        )
        assert_same_bits(multiply(layer, "scalar"), want)


def test_variant_equals_the_reference(isa):
    for layer in random_layers(seed=3, count=200):
        want = kernels.ternary_matmul_reference(
            layer.x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group
        )
        assert_same_bits(multiply(layer, isa), want)


def test_largest_k_stays_inside_int32(isa):
    """All weights +1 (or -1) and all activations at the rail: the unshifted fields of a GEMV reach 2^31 - 2^24."""
    k = 1 << 19
    for sign in (1, -1):
        t = np.full((3, k), sign, np.int8)
        for rows in (1, 2):
            layer = Layer(np.full((rows, k), 2.0, np.float32), t, np.float32([1]), None, 0)
            np.testing.assert_array_equal(multiply(layer, isa), np.full((rows, 3), sign * 2.0 * k, np.float32))


def test_sums_of_many_rows_stay_inside_their_integers(isa):
    """The same for 16 rows and many channels, where AVX2 adds lines of tables in int16: 64 of 508 reach 2^15 - 256."""
    for sign, group in ((1, 0), (-1, 0), (1, 384)):
        t, k = np.full((260, 4100), sign, np.int8), 4100
        scale = np.float32([0.5]) if group == 0 else np.full((260, -(-k // group)), 0.5, np.float32)
        layer = Layer(np.full((17, k), 2.0, np.float32), t, scale, None, group)
        np.testing.assert_array_equal(multiply(layer, isa), np.full((17, 260), sign * k, np.float32))


def test_halves_round_to_even(isa):
    """x * (127 / a) is exactly n + 0.5 for a = 127."""
    x = np.float32([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 63.5]])
    layer = Layer(x, np.eye(8, dtype=np.int8), np.float32([1]), None, 0)
    np.testing.assert_array_equal(multiply(layer, isa), [[127, 0, 2, 2, 0, -2, -2, 64]])


def test_threads_change_nothing(isa):
    rng = np.random.default_rng(4)
    for m, n, k in ((1, 3000, 4096), (70, 300, 1000), (33, 130, 2048)):
        layer = random_layer(rng, m, n, k, 128, one_scale=False, bias=True)
        assert_same_bits(multiply(layer, isa, threads=3), multiply(layer, isa, threads=1))


def test_leading_dimensions_are_kept():
    layer = random_layer(np.random.default_rng(5), 12, 9, 30, 0, one_scale=False, bias=True)
    flat = multiply(layer, "auto")
    for shape in ((3, 4, 30), (2, 1, 6, 30)):
        got = kernels.ternary_matmul(layer.x.reshape(shape), layer.codes, layer.scale, layer.bias, k=30)
        assert_same_bits(got, flat.reshape(*shape[:-1], 9))
    one = kernels.ternary_matmul(layer.x[5], layer.codes, layer.scale, layer.bias, k=30)
    assert_same_bits(one, flat[5])


def test_arrays_need_not_be_contiguous():
    layer = random_layer(np.random.default_rng(5), 12, 9, 30, 16, one_scale=False, bias=True)
    x, codes, scale = (np.asfortranarray(array) for array in (layer.x, layer.codes, layer.scale))
    got = kernels.ternary_matmul(x, codes, scale, np.repeat(layer.bias, 2)[::2], k=30, group=16)
    assert_same_bits(got, multiply(layer, "auto"))


def test_the_lock_is_free_while_a_kernel_runs():
    rng = np.random.default_rng(6)
    layer = random_layer(rng, 70, 1500, 4096, 0, one_scale=False, bias=False)
    weights = _kernels.TernaryWeights(layer.codes, layer.scale, None, layer.k, 0)
    worker = threading.Thread(target=lambda: weights.multiply(layer.x, isa="scalar"))
    naps = 0
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)  # comes back only when it gets the interpreter's lock
        naps += 1
    assert naps > 10


def test_one_layer_serves_many_threads():
    layer = random_layer(np.random.default_rng(7), 40, 200, 700, 48, one_scale=False, bias=True)
    weights = _kernels.TernaryWeights(layer.codes, layer.scale, layer.bias, layer.k, layer.group)
    (want,), results = weights.multiply(layer.x), []
    workers = [threading.Thread(target=lambda: results.extend(weights.multiply(layer.x, threads=2))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    for got in results:
        assert_same_bits(got, want)


def test_the_environment_names_a_variant(monkeypatch):
    layer = random_layer(np.random.default_rng(8), 2, 3, 20, 0, one_scale=True, bias=False)
    monkeypatch.setenv("BAKER_ISA", "scalar")
    assert_same_bits(multiply(layer, "auto"), multiply(layer, "scalar"))
    monkeypatch.setenv("BAKER_ISA", "sse9")
    with pytest.raises(ValueError, match=r"BAKER_ISA is 'sse9'; this CPU runs .*scalar"):
        multiply(layer, "auto")
    multiply(layer, "scalar")  # a name in the call is not overridden


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"isa": "sse9"}, "isa is 'sse9'"),
        ({"threads": 0}, "threads must be"),
        ({"k": 21}, "x has shape"),
        ({"codes": np.full((3, 6), 0x55, np.uint8)}, r"codes has shape \[3, 6\]; K = 20 needs \[N, 5\]"),
        ({"codes": np.full((3, 5), 0x5D, np.uint8)}, "codes row 0 holds code 3"),
        ({"scale": np.ones(3)}, "scale is float64; it must be float32"),
        ({"scale": np.ones(2, np.float32)}, r"scale has shape \[2\]; without groups it must be \[1\] or \[3\]"),
        ({"scale": np.float32(1).reshape(())}, "scale has shape"),
        ({"group": 8}, "group is 8; it must be 0 .* or a multiple of 16"),
        ({"group": 16}, r"K = 20 in groups of 16 needs \[3, 2\]"),
        ({"bias": np.ones(4, np.float32)}, r"bias has shape \[4\]; it must be \[3\]"),
    ],
)
def test_wrong_arguments_are_refused(change, why):
    layer = random_layer(np.random.default_rng(9), 2, 3, 20, 0, one_scale=False, bias=False)
    arguments = {"codes": layer.codes, "scale": layer.scale, "bias": None, "k": 20, "group": 0, **change}
    with pytest.raises(ValueError, match=why):
        kernels.ternary_matmul(layer.x, **arguments)
