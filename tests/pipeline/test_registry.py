"""Where passes come from: files of the package, files that are loaded, onnx-ir; and what goes wrong there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops

from baker.errors import OptionError, UnknownPassError, UsageError
from baker.pipeline.foreign import adapt, foreign_names
from baker.pipeline.options import option_fields
from baker.pipeline.pass_base import Pass, PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.text import parse
from baker.proof.numerics import Fidelity

GOOD = """
    from baker import Fidelity, Pass, PassResult

    class {cls}(Pass):
        '''Does nothing.'''
        name = "{name}"
        fidelity = Fidelity.EXACT
        ratio: float = 0.5

        def run(self, model, context):
            return PassResult(model)
"""

NEEDY = """
    import onnx_ir as ir

    class NeedyPass(ir.passes.InPlacePass):
        def __init__(self, size):
            pass
        def call(self, model):
            return ir.passes.PassResult(model, False)
"""


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


def good(path: Path, name: str) -> Path:
    return write(path, GOOD.format(cls=name.title().replace("_", ""), name=name))


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, entries: str) -> Path:
    """A distribution as pip would leave it: a module beside its metadata."""
    write(tmp_path / f"{package}-1.0.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(tmp_path / f"{package}-1.0.dist-info" / "entry_points.txt", f"[baker.passes]\n{entries}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package of passes, so that clashes and faults need not be built into baker."""
    root = tmp_path / "some_passes"
    write(root / "__init__.py", "raise AssertionError('listing passes must not import their package')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root
    for name in [name for name in sys.modules if name.split(".")[0] == root.name]:
        del sys.modules[name]


def test_built_in_passes_are_found_by_file_name_without_an_import():
    names = Registry().origins()
    for name in ("fold", "fuse", "cleanup", "quantize", "ternary", "verify"):
        assert [origin.kind for origin in names[name]] == ["built in"], name
    assert not any(name.startswith("_") for name in names)


def test_listing_imports_no_pass():
    code = (
        "import sys; from baker.pipeline.registry import available; names = available(); assert 'fuse' in names;"
        "print([name for name in sys.modules if name.startswith('baker.passes')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_and_packages_are_listed_and_helpers_are_not(package):
    good(package / "alpha.py", "alpha")
    good(package / "beta" / "__init__.py", "beta")
    write(package / "_helper.py", "raise AssertionError")
    assert list(Registry("some_passes", "none").origins()) == ["alpha", "beta"]


def test_a_module_without_its_pass_and_one_that_cannot_be_imported_are_named(package):
    write(package / "__init__.py", "")
    write(package / "empty.py", "")
    write(package / "broken.py", "import surely_not_there")
    good(package / "renamed.py", "other")
    registry = Registry("some_passes", "none")
    with pytest.raises(UsageError, match=r"some_passes\.empty: the module holds no Pass whose name is 'empty'"):
        registry.load("empty")
    with pytest.raises(UsageError, match=r"some_passes\.renamed: the module holds no Pass"):
        registry.load("renamed")
    with pytest.raises(UsageError, match=r"some_passes\.broken: importing it failed: ModuleNotFoundError: .*surely"):
        registry.load("broken")


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownPassError, match=r"no pass 'fus'. Did you mean 'fuse'\?"):
        Registry().load("fus")
    with pytest.raises(UnknownPassError, match=r"no pass 'tri'. Did you mean 'try'\?"):
        Registry().load("tri")


def test_a_file_brings_every_pass_it_defines(tmp_path):
    path = write(tmp_path / "mine.py", GOOD.format(cls="One", name="one") + GOOD.format(cls="Two", name="two"))
    registry = Registry()
    assert registry.load_file(path) == ("one", "two")
    assert registry.load("two").name == "two"
    assert str(registry.available()["one"]) == f"file: {path}"
    assert str(parse("two{ratio=.1},one", registry)) == "two{ratio=0.1},one"
    with pytest.raises(UnknownPassError):
        Registry().load("one")


def test_a_plain_onnx_ir_pass_in_a_file_is_wrapped(tmp_path):
    path = write(
        tmp_path / "plain.py",
        """
        import onnx_ir as ir

        class RenameGraphPass(ir.passes.InPlacePass):
            '''Gives the graph a name.'''
            def __init__(self, to: str = "renamed"):
                self.to = to
            def call(self, model):
                model.graph.name = self.to
                return ir.passes.PassResult(model, True)
        """,
    )
    registry = Registry()
    assert registry.load_file(path) == ("rename_graph",)
    model = ir.Model(ir.Graph([], [], nodes=[], name="old", opset_imports={"": 20}), ir_version=10)
    result = parse("rename_graph{to=new}", registry).items[0].pass_.run(model, PassContext())
    assert result.model.graph.name == "new"
    assert len(result.changes) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "the file defines no pass"),
        ("1 / 0", "running it failed: ZeroDivisionError: division by zero"),
        ("def (", "running it failed: SyntaxError"),
        (GOOD.format(cls="Fix", name="fix"), "no pass can be called 'fix'"),
        (GOOD.format(cls="Two", name="two words"), "no pass can be called 'two words'"),
        (
            GOOD.format(cls="Fuse", name="fuse"),
            r"'fuse' is claimed by 'built in: baker.passes.fuse' and 'file: .*m.py'",
        ),
        (NEEDY, "cannot be made without its argument 'size'"),
        (GOOD.format(cls="A", name="a").replace("fidelity =", "x ="), "does not say how exact it is; set 'fidelity'"),
    ],
)
def test_files_that_cannot_be_loaded_say_why(tmp_path, source, message):
    with pytest.raises(UsageError, match=message) as caught:
        Registry().load_file(write(tmp_path / "m.py", source))
    assert "m.py" in str(caught.value)


