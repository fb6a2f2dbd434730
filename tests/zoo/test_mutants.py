"""Single faults in optimized networks of real size are caught on made-up inputs."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from mutants import survey
from zoo import light
from zoo.fetch import model_path

import baker
from baker.model.lower import lower

pytestmark = pytest.mark.zoo

COUNT = 12
ALLOWED = 1
"""Survivors of a model that other inputs would have told from it."""


@pytest.mark.parametrize("name", [*(f"light_{name}" for name in light.LIGHT), "ocr_cls", "silero_vad_op18_ifless"])
def test_nearly_all_faults_are_caught(name: str):
    source = light.reseeded_light(name[6:]) if name.startswith("light_") else model_path(name)
    baked = baker.bake(source, "@simplify", verify=False)
    found = survey(lower(ir.to_proto(baked.model)), COUNT, explained_on=8)
    assert sum(found.total.values()) == COUNT
    missed = [survivor for survivor in found.survivors if survivor.why == "missed"]
    assert len(missed) <= ALLOWED, missed
    assert len(found.survivors) <= COUNT // 5, found.survivors
