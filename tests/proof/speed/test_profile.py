"""What a profile says: kernels, shares, arithmetic. The profiles are ONNX Runtime's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import seeded

from baker.proof.speed.profile import read_profile
from baker.runtime.session import optimized_graph

NET = """<ir_version: 9, opset_import: ["": 18]>
g (float[1,16,8,8] x) => (float[1,10] y) {
  c = Conv <pads = [1,1,1,1]> (x, k)
  r = Relu(c)
  f = Flatten(r)
  y = MatMul(f, w)
}"""


def model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    return proto


def profiled(proto: onnx.ModelProto, folder: Path, feeds: list[dict]):
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "p")
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feed in (feeds[0], *feeds):
        session.run(None, feed)
    return read_profile(Path(session.end_profiling()), optimized_graph(proto, weights=False))


def test_counts_what_the_layers_multiply(tmp_path):
    net = model(NET, k=seeded(32, 16, 3, 3), w=seeded(32 * 64, 10))
    ran = profiled(net, tmp_path, [{"x": seeded(1, 16, 8, 8, seed=seed)} for seed in range(3)])
    conv, dense = 2 * 32 * 64 * 16 * 9, 2 * 32 * 64 * 10
    assert ran.flops == (conv + dense,) * 3
    assert ran.float_flops == ran.flops
    assert ran.kernels == {"float": 2, "integer": 0, "ternary": 0}
    assert {share.op for share in ran.top} >= {"Conv", "MatMul"}
    assert sum(share.share for share in ran.top) == pytest.approx(1)
    assert all(share.provider == "CPU" for share in ran.top)


def test_integer_layers_are_told_and_may_be_faster_than_float(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (uint8[4,32] x, uint8 zero) => (int32[4,16] y) { y = MatMulInteger(x, w, zero) }"""
    net = model(text, w=np.ones((32, 16), np.int8))
    feed = {"x": np.ones((4, 32), np.uint8), "zero": np.array(3, np.uint8)}
    ran = profiled(net, tmp_path, [feed])
    assert ran.kernels == {"float": 0, "integer": 1, "ternary": 0}
    assert ran.flops == (2 * 4 * 32 * 16,)
    assert ran.float_flops == (2 * 4 * 32 * 16 / 4,)


def test_a_branch_that_is_not_taken_does_not_count(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[4,8] x, bool which) => (float[4,8] y) {
      y = If (which) <
        then_branch = t () => (float[4,8] a) { a = MatMul(x, w) },
        else_branch = e () => (float[4,8] b) { b = Neg(x) } >
    }"""
    net = model(text, w=seeded(8, 8))
    feeds = [{"x": seeded(4, 8), "which": np.array(value)} for value in (True, False)]
    ran = profiled(net, tmp_path, feeds)
    assert ran.flops == (2 * 4 * 8 * 8, 0)
    assert "If" not in {share.op for share in ran.top}  # its time is that of what is inside


def test_a_profile_without_runs_is_refused(tmp_path):
    (tmp_path / "p.json").write_text("[]")
    with pytest.raises(ValueError, match="no run"):
        read_profile(tmp_path / "p.json", onnx.ModelProto())