def test_a_file_that_is_not_there_or_no_python(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        Registry().load_file(tmp_path / "none.py")
    with pytest.raises(UsageError, match="not a Python file"):
        Registry().load_file(write(tmp_path / "notes.txt", "x"))


def test_entry_points_are_loaded_by_name(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "shop", "shop_one = shop_one_module:ShopOne")
    good(tmp_path / "shop_one_module.py", "shop_one")
    registry = Registry()
    assert str(registry.available()["shop_one"]) == "plugin: shop_one_module:ShopOne of shop 1.0"
    assert registry.load("shop_one").name == "shop_one"


def test_two_origins_of_one_name_are_both_named(tmp_path, monkeypatch):
    installed(tmp_path / "a", monkeypatch, "shop", "fuse = shop_fuse:Fuse\nlone = shop_lone:Lone")
    installed(tmp_path / "b", monkeypatch, "store", "lone = store_lone:Lone")
    registry = Registry()
    with pytest.raises(
        UsageError, match=r"'fuse' is claimed by 'built in: baker.passes.fuse' and 'plugin: .* shop 1.0'"
    ):
        registry.load("fuse")
    with pytest.raises(UsageError, match=r"'lone' is claimed by 'plugin: .* (shop|store) 1.0' and 'plugin: .*1.0'"):
        registry.load("lone")
    assert registry.load("fold").name == "fold"


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        ("p = shop_p:P", "import not_there_at_all", "of shop 1.0: importing it failed: ModuleNotFoundError"),
        ("p = shop_p:P", "x = 1", "module 'shop_p' has no 'P'"),
        ("p = shop_p:P", "P = 1", "is no pass class but int"),
        ("p = shop_p:P", GOOD.format(cls="P", name="q"), "registered as 'p' but its class says name = 'q'"),
    ],
)
def test_plugins_that_cannot_be_loaded_say_why(tmp_path, monkeypatch, entry, source, message):
    installed(tmp_path, monkeypatch, "shop", entry)
    write(tmp_path / "shop_p.py", source)
    monkeypatch.delitem(sys.modules, "shop_p", raising=False)
    with pytest.raises(UsageError, match=message):
        Registry().load("p")
    sys.modules.pop("shop_p", None)


def test_every_pass_of_onnx_ir_has_a_name_and_can_be_made():
    registry = Registry()
    names = [name for name in registry.available() if name.startswith("onnx_ir.")]
    assert len(names) >= 15
    assert set(names) == set(foreign_names())
    for name in names:
        (item,) = parse(name, registry).items
        assert str(item) == name


def test_a_pass_of_onnx_ir_runs_with_options():
    model = from_text(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[2] x) => (float[2] y) { a = Relu(x)  b = Relu(x)  y = Add(a, b) }"""
    )
    (item,) = parse("onnx_ir.CommonSubexpressionElimination{size_limit=3}", Registry()).items
    result = item.pass_.run(model, PassContext())
    assert ops(result.model) == ["Relu", "Add"]
    assert [change.what for change in result.changes] == ["Relu 2 -> 1"]
    again = item.pass_.run(result.model, PassContext())
    assert not again.modified
    with pytest.raises(OptionError, match="size_limit"):
        parse("onnx_ir.CommonSubexpressionElimination{size_limt=3}", Registry())
    with pytest.raises(UnknownPassError, match=r"Did you mean 'onnx_ir.Inline'\?"):
        parse("onnx_ir.Inlin", Registry())


def test_the_wrapper_of_a_class_is_one_class():
    import onnx_ir.passes.common as common

    cls = adapt(common.ShapeInferencePass, "infer")
    assert cls is adapt(common.ShapeInferencePass, "infer")
    assert issubclass(cls, Pass)
    assert cls.fidelity is Fidelity.ROUNDING
    assert [field.name for field in option_fields(cls)] == ["check_type", "strict_mode", "data_prop"]
    assert cls(strict_mode=False) == cls(strict_mode=False)


def test_a_wrapped_pass_keeps_the_numbers_of_a_real_graph():
    weight = np.arange(4, dtype=np.float32)
    model = from_text(
        '<ir_version: 10, opset_import: ["": 20]> g (float[4] x) => (float[4] y) { i = Identity(x)  y = Mul(i, w) }',
        {"w": weight},
    )
    (item,) = parse("onnx_ir.IdentityElimination", Registry()).items
    result = item.pass_.run(model, PassContext())
    onnx.checker.check_model(ir.to_proto(result.model))
    assert ops(result.model) == ["Mul"]
