"""The house rules that a machine can check, read from the source by `ast`: nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("elmur", "data", "envs", "callbacks")
FILES = [*sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")), Path("run.py")]

# Who may lean on whom: a room, or one file of it, -> the modules of ours that it may import beside its own room.
MAY_IMPORT = {
    "elmur": (),
    "envs": ("elmur.spec",),
    "data": ("elmur",),
    "data/collect.py": ("elmur", "envs"),
    "callbacks": ("elmur", "envs"),
    "run.py": ("elmur", "data", "envs", "callbacks"),  # it alone brings the rooms together
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
    for name in ("arguments", "launchers/hydra_plugins/elmur_local", "slurm", "sweeps", "targets")
)
# Dataclasses whose fields are the keys of a section of the configuration or of a file, one each.
SCHEMAS = ("EnvFamily", "Row", "Settings")
MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 50, 11


@pytest.fixture(params=FILES, ids=str)
def file(request: pytest.FixtureRequest) -> Path:
    """One source file, relative to the root."""
    path: Path = request.param
    return path


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


def constructor_parameters(node: ast.ClassDef) -> int:
    """How many parameters a class takes: of its __init__, or its fields where it is a dataclass."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return len([*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]) - 1
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item)]
    return len(fields) if is_dataclass(node) else 0


def test_every_room_is_looked_at() -> None:
    assert len(FILES) > 30
    assert {file.parts[0] for file in FILES} == {*ROOMS, "run.py"}


def test_leans_only_on_whom_it_may(file: Path) -> None:
    assert trespasses(parse(file), file) == []


def test_functions_fit_a_screen(file: Path) -> None:
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_constructors_take_few_parameters(file: Path) -> None:
    classes = [node for node in ast.walk(parse(file)) if isinstance(node, ast.ClassDef)]
    many = {c.name: n for c in classes if (n := constructor_parameters(c)) > MOST_PARAMETERS}
    assert {name: number for name, number in many.items() if name not in SCHEMAS} == {}


def test_does_not_print(file: Path) -> None:
    calls = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []


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
        ("run.py", "from data.shard import read", False),
    ],
)
def test_the_rule_on_imports_itself(file_name: str, line: str, refused: bool) -> None:
    assert bool(trespasses(ast.parse(line), Path(file_name))) == refused
