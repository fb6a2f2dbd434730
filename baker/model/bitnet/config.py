"""What a checkpoint's config.json says of a BitNet, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from baker.errors import ModelError
from baker.model.marks import quoted

Form: TypeAlias = Literal["times", "over", "latent"]
"""How a linear layer's weight is stored: codes times ``weight_scale``, codes over it, or latent weights that are
rounded to codes times their mean magnitude."""

_MAX_NUMBER = 2**31 - 1
_ACTIVATIONS = ("relu2", "silu")


@dataclass(frozen=True)
class BitNetConfig:
    """The numbers a graph is built from.

    Attributes:
        hidden: width between the layers; ``inner`` is that of the gated part.
        heads, kv_heads, head_dim: of the attention; a key and value head serves heads / kv_heads queries.
        theta: base of the rotary embedding.
        epsilon: of the RMS normalizations.
        tied: the embedding is the output projection, too.
        form: how the weights are stored.
        notes: what was taken for granted.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    theta: float
    epsilon: float
    activation: str
    tied: bool
    form: Form
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of all key heads together."""
        return self.kv_heads * self.head_dim


def parse_config(found: Mapping[str, Any], *, packed: bool) -> BitNetConfig:
    """Reads config.json.

    Args:
        packed: the weights are packed codes; decides where the configuration is silent about them.

    Raises:
        ModelError: something is missing, of another type, contradictory, or not supported.
    """
    kind = found.get("model_type")
    if kind != "bitnet":
        raise ModelError(
            f"config.json: model_type is {quoted(kind)}; of safetensors checkpoints only 'bitnet' is read. "
            "Export other models to ONNX first"
        )
    _refuse_variants(found)
    hidden, heads = _natural(found, "hidden_size"), _natural(found, "num_attention_heads")
    kv_heads = heads if found.get("num_key_value_heads") is None else _natural(found, "num_key_value_heads")
    head_dim = hidden // heads if found.get("head_dim") is None else _natural(found, "head_dim")
    if heads % kv_heads or head_dim % 2 or not head_dim or heads * head_dim != hidden:
        raise ModelError(
            f"config.json: {heads} heads of {head_dim} over {kv_heads} key heads do not fit hidden_size {hidden}"
        )
    activation = found.get("hidden_act", "relu2")
    if activation not in _ACTIVATIONS:
        raise ModelError(f"config.json: hidden_act {quoted(activation)} is none of {', '.join(_ACTIVATIONS)}")
    form, notes = _form(found.get("quantization_config"), packed=packed)
    return BitNetConfig(
        hidden,
        _natural(found, "intermediate_size"),
        _natural(found, "num_hidden_layers"),
        heads,
        kv_heads,
        head_dim,
        _natural(found, "vocab_size"),
        _theta(found),
        _positive(found, "rms_norm_eps", 1e-5),
        activation,
        _flag(found, "tie_word_embeddings"),
        form,
        notes,
    )


def _refuse_variants(found: Mapping[str, Any]) -> None:
    """Says which parts of the architecture are not built here, rather than building another model."""
    if _flag(found, "attention_bias"):
        raise ModelError("config.json: attention_bias is not supported")
    if found.get("sliding_window") is not None:
        raise ModelError("config.json: sliding_window is not supported")


def _form(found: object, *, packed: bool) -> tuple[Form, tuple[str, ...]]:
    """How weights are stored: the classes AutoBitLinear and BitLinear of transformers differ in what a scale means."""
    if found is None:
        form: Form = "times" if packed else "latent"
        said = "packed weights times weight_scale" if packed else "latent weights"
        return form, (f"config.json has no quantization_config: read as {said}, as the public 2B-4T release has them",)
    if not isinstance(found, Mapping) or found.get("quant_method", "bitnet") != "bitnet":
        raise ModelError("config.json: quantization_config is not of quant_method 'bitnet'")
    if _flag(found, "use_rms_norm"):
        raise ModelError("config.json: quantization_config's use_rms_norm is not supported")
    if set(found.get("modules_to_not_convert") or ()) - {"lm_head"}:
        raise ModelError("config.json: quantization_config's modules_to_not_convert is not supported beyond 'lm_head'")
    kind, mode = found.get("linear_class", "bitlinear"), found.get("quantization_mode", "offline")
    forms: dict[tuple[object, object], Form] = {
        ("autobitlinear", "offline"): "times",
        ("autobitlinear", "online"): "latent",
        ("bitlinear", "offline"): "over",
    }
    if not (isinstance(kind, str) and isinstance(mode, str) and (kind, mode) in forms):
        raise ModelError(f"config.json: linear_class {quoted(kind)} with quantization_mode {quoted(mode)} is not known")
    return forms[kind, mode], ()


def _theta(found: Mapping[str, Any]) -> float:
    """The rotary base, in the configuration itself or in ``rope_parameters``; scaled kinds are another function."""
    theta = _positive(found, "rope_theta", 500000.0)
    for key in ("rope_scaling", "rope_parameters"):
        more = found.get(key)
        if more is None:
            continue
        if not isinstance(more, Mapping) or more.get("rope_type", more.get("type", "default")) != "default":
            raise ModelError(f"config.json: {key} other than the default rotary embedding is not supported")
        if more.get("partial_rotary_factor", 1) != 1:
            raise ModelError(f"config.json: {key} with a partial_rotary_factor is not supported")
        theta = _positive(more, "rope_theta", theta)
    return theta


def _natural(found: Mapping[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) is not int or not 0 < value <= _MAX_NUMBER:
        raise ModelError(f"config.json: {key} is {quoted(value)}, a positive whole number is due")
    return value


def _positive(found: Mapping[str, Any], key: str, default: float) -> float:
    value = found.get(key, default)
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise ModelError(f"config.json: {key} is {quoted(value)}, a positive number is due")
    return float(value)


def _flag(found: Mapping[str, Any], key: str) -> bool:
    value = found.get(key, False)
    if type(value) is not bool:
        raise ModelError(f"config.json: {key} is {quoted(value)}, true or false is due")
    return value
