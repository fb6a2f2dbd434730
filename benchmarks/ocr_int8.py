"""What int8 costs a real model: PP-OCRv4's recognizer on 200 rendered lines, calibrated on 40 others.

    python benchmarks/ocr_int8.py

Prints character accuracy, file size and the kernels that run, before and after ``-p fuse,quantize``. The model comes
out of a published package, fetched once into a cache; see tests/zoo/fetch.py.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from report import machine, markdown

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from zoo import ocr
from zoo.fetch import model_path

import baker
from baker.runtime.audit import audit_kernels
from baker.runtime.session import run


def row(name: str, path: Path) -> list[str]:
    """Name, accuracy, MB, and integer layers of all with constant weights."""
    session, audit = baker.session(path), audit_kernels(path)
    accuracy = ocr.char_accuracy(lambda feed: run(session, feed))
    layers = audit.integer + audit.float + audit.ternary
    return [name, f"{accuracy:.4f}", f"{path.stat().st_size / 1e6:.2f}", f"{audit.integer} of {layers}"]


def main() -> None:
    source = model_path("ocr_rec")
    baked = baker.bake(source, "fuse,quantize", calib=ocr.calibration_feeds())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        baker.save(baked.model, out)
        rows = [row("float32", source), row("fuse,quantize", out)]
    print(f"PP-OCRv4 recognizer; {machine()}\n")
    print(markdown(["model", "characters right", "MB", "integer layers"], rows))


if __name__ == "__main__":
    main()
