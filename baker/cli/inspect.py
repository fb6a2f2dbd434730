"""baker inspect: what a model is made of, and which kernels ONNX Runtime runs it with."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.limits import limit_options
from baker.cli.shell import FILE, MODEL, Command, progress, width

if TYPE_CHECKING:
    import onnx_ir as ir


@click.command(cls=Command, short_help="Show what a model is made of.")
@click.argument("model", type=MODEL)
@click.option("--custom-ops", metavar="LIB", type=FILE, help="Library of custom operators the model needs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@limit_options
@click.option(
    "-v", "--verbose", count=True, help="Name every layer's kernel and every node's origin; -vv shows tracebacks."
)
def inspect(model: Path, custom_ops: Path | None, as_json: bool, verbose: int) -> None:
    """Show the size, interface, operators, weights, kernels and metadata of MODEL."""
    from baker.model.lower import lower, source_facts

    with progress(True) as show:
        show(f"reading {model}")
        facts = {"file": vars_of(source_facts(model))} | describe(lower(model)) | kernels(model, custom_ops)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from baker.pipeline.tables import facts_view

    if not verbose:
        facts["kernels"].pop("nodes", None)
    facts["provenance"] = provenance_rows(facts["provenance"], verbose=verbose > 0)
    click.echo(facts_view(facts, width=width()), nl=False)


def describe(model: ir.Model) -> dict[str, Any]:
    """What can be told without running the model. Ops without Constant; weights in bytes by data type."""
    from baker.model.graph import all_nodes, graphs

    ops = Counter(_qualified(node.domain, node.op_type) for node in all_nodes(model) if node.op_type != "Constant")
    weights: Counter[str] = Counter()
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                weights[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    return {
        "ir_version": model.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "inputs": {str(value.name): _typed(value) for value in model.graph.inputs},
        "outputs": {str(value.name): _typed(value) for value in model.graph.outputs},
        "ops": dict(ops.most_common()),
        "weights": dict(weights.most_common()),
        "functions": len(model.functions),
        "metadata": dict(model.metadata_props),
        "provenance": provenance(model),
    }


def provenance(model: ir.Model) -> dict[str, Any]:
    """What the metadata says of where nodes and weights come from; empty where it says nothing.

    Counts are of nodes and weights that a bake made or changed; ``by`` counts both for each pass.
    """
    from baker.pipeline.provenance import stamped

    found: dict[str, dict[str, Any]] = {"nodes": {}, "weights": {}}
    passes: Counter[str] = Counter()
    for kind, name, origin in stamped(model):
        found[f"{kind}s"][name] = {"from": origin.shown(), "by": list(origin.passes)}
        passes.update(origin.passes)
    return found | {"by": dict(passes.most_common())} if passes else {}


def provenance_rows(found: dict[str, Any], *, verbose: bool) -> dict[str, Any]:
    """The same for people: how much came from whom, and with ``verbose`` a line for each."""
    if not found:
        return {}
    counts = {kind: f"{len(found[kind])} made or changed" for kind in ("nodes", "weights")}
    rows = {"by": ", ".join(f"{name} {count}" for name, count in found["by"].items())}
    if verbose:
        for kind in ("nodes", "weights"):
            for name, origin in found[kind].items():
                rows[name] = (
                    f"from {', '.join(origin['from']) or 'nothing in the source'}, by {', '.join(origin['by'])}"
                )
    return counts | rows


def kernels(model: Path, custom_ops: Path | None) -> dict[str, Any]:
    """The kernels in ONNX Runtime's optimized graph, or why there are none to tell."""
    from baker.errors import ModelError
    from baker.pipeline.report import plain
    from baker.runtime.audit import audit_kernels

    try:
        return {"kernels": plain(audit_kernels(model, custom_ops=custom_ops))}
    except ModelError as error:
        return {"kernels": {"unknown": str(error)}}


def vars_of(record: Any) -> dict[str, Any]:
    """A dataclass as plain values."""
    from baker.pipeline.report import plain

    return dict(plain(record))


def _qualified(domain: str, op: str) -> str:
    return op if domain in ("", "ai.onnx") else f"{domain}::{op}"


def _typed(value: ir.Value) -> str:
    kind = value.dtype.name.lower() if value.dtype is not None else str(value.type)
    if value.shape is None:
        return f"{kind}, rank unknown"
    return f"{kind} [{', '.join('?' if is_unknown(dim) else str(dim) for dim in value.shape)}]"


def is_unknown(dim: int | ir.SymbolicDim) -> bool:
    """Whether a dim has neither a size nor a name."""
    return not isinstance(dim, int) and dim.value is None
