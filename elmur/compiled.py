"""A model's acting as machine code by torch.compile: at the sizes of acting, most of a step is Python and dispatch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from elmur.sequence_model import SequenceModel


class Acting(NamedTuple):
    """The three functions of a `SequenceModel` that acting calls."""

    open_segment: Callable[..., Any]
    step: Callable[..., torch.Tensor]
    close_segment: Callable[..., Any]


def has_compiler() -> bool:
    """Whether there is what torch.compile compiles with."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def acting(model: SequenceModel, compiled: bool = False) -> Acting:
    """The model's own functions, or compiled ones, which are made at their first calls (10 to 20 seconds).

    Compiled ones differ from the model's own by rounding. ValueError where there is no C++ compiler.
    """
    functions = Acting(model.open_segment, model.step, model.close_segment)
    if not compiled:
        return functions
    if not has_compiler():
        raise ValueError(
            f"evaluation.compile=true needs a C++ compiler, found no {os.environ.get('CXX', 'g++')!r}: "
            "apt-get install g++, or name one in CXX; without evaluation.compile the same is computed more slowly"
        )
    # The wrapper in C++ too: the one in Python takes as long as what it calls.
    return Acting(*(torch.compile(function, options={"cpp_wrapper": True}) for function in functions))
