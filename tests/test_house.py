"""The house rules that a machine can check, read from the source by `ast`: nothing is imported here."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("elmur", "data", "envs", "callbacks")
FILES = [*sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")), Path("run.py")]

# Who may lean on whom: a room, or one file of it, -> the modules of ours that it may import beside its own room.
MAY_IMPORT = {
    "elmur": (),
    "envs": ("elmur.spec", "elmur.spaces", "elmur.registry"),  # what a task looks like, what may be imported for it
    "data": ("elmur",),
    "data/collect.py": ("elmur", "envs"),
    "data/shard_job.py": ("elmur", "envs"),
    "data/replay.py": ("elmur", "envs.vector"),  # recorded episodes in the place of an environment
    "callbacks": ("elmur", "envs"),
    "run.py": ("elmur", "envs", "callbacks"),  # what it needs of data has a name in the registry
}
# The libraries that a room does without: config stays in run.py, files in data, the network apart from both.
DOES_WITHOUT = {
    "elmur": ("hydra", "omegaconf", "h5py", "hdf5plugin", "gymnasium", "popgym", "mani_skill"),
    "envs": ("hydra", "omegaconf", "h5py", "hdf5plugin", "lightning"),
    "data": ("hydra", "omegaconf", "gymnasium", "popgym", "mani_skill"),
    "callbacks": ("hydra", "omegaconf", "h5py", "hdf5plugin"),
}
# Files that extend Hydra or the launcher itself: they watch how a run is started.
SPEAKS_HYDRA = tuple(
    f"callbacks/command/{name}.py"
    for name in (
        "arguments",
        "launchers/hydra_plugins/elmur_compare",
        "launchers/hydra_plugins/elmur_local",
        "launchers/hydra_plugins/elmur_optuna",
        "local",
        "packages",
        "slurm",
        "sweeps",
        "targets",
    )
)
MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 50, 8
# More than MOST_PARAMETERS, since the public keys of a section of the configuration are the parameters.
CONFIGURED = (
    "callbacks.selection.RolloutSelection",
    "data.collect.collect",
    "data.datamodule.TrajectoryDataModule",
    "elmur.baselines.diffusion_policy.DiffusionPolicy",
    "elmur.baselines.mamba.Mamba",
    "elmur.baselines.transformer_xl.TransformerXL",
    "elmur.model.ELMUR",
    "elmur.model.MemoryDesign",
    "elmur.module.SequenceModule",
    "envs.gym.make_vector",
    "envs.mikasa.make_vector",
)
# Dataclasses whose fields are a table's: sections of the configuration, keys of a file, columns, tensors of a batch.
SCHEMAS = (
    "Cost",
    "EnvFamily",
    "EvaluationPlan",
    "Index",
    "Row",
    "SegmentBatch",
    "Settings",
    "Transitions",
    "Validation",
)


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imported(tree: ast.Module, file: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any depth and for type checking too: `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = file.parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def lies_in(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def trespasses(tree: ast.Module, file: Path) -> list[str]:
    """Imports of a file that its room may not make."""
    room = file.parts[0]
    allowed = (*MAY_IMPORT.get(file.as_posix(), MAY_IMPORT[room]), room)
    names = list(imported(tree, file))
    ours = [name for name in names if lies_in(name, (*ROOMS, "run")) and not lies_in(name, allowed)]
    without = () if file.as_posix() in SPEAKS_HYDRA else DOES_WITHOUT.get(room, ())
    return ours + [name for name in names if lies_in(name, without)]


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def number_of_parameters(node: ast.AST) -> int:
    """How many parameters a function takes, self and cls not among them, or a dataclass has fields; 0 of all else."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [part.arg for part in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return len(names) - (names[:1] in (["self"], ["cls"]))
    if isinstance(node, ast.ClassDef) and is_dataclass(node):
        return sum(isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item) for item in node.body)
    return 0


def too_many(tree: ast.Module, module: str) -> set[str]:
    """Dotted names of what takes more than MOST_PARAMETERS: functions, dataclasses, classes for their methods."""
    return {
        f"{module}.{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and max(map(number_of_parameters, ast.walk(node))) > MOST_PARAMETERS
    }


def module_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def test_every_room_is_looked_at() -> None:
    assert len(FILES) > 30
    assert {file.parts[0] for file in FILES} == {*ROOMS, "run.py"}


def test_every_file_leans_only_on_whom_it_may() -> None:
    assert [(str(file), name) for file in FILES for name in trespasses(parse(file), file)] == []


def test_functions_fit_a_screen() -> None:
    long = {
        f"{file}:{node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_functions_take_few_parameters() -> None:
    found = {name for file in FILES for name in too_many(parse(file), module_of(file))}
    assert {name for name in found if name.rpartition(".")[2] not in SCHEMAS} == set(CONFIGURED)


def test_what_takes_more_is_named_by_the_configuration() -> None:
    """By `_target_`, as the section `collect`, or by a model that hands all of its keys on to its layers."""
    targets = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml"))
    assert [name for name in CONFIGURED if not re.search(rf"_target_: {re.escape(name)}\b", targets)] == [
        "data.collect.collect",
        "elmur.baselines.transformer_xl.TransformerXL",
    ]
    assert "\ncollect:\n" in targets


def test_nothing_prints() -> None:
    calls = [(str(file), node) for file in FILES for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    assert [
        (at, node.lineno) for at, node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"
    ] == []


@pytest.mark.parametrize(
    ("file_name", "line", "refused"),
    [
        ("elmur/model.py", "from envs.vector import VectorEnv", True),
        ("elmur/model.py", "def f():\n    import h5py", True),
        ("elmur/baselines/gru.py", "from ..memory import Memory", False),
        ("elmur/baselines/gru.py", "from elmur import memory", False),
        ("envs/tmaze.py", "from elmur.spec import TaskSpec", False),
        ("envs/tmaze.py", "from elmur import spec", False),
        ("envs/tmaze.py", "import elmur", True),
        ("envs/tmaze.py", "from elmur.special import x", True),
        ("data/collect.py", "from envs.rollout import rollout", False),
        ("data/dataset.py", "from envs.rollout import rollout", True),
        ("callbacks/report.py", "import data.shard", True),
        ("callbacks/report.py", "from database import x", False),
        ("run.py", "from data.shard import read", True),
    ],
)
def test_the_rule_on_imports_itself(file_name: str, line: str, refused: bool) -> None:
    assert bool(trespasses(ast.parse(line), Path(file_name))) == refused


def test_the_rule_on_parameters_itself() -> None:
    many = ", ".join(f"a{number}" for number in range(9))
    fields = "".join(f"    a{number}: int\n" for number in range(9))
    source = (
        f"def f({many}): ...\ndef g({many[:-4]}): ...\nclass A:\n    def h(self, {many[:-4]}): ...\n"
        f"class B:\n    def h(self, *, {many}): ...\n@dataclass\nclass C:\n{fields}def k():\n    def f({many}): ...\n"
    )
    assert too_many(ast.parse(source), "m") == {"m.f", "m.B", "m.C", "m.k"}


def test_every_marker_is_run_by_ci() -> None:
    """`.ci/run` calls a target of the Makefile for each marker, and the target selects by it."""
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    names = [line.partition(":")[0] for line in markers["markers"]]
    assert {"slow", "faults", "slurm", "mikasa", "gpu"} <= set(names)
    makefile, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", ".ci/run"))
    for name in names:
        (recipe,) = re.findall(rf"^test-{name}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert f"-m {name} " in recipe, name
        assert re.search(rf"^[^#\n]*\bmake test-{name}\b", ci, re.MULTILINE), name
