"""What the ONNX standard says of operators, versions and attributes, and the name of baker's own domain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx
import onnx_ir as ir

from baker.errors import suggest
from baker.model.graph import has_reference_attribute, standard_domain, subgraphs
from baker.model.marks import quoted

ONNX_DOMAINS = frozenset(schema.domain for schema in onnx.defs.get_all_schemas())
"""The domains of the standard; "" is ai.onnx."""

BAKER_DOMAIN = "ai.baker"
"""The domain of baker's own operators; a model that imports it needs the custom-op library."""

RANDOM_OPERATORS = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
"""Operators of the standard that draw random numbers; Dropout is one more in training mode."""

# Operators that ONNX Runtime registers in ONNX's domain although the standard lacks them, or lacked them then.
_RUNTIME_OPERATORS = frozenset(
    (
        *("Affine", "Crop", "DynamicSlice", "ImageScaler", "LayerNormalization"),
        *("ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization"),
    )
)


def repeats(node: ir.Node) -> bool:
    """True for an operator of the standard that gives the same result for the same inputs, wherever it stands.

    Not for one with subgraphs, nor for one with an attribute that is a parameter of the enclosing function.
    """
    if standard_domain(node.domain) or node.op_type in RANDOM_OPERATORS or node.op_type == "Dropout":
        return False
    return not has_reference_attribute(node) and not subgraphs(node)


@cache
def newest_version(domain: str) -> int | None:
    """Returns the newest opset version of an ONNX domain that the onnx package knows, None for a foreign domain."""
    if domain not in ONNX_DOMAINS:
        return None
    if not domain:
        return onnx.defs.onnx_opset_version()
    return max(s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain)


@cache
def operator_fault(op_type: str, domain: str, version: int) -> str | None:
    """Returns why an ONNX domain has no such operator in this opset, or None."""
    if domain not in ONNX_DOMAINS or (not domain and op_type in _RUNTIME_OPERATORS):
        return None
    if not onnx.defs.has(op_type, domain):
        known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
        shown = f"domain {quoted(domain)}" if domain else "ONNX"
        return f"{shown} has no such operator.{suggest(op_type, known)}"
    if not onnx.defs.has(op_type, version, domain):
        history = onnx.defs.get_all_schemas_with_history()
        first = min(s.since_version for s in history if (s.name, s.domain) == (op_type, domain))
        return f"it came with opset {first}, and the model imports opset {version}"
    schema = onnx.defs.get_schema(op_type, version, domain)
    if schema.deprecated:
        return f"it was removed in opset {schema.since_version}, and the model imports opset {version}"
    return None


@cache
def attribute_types(op_type: str, domain: str, version: int) -> Mapping[str, int]:
    """Returns {attribute: AttributeProto.type} of an operator of the standard; nothing for any other."""
    if domain not in ONNX_DOMAINS or not onnx.defs.has(op_type, version, domain):
        return {}
    attributes = onnx.defs.get_schema(op_type, version, domain).attributes
    # onnx's stubs hide that AttrType is an enum with the values of AttributeProto.AttributeType.
    return {name: int(getattr(attribute.type, "value")) for name, attribute in attributes.items()}  # noqa: B009
