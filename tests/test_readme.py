"""Every ```bash, ```sh and ```python block of README.md and docs/*.md is executed, in order, in a copy of the checkout.

Those of README.md run by `make test`, but for those that it calls slow; those of docs/ by `make test-slow`. A block
runs as it stands, unless an HTML comment on the line above says otherwise:
`<!-- test: slow -->` leaves it to `make test-slow`;
`<!-- test: reduced WORDS -->` appends WORDS to each command line of the block, e.g. `trainer.max_steps=10`;
`<!-- test: slow reduced WORDS -->` does both;
`<!-- test: elsewhere REASON -->` leaves it to a machine that has what it needs, such as a GPU.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FEWEST_BLOCKS = 4
TIMEOUT = 600  # seconds for one block

FENCE = re.compile(
    r"^(?:<!-- test: (?P<slow>slow\b ?)?(?P<how>reduced|elsewhere)?(?P<words>[^\n]*?) *-->\n)?"
    r"```(?P<language>bash|sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "outputs", "__pycache__", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Block:
    """One code block of the README: what to execute, and where it stands."""

    language: str
    text: str
    line: int
    slow: bool
    elsewhere: bool = False
    page: str = "README.md"

    def command(self) -> list[str]:
        """The program that executes this block and stops at its first failure."""
        return [sys.executable, "-c", self.text] if self.language == "python" else ["bash", "-euc", self.text]


def reduced(text: str, words: str) -> str:
    """The same commands with words at the end of each; comments and lines that go on with a backslash stay."""
    lines = [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]
    return "".join(
        f"{line}\n" if not line or line.startswith("#") or line.endswith("\\") else f"{line} {words}\n"
        for line in lines
    )


def blocks_of(markdown: str, page: str = "README.md") -> list[Block]:
    """The executable blocks of a page, in order, reduced where the page says so."""
    blocks = []
    for found in FENCE.finditer(markdown):
        text = reduced(found["text"], found["words"].strip()) if found["how"] == "reduced" else found["text"]
        line = markdown.count("\n", 0, found.start("language")) + 1
        is_slow, elsewhere = bool(found["slow"]) or page != "README.md", found["how"] == "elsewhere"
        blocks.append(Block(found["language"], text, line, is_slow, elsewhere, page))
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"), page.name)]
EXECUTED = [block for block in BLOCKS if not block.elsewhere]


@pytest.fixture(scope="module")
def checkout_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The copy of the checkout in which the blocks of a page are executed, one page's apart from another's."""
    return functools.cache(lambda page: copied(tmp_path_factory.mktemp("page") / "elmur"))


def copied(copy: Path) -> Path:
    """A copy of the source with this interpreter's environment as its .venv; what a block writes stays in it.

    The environment is used, not changed: `make` finds its stamp in a folder of the copy's own, and installs nothing.
    """
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    (copy / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        (copy / ".venv" / part.name).symlink_to(part)
    stamp = ["make", "-s", "--eval=stamp: ; @echo $(STAMP)", "stamp"]
    name = subprocess.run(stamp, cwd=copy, check=True, capture_output=True, text=True, env=newcomer()).stdout.strip()
    (copy / name).unlink(missing_ok=True)
    (copy / name).touch()
    return copy


def newcomer() -> dict[str, str]:
    """Neither the shards of this run nor what an outer make or pytest tells its children: a newcomer has none of it."""
    left_out = ("MAKE", "MFLAGS", "PYTEST_", "ELMUR_SHARDS")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return environment


def test_no_block_installs_into_the_environment_that_runs_the_tests(checkout_of: Callable[[str], Path]) -> None:
    checkout = checkout_of("README.md")
    dry = ["make", "-n", "demo"]
    said = subprocess.run(dry, cwd=checkout, check=True, capture_output=True, text=True, env=newcomer()).stdout
    assert "run.py" in said and "pip" not in said
    # Where the environment is not set up, which is where the tests of a bare machine run, it would be.
    stamp = next((checkout / ".venv").glob(".setup-*"))
    stamp.unlink()
    assert "pip install" in subprocess.run(dry, cwd=checkout, capture_output=True, text=True, env=newcomer()).stdout
    stamp.touch()


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.page}:{block.line}", marks=[pytest.mark.slow] if block.slow else [])
        for block in EXECUTED
    ],
)
def test_a_block(block: Block, checkout_of: Callable[[str], Path]) -> None:
    done = subprocess.run(
        block.command(), cwd=checkout_of(block.page), env=newcomer(), timeout=TIMEOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, (
        f"{block.page}:{block.line}\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )


def test_no_block_is_overlooked() -> None:
    fences = [line.strip() for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    assert len(BLOCKS) == sum(fence.startswith(("```bash", "```sh", "```python")) for fence in fences)
    assert len(BLOCKS) >= FEWEST_BLOCKS
    told = [fence for fence in fences if fence.startswith("<!-- test")]
    assert len(told) > 10 and all(re.match(r"<!-- test: (slow|reduced|elsewhere)\b.*-->$", fence) for fence in told)


def test_how_a_page_is_read() -> None:
    page = (
        "# T\n```python\nx = 1\n```\n<!-- test: slow -->\n```bash\nmake\n```\n```text\nno\n```\n"
        "<!-- test: reduced a=1 b=2 -->\n```sh\n# why\nrun one  # note\n\nrun \\\n  two\n```\n"
        "<!-- test: slow reduced a=1 -->\n```sh\nrun\n```\n<!-- test: elsewhere a GPU -->\n```sh\nrun\n```\n"
    )
    python, bash, sh, both, elsewhere = blocks_of(page)
    assert (python.language, python.text, python.line, python.slow) == ("python", "x = 1\n", 2, False)
    assert (bash.text, bash.line, bash.slow) == ("make\n", 6, True)
    assert sh.text == "# why\nrun one a=1 b=2\n\nrun \\\n  two a=1 b=2\n" and not sh.slow
    assert (both.text, both.slow, both.elsewhere) == ("run a=1\n", True, False)
    assert (elsewhere.text, elsewhere.elsewhere) == ("run\n", True)
