"""Sessions from every kind of model, and the custom-op library."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers import from_text, seeded

from baker.errors import ModelError, SecurityError, UsageError
from baker.runtime.handover import HAND_OVER_BYTES
from baker.runtime.kernels import custom_ops_library, pack_codes, ternary_matmul_reference
from baker.runtime.session import optimized_graph, run, session

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
LINEAR = HEAD + "net (float[N, 64] x) => (float[N, 64] y) { h = MatMul(x, w)  y = Add(h, b) }"
FEED = {"x": seeded(3, 64, seed=1)}


@pytest.fixture
def linear() -> ir.Model:
    return from_text(LINEAR, {"w": seeded(64, 64), "b": seeded(64)})


def expected(model: ir.Model) -> np.ndarray:
    w, b = (model.graph.initializers[name].const_value.numpy() for name in "wb")
    return FEED["x"] @ w + b


class TestSources:
    def test_all_kinds_of_model_run_alike(self, linear: ir.Model, tmp_path: Path):
        proto = ir.to_proto(linear)
        onnx.save(proto, tmp_path / "m.onnx")
        for source in (linear, proto, proto.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
            y = run(session(source, threads=1), FEED)["y"]
            np.testing.assert_allclose(y, expected(linear), rtol=1e-5, atol=1e-5)

    def test_external_data_is_read_by_baker_and_checked(self, linear: ir.Model, tmp_path: Path):
        path = tmp_path / "m.onnx"
        onnx.save(ir.to_proto(linear), path, save_as_external_data=True, location="w.bin", size_threshold=0)
        np.testing.assert_allclose(run(session(path), FEED)["y"], expected(linear), rtol=1e-5, atol=1e-5)
        path.write_bytes(path.read_bytes().replace(b"w.bin", b"../w."))
        with pytest.raises(SecurityError):
            session(path)
        with pytest.raises(SecurityError):
            optimized_graph(path)

    def test_large_weights_are_handed_over_and_the_model_is_left_as_it_was(self, linear: ir.Model):
        assert HAND_OVER_BYTES <= 64 * 64 * 4
        before = {name: value.const_value for name, value in linear.graph.initializers.items()}
        session(linear)
        assert {name: value.const_value for name, value in linear.graph.initializers.items()} == before

    def test_a_large_weight_that_nobody_reads(self, linear: ir.Model):
        proto = ir.to_proto(linear)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(seeded(64, 64), "unread"))
        y = run(session(ir.from_proto(proto), threads=1), FEED)["y"]
        np.testing.assert_allclose(y, expected(linear), rtol=1e-5, atol=1e-5)

    def test_handed_over_weights_outlive_the_model(self, linear: ir.Model):
        due = expected(linear)
        created = session(linear, optimize=False)
        del linear
        np.testing.assert_allclose(run(created, FEED)["y"], due, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, bool])
    def test_weights_of_any_type(self, dtype: type):
        weight = (seeded(64, 128) * 3).astype(dtype)
        text = HEAD + "net (float[1] x) => (float[64, 128] y) { f = Cast<to = 1>(w)  y = Mul(x, f) }"
        y = run(session(from_text(text, {"w": weight})), {"x": np.ones(1, np.float32)})["y"]
        np.testing.assert_array_equal(y, weight.astype(np.float32))

    def test_four_and_two_bit_weights(self):
        for dtype in (ir.DataType.INT4, ir.DataType.INT2):
            numbers = np.random.default_rng(0).integers(-2, 2, (64, 128))
            tensor = ir.Tensor(numbers.astype(dtype.numpy()), name="w")
            weight = ir.Value(name="w", type=ir.TensorType(dtype), shape=ir.Shape([64, 128]), const_value=tensor)
            node = ir.node("Cast", [weight], attributes={"to": ir.DataType.FLOAT})
            node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
            graph = ir.Graph([], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 25}, name="g")
            y = run(session(ir.Model(graph, ir_version=12), optimize=False), {})["y"]
            np.testing.assert_array_equal(y, numbers.astype(np.float32))

    def test_weights_in_subgraphs_and_weights_that_are_inputs(self):
        text = (
            HEAD
            + """net (bool c, float[64, 64] x) => (float[64, 64] y) {
            y = If (c) <then_branch = a () => (float[64, 64] t) { t = MatMul(x, w) },
                        else_branch = b () => (float[64, 64] e) { e = Add(x, w) }> }"""
        )
        model = from_text(text, {"w": seeded(64, 64)})
        for flag in (True, False):
            x = seeded(64, 64, seed=3)
            y = run(session(model), {"c": np.array(flag), "x": x})["y"]
            np.testing.assert_allclose(y, x @ seeded(64, 64) if flag else x + seeded(64, 64), rtol=1e-4, atol=1e-5)

        model = from_text(LINEAR, {"w": seeded(64, 64), "b": seeded(64)})
        model.graph.inputs.append(model.graph.initializers["w"])
        np.testing.assert_allclose(run(session(model), FEED)["y"], expected(model), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            run(session(model), {**FEED, "w": np.zeros((64, 64), np.float32)})["y"],
            np.broadcast_to(seeded(64), (3, 64)),
        )


class TestOptions:
    def test_optimizer_threads_and_config(self, linear: ir.Model):
        options = session(
            linear, optimize=False, threads=1, config={"session.intra_op.allow_spinning": "0"}
        ).get_session_options()
        assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

    def test_own_session_options_serve_more_than_one_session(self, linear: ir.Model):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        for _ in range(2):
            np.testing.assert_allclose(
                run(session(linear, sess_options=options), FEED)["y"], expected(linear), rtol=1e-5, atol=1e-5
            )

    def test_disabled_optimizers_reach_the_runtime(self, linear: ir.Model):
        assert session(linear, disabled_optimizers=["MatMulAddFusion"]) is not None


class TestErrors:
    def test_a_model_that_does_not_load(self):
        bad = HEAD + "net (float[N] x) => (float[N] y) { y = NoSuchOp(x) }"
        with pytest.raises(ModelError, match=r"model 'net'.*NoSuchOp") as caught:
            session(ir.from_onnx_text(bad))
        assert "\n" not in str(caught.value)
        assert "ONNXRuntimeError" not in str(caught.value)

    def test_a_model_that_is_not_whole(self):
        dangling = HEAD + "net (float[N, 5] x) => (float[N, 2] y) { y = MatMul(x, missing) }"
        with pytest.raises(ModelError, match=r"serialized.*missing"):
            session(ir.from_onnx_text(dangling))

    def test_garbage_and_missing_files(self, tmp_path: Path):
        (tmp_path / "garbage.onnx").write_bytes(b"garbage")
        (tmp_path / "empty.onnx").write_bytes(b"")
        for name in ("garbage.onnx", "empty.onnx"):
            with pytest.raises(ModelError, match=name):
                session(tmp_path / name)
        with pytest.raises(UsageError, match="not there"):
            session(tmp_path / "nothing.onnx")

    def test_a_feed_that_does_not_fit(self, linear: ir.Model, capfd: pytest.CaptureFixture[str]):
        created = session(linear)
        for feed in ({}, {"x": np.zeros((3, 5), np.float32)}, {"x": np.zeros((3, 64))}):
            with pytest.raises(ModelError, match="can't run"):
                run(created, feed)
        assert capfd.readouterr().err == ""  # the runtime does not print what it raises

    def test_a_library_that_is_not_there_or_none(self, linear: ir.Model, tmp_path: Path):
        with pytest.raises(UsageError, match="not there"):
            session(linear, custom_ops=tmp_path / "lib.so")
        (tmp_path / "lib.so").write_bytes(b"no library")
        with pytest.raises(UsageError, match="can't register"):
            session(linear, custom_ops=tmp_path / "lib.so")


def ternary_model(k: int = 64, n: int = 8) -> tuple[ir.Model, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes, scale = pack_codes(rng.integers(-1, 2, (n, k)).astype(np.int8)), rng.random(n).astype(np.float32)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20, "ai.baker" : 1]>'
        f"net (float[M, {k}] x) => (float[M, {n}] y) {{ y = ai.baker.TernaryMatMul<K = {k}>(x, codes, scale) }}"
    )
    for name, array in (("codes", codes), ("scale", scale)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto), codes, scale


class TestCustomOps:
    def test_the_library_is_registered_where_the_domain_is_used(self, tmp_path: Path):
        model, codes, scale = ternary_model()
        proto = ir.to_proto(model)
        onnx.save(proto, tmp_path / "m.onnx")
        x = seeded(2, 64)
        for source in (model, proto, proto.SerializeToString(), tmp_path / "m.onnx"):
            y = run(session(source), {"x": x})["y"]
            np.testing.assert_array_equal(y, ternary_matmul_reference(x, codes, scale, k=64))

    def test_registering_twice_is_harmless(self):
        model, _, _ = ternary_model()
        options = ort.SessionOptions()
        for _ in range(2):
            session(model, sess_options=options, custom_ops=custom_ops_library())


class TestOptimizedGraph:
    def test_is_what_the_default_level_runs_and_the_same_each_time(self):
        text = (
            HEAD
            + """net (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w)  y = Relu(c) }"""
        )
        model = from_text(text, {"w": seeded(8, 8, 3, 3)})
        first, second = optimized_graph(model), optimized_graph(model)
        assert first.SerializeToString() == second.SerializeToString()
        assert "Relu" not in {node.op_type for node in first.graph.node}
        assert any(len(tensor.raw_data) >= 8 * 8 * 9 * 4 for tensor in first.graph.initializer)

    def test_handing_weights_over_changes_no_fusion(self, linear: ir.Model):
        def histogram(proto: onnx.ModelProto) -> Counter[str]:
            return Counter(node.op_type for node in proto.graph.node)

        by_bytes = optimized_graph(ir.to_proto(linear).SerializeToString())
        assert histogram(optimized_graph(linear)) == histogram(by_bytes) == {"Gemm": 1}

    def test_weights_may_be_left_out(self, linear: ir.Model):
        lean = optimized_graph(linear, weights=False)
        assert lean.ByteSize() < 64 * 64 * 4
        assert any(list(tensor.dims) == [64, 64] for tensor in lean.graph.initializer)
