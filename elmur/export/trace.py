"""The step as files: torch.export's program and ONNX, for one lane and for any number."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from elmur.export.program import ACTION, IS_FIRST, LAST_ACTION, MEMORY, NEXT, PREDICTION, StepProgram, Tensors
from elmur.files import write_bytes
from elmur.sequence_model import SequenceModel

TRACED = 2  # lanes of the example that a program for any number of lanes is traced with
AS_ONNX = "written as ONNX"
LONGEST = 300  # characters of a foreign error that ours shows


class ExportError(ValueError):
    """A policy that cannot be exported, or a program that is not the policy; the message says which and why."""


def program_of(model: SequenceModel, context_length: int, first: Any) -> StepProgram:
    """The step of a model on the CPU, with just the inputs that its graph reads.

    first: the state of one lane at the beginning of an episode. Raises ExportError, which names the model and the
    reason, for one that draws its actions and for one whose forward cannot be traced.
    """
    if model.head.generative:
        raise ExportError(
            f"{type(model).__name__}: each of its actions is generated from random numbers, which a program of tensors "
            "does not have; elmur.load acts with it"
        )
    program = StepProgram(model, context_length, first)
    read = inputs_read(traced(program, TRACED), program)
    if LAST_ACTION not in read:
        program.acted = False
        if program.length == 1:  # nothing of a step is kept any more
            read = inputs_read(traced(program, TRACED), program)
    program.names = tuple(name for name in program.names if name in (*program.spec.observation, IS_FIRST, *read))
    return program


def traced(program: StepProgram, lanes: int | None) -> ExportedProgram:
    """The program for so many lanes; None: for any number."""
    given = {name: part for name, part in program.example(lanes or TRACED).items() if name in program.names}
    shapes = {name: {0: torch.export.Dim("lanes", min=1)} for name in given} if lanes is None else None
    with torch.no_grad(), _quiet(), _said(program, "traced"):
        return torch.export.export(program, (given,), dynamic_shapes=(shapes,) if shapes else None, strict=False)


def inputs_read(exported: ExportedProgram, program: StepProgram) -> set[str]:
    """The inputs that an action depends on, at once or by way of what is remembered."""
    with _quiet():
        exported = exported.run_decompositions({})  # without operations in place, whose results no edge leads from
    signature, nodes = exported.graph_signature, {node.name: node for node in exported.graph.nodes}
    inputs = dict(zip(map(str, signature.user_inputs), program.names, strict=True))
    outputs = dict(zip(outputs_of(program), map(str, signature.user_outputs), strict=True))
    read: set[str] = set()
    looked_at: set[str] = set()
    wanted = {ACTION, PREDICTION}
    while wanted - looked_at:
        looked_at.add(name := (wanted - looked_at).pop())
        above, seen = [nodes[outputs[name]]], set()
        while above:
            node = above.pop()
            if node not in seen:
                seen.add(node)
                above += node.all_input_nodes
        found = {inputs[node.name] for node in seen if node.name in inputs}
        read |= found
        wanted |= {f"{NEXT}{other}" for other in found if other.startswith(MEMORY)}
    return read


def outputs_of(program: StepProgram) -> list[str]:
    """The names of what a program gives, in order."""
    return [ACTION, PREDICTION, *(f"{NEXT}{name}" for name in program.names if name.startswith(MEMORY))]


def write_torch(exported: ExportedProgram, path: Path) -> None:
    """Write what was traced for torch.export.load."""
    content = io.BytesIO()
    with _quiet():
        torch.export.save(exported, content)
    write_bytes(path, content.getvalue())


def write_onnx(exported: ExportedProgram, program: StepProgram, path: Path) -> None:
    """Write what was traced as ONNX, of the opset that torch writes by itself."""
    op = onnx_operators()

    def stable_sort(x: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        """TopK of all: of equal values ONNX has the first one first."""
        size = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)

    content = io.BytesIO()
    with _quiet(), _said(program, AS_ONNX):
        made: Any = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=list(program.names),
            output_names=outputs_of(program),
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort},
            verbose=False,
        )
        _rename_inside(made.model.graph)
        made.save(content)
    write_bytes(path, content.getvalue())


def _rename_inside(graph: Any) -> None:
    """Give other names to what is called as an input is: inside, names are those of operators, such as `view`."""
    inputs = {value.name for value in graph.inputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in inputs:
                value.name = f"{value.name}.inside"


def onnx_operators() -> Any:
    """The operators of ONNX by name. Raises ExportError where a package that writing it needs is missing."""
    try:
        import onnxruntime  # noqa: F401 - by which what is written is compared with the policy
        import onnxscript
    except ImportError as error:
        raise ExportError(f'ONNX needs the Python package {error.name}: pip install "elmur[export]"') from error
    return onnxscript.opset20


def example_of(program: StepProgram, lanes: int) -> Tensors:
    """The inputs that a program takes at a first step."""
    return {name: part for name, part in program.example(lanes).items() if name in program.names}


def signature_of(program: StepProgram) -> Mapping[str, Any]:
    """Names, types and shapes of what a program takes and gives, the lanes left out."""
    with torch.no_grad():
        given = example_of(program, 1)
        made = program(given)

    def told(tensors: Tensors) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": str(part.dtype).removeprefix("torch."), "shape": list(part.shape[1:])}
            for name, part in tensors.items()
        ]

    return {"inputs": told(given), "outputs": told(made)}


@contextlib.contextmanager
def _said(program: StepProgram, what: str) -> Iterator[None]:
    """Whatever torch raises at a model, as one sentence."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # tracing runs a model's own code, and the exporters raise what they like
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # type: ignore[assignment]
        text = " ".join(str(cause).split())[:LONGEST] or type(cause).__name__
        hint = "; export.formats=[torch] does without ONNX" if what == AS_ONNX else ""
        raise ExportError(f"{type(program.model).__name__}: its step cannot be {what} ({text}){hint}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters tell of themselves is not for who exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
