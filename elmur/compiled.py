"""A model's acting as machine code by torch.compile: at the sizes of acting, most of a step is Python and dispatch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from elmur.sequence_model import SequenceModel

PROGRAM = "#include <cmath>\ndouble root(double x) { return std::sqrt(x); }\n"
COMPILING = 60  # seconds at most


class Acting(NamedTuple):
    """The three functions of a `SequenceModel` that acting calls."""

    open_segment: Callable[..., Any]
    step: Callable[..., torch.Tensor]
    close_segment: Callable[..., Any]


def has_compiler() -> bool:
    """Whether there is what torch.compile compiles with."""
    return shutil.which(_compiler()) is not None


def check_compiler() -> None:
    """Raises ValueError where there is no C++ compiler, or one that cannot make a library."""
    without = "without evaluation.compile the same is computed more slowly"
    if not has_compiler():
        raise ValueError(
            f"evaluation.compile=true needs a C++ compiler, found no {_compiler()!r}: apt-get install g++, or name one "
            f"in CXX; {without}"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "made")
        command = [_compiler(), "-x", "c++", "-shared", "-fPIC", "-o", made, "-"]
        done = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, timeout=COMPILING)
        if done.returncode or not os.path.exists(made):
            said = " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}, and nothing made"
            raise ValueError(
                f"evaluation.compile=true: the C++ compiler {_compiler()!r} does not work ({said}); {without}"
            )


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def acting(model: SequenceModel, compiled: bool = False) -> Acting:
    """The model's own functions, or compiled ones, which are made at their first calls (10 to 20 seconds).

    Compiled ones differ from the model's own by rounding. ValueError where there is no C++ compiler.
    """
    functions = Acting(model.open_segment, model.step, model.close_segment)
    if not compiled:
        return functions
    check_compiler()
    # The wrapper in C++ too: the one in Python takes as long as what it calls.
    return Acting(*(torch.compile(function, options={"cpp_wrapper": True}) for function in functions))
