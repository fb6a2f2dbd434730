"""The check of the compiled code's rules finds each violation that is planted, and nothing in sound code."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "power_of_ten.py"
SPEC = importlib.util.spec_from_file_location("power_of_ten", SCRIPT)
assert SPEC is not None and SPEC.loader is not None
rules = importlib.util.module_from_spec(SPEC)
sys.modules["power_of_ten"] = rules
SPEC.loader.exec_module(rules)

SOUND = """
#include <stdexcept>
#include <string>
#include <vector>
#include "h.h"
namespace n {
struct Layer { std::vector<int> values; };
Layer* create() { return new Layer{std::vector<int>(7)}; }
void step(int& x) { for (int i = 0; i < 9; ++i) x += i; }  // not: while (true)
int run(const Layer& layer, int x) {
  if (x < 0) {
    const std::string found = "x is " + std::to_string(x);
    throw std::invalid_argument(found + "; goto");
  }
  step(x);
  return x + layer.values[0];
}
}
"""
HEADER = """
#pragma once
namespace n {
class Thing {
 public:
  explicit Thing(int x) : x_(x) {}
  ~Thing() = default;
  Thing& operator=(const Thing&) = delete;
  [[nodiscard]] int get() const noexcept { return x_; }
  void set(int x);
 private:
  int x_ = 0;
};
template <class T>
[[nodiscard]] T twice(T x) { return x + x; }
using Task = int (*)(void*);
struct Table { int (*call)(int); };
}
"""


def planted(folder: Path, code: str = SOUND, header: str = HEADER, *, calls: bool = False) -> list[str]:
    """What the check says of a folder of one source and one header."""
    (folder / "a.cc").write_text(code)
    (folder / "h.h").write_text(header)
    compiler = rules.gcc() if calls else None
    if calls and compiler is None:
        pytest.skip("no GCC that writes calls down")
    return rules.check(folder, compiler)


def test_sound_code_has_no_finding(tmp_path: Path):
    assert planted(tmp_path) == []
    assert planted(tmp_path, calls=True) == []


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        ("void f() { while (true) {} }", "a loop without a bound"),
        ("void f() { while ( 1 ) {} }", "a loop without a bound"),
        ("void f() { for (;;) {} }", "a loop without a bound"),
        ("void f() { for (int i = 0; ; ++i) {} }", "a loop without a bound"),
        ("void f() { for (int i = g(); true; ++i) {} }", "a loop without a bound"),
        ("void f() { again: goto again; }", "goto"),
        ("void f(jmp_buf b) { setjmp(b); }", "setjmp"),
        ("void f() {" + "\n;" * 60 + "\n}", "a function of 62 lines"),
        ("auto f = [](int x) {" + "\n;" * 60 + "\n};", "a function of 62 lines"),
        ("C::C(int x) : x_(x) {" + "\n;" * 60 + "\n}", "a function of 62 lines"),
        ("int f() const noexcept {" + "\n;" * 60 + "\n}", "a function of 62 lines"),
    ],
)
def test_what_the_text_says(tmp_path: Path, code: str, finding: str):
    found = planted(tmp_path, SOUND + code)
    assert len(found) == 1 and finding in found[0] and "a.cc:" in found[0]


@pytest.mark.parametrize(
    "code",
    [
        "class C {" + "\n int x;" * 70 + "\n};",
        "namespace m {" + "\nint x;" * 70 + "\n}",
        "const int table[] = {" + "\n1," * 70 + "\n};",
        "void f() { g(std::size_t{0}); }" + "\nint x;" * 70,
        '// while (true) goto\nconst char* text = "for (;;) \\" goto";',
        "/* while (true) */ void f() { for (int i = 0; i < g(1); ++i) {} }",
    ],
)
def test_what_only_looks_like_it(tmp_path: Path, code: str):
    assert planted(tmp_path, SOUND + code) == []


@pytest.mark.parametrize(
    "declaration",
    [
        "int f(int x);",
        "inline bool f() noexcept { return true; }",
        "template <class T>\nT f(const T& x);",
        "struct S { int f() const; };",
        "class S {\n public:\n  virtual bool f(const char* name, int& out) const = 0;\n};",
        "const float* f(int (*task)(void*));",
    ],
)
def test_headers_without_nodiscard(tmp_path: Path, declaration: str):
    found = planted(tmp_path, header=f"#pragma once\nnamespace n {{\n{declaration}\n}}\n")
    assert len(found) == 1 and "f returns something and is not [[nodiscard]]" in found[0]


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        ("int f(int x) { return x < 1 ? 0 : f(x - 1); }", "recursion"),
        ("int g(int);\nint f(int x) { return g(x); }\nint g(int x) { return x < 1 ? 0 : f(x - 1); }", "recursion"),
        ("template <class T> int f(T x) { return x < 1 ? 0 : f(x - 1); }\nint h() { return f(3); }", "recursion"),
        ("namespace { int f(int x) { return x < 1 ? 0 : f(x - 1); } }\nint h() { return f(3); }", "recursion"),
        ("void compute(int n) { delete[] new int[n]; }", "allocation in a run"),
        ("void* f() { return std::malloc(3); }\nvoid quantize() { f(); }", "allocation in a run"),
        ("void multiply(std::vector<int>& v) { v.push_back(1); }", "allocation in a run"),
        (
            "namespace { std::vector<int> g(int n) { return std::vector<int>(n); } }\nvoid finish() { g(3); }",
            "allocation",
        ),
        ("void tile_task(std::string& s) { s += 'x'; }", "allocation in a run"),
        ("std::string run(int x) { return std::to_string(x); }", "allocation in a run"),
        (
            "void compute(int n) {\nif (n) {\nstd::string s(99, 'x');\nreturn;\n}\nthrow std::exception();\n}",
            "allocation",
        ),
        ("struct K { void compute() { [&] { delete new int; }(); } };\nvoid h() { K().compute(); }", "allocation"),
    ],
)
def test_what_the_calls_say(tmp_path: Path, code: str, finding: str):
    found = planted(tmp_path, f"#include <cstdlib>\n{SOUND}\n{code}\n", calls=True)
    assert found and all(finding in line for line in found)


def test_code_without_a_root_is_said_to_be_unchecked(tmp_path: Path):
    assert "no function is named" in planted(tmp_path, "int f() { return 1; }", calls=True)[0]


def test_the_kernels_keep_what_their_text_shows():
    found = rules.check(SCRIPT.parents[1] / "csrc", None)
    assert found == []
