"""A package outside this repository: its world, its expert and its settings, through the real command line."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import CommandLine

FILES = {
    "ownworld/__init__.py": "",
    "ownworld/bell.py": '''
        """A bell rings at the first step or does not; after three more steps: did it?"""

        import gymnasium
        import numpy as np


        class Bell(gymnasium.Env):
            observation_space = gymnasium.spaces.Discrete(3)
            action_space = gymnasium.spaces.Discrete(2)

            def __init__(self, wait=3):
                self.wait = wait

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.rang, self.left = int(self.np_random.integers(2)), self.wait
                return self.rang, {}

            def step(self, action):
                self.left -= 1
                over = self.left < 0
                right = over and action == self.rang
                return 2, float(right), over, False, {"success": right}


        class Expert:
            def start(self, num_envs, seed=0):
                self.rang = np.zeros(num_envs, np.int64)

            def act(self, observation, is_first):
                self.rang = np.where(is_first, observation["observation"][:, 0], self.rang)
                return self.rang

            def observe(self, action, reward):
                pass


        gymnasium.register("Bell-v0", entry_point=Bell, max_episode_steps=20)
        ''',
    "ownworld/conf/env/bell.yaml": """
        # @package _global_
        defaults: [gym]
        env:
          name: bell
          id: ownworld.bell:Bell-v0
          metric: success
          dataset: bell
          expert: {_target_: ownworld.bell.Expert}
          variants: {long: {arguments: {wait: 12}}}
        """,
    "ownworld/vector.py": """
        import gymnasium
        import numpy as np
        from gymnasium import spaces

        from elmur.spec import Discrete, TaskSpec
        from envs.vector import SyncVector


        class Echo(gymnasium.Env):
            observation_space = spaces.Dict({"heard": spaces.MultiDiscrete([2])})
            action_space = spaces.Discrete(2)
            task_spec = TaskSpec("echo", {"heard": Discrete((2,))}, Discrete((2,)), horizon=1)

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.heard = int(self.np_random.integers(2))
                return {"heard": np.array([self.heard])}, {}

            def step(self, action):
                return {"heard": np.array([0])}, float(action == self.heard), True, False, {"success": True}


        class Expert:
            def start(self, num_envs, seed=0):
                pass

            def act(self, observation, is_first):
                return observation["heard"][:, 0]

            def observe(self, action, reward):
                pass


        def make(num_envs):
            return SyncVector([Echo] * num_envs)
        """,
    "ownworld/conf/env/least.yaml": """
        # @package _global_
        env:
          name: least
          id: echo
          make: {_target_: ownworld.vector.make, _partial_: true}
          expert: {_target_: ownworld.vector.Expert}
        """,
    "ownworld/conf/task/bell_longer.yaml": """
        # @package _global_
        defaults: [override /env: bell]
        env: {id: "ownworld.bell:Bell-v0", variants: {longer: {arguments: {wait: 15}}}}
        """,
    "ownworld-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: ownworld\nVersion: 1.0\n",
    "ownworld-1.0.dist-info/entry_points.txt": "[elmur.plugins]\nownworld = ownworld\n",
}
QUICK = (
    "collect.num_episodes=64", "evaluation.num_episodes=20", "data.lanes=16", "model.d_model=16",
    "trainer.max_steps=60", "trainer.accelerator=cpu", "callbacks.selection.every_n_updates=60",
    "callbacks.selection.num_episodes=10", "module.context_length=6", "module.optimizer.lr=0.01",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip install --target leaves one."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    return folder


@pytest.fixture(scope="module")
def own(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line where that package is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        yield CommandLine(tmp_path_factory.mktemp("own"))


@pytest.mark.slow
def test_a_family_outside_trains_and_is_evaluated(own: CommandLine) -> None:
    run = own.folder / "bell"
    done = own.run("env=bell", "plugins=[ownworld]", *QUICK, "model=gru", to=run)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    row = json.loads((run / "result.json").read_text())
    assert list(row["outcomes"]) == ["all", "long"] and row["task"] == "ownworld.bell:Bell-v0"
    # It remembers the one bit of each episode; who guesses is right half the time.
    assert sum(row["outcomes"]["all"]["successes"]) >= 19

    again = ("stage=evaluate", f"checkpoint={run}/checkpoints/best.ckpt", "evaluation.num_episodes=7")
    done = own.run(*again, "task=bell_longer", to=own.folder / "again", ELMUR_PLUGINS="ownworld")
    assert (done.code, done.stderr) == (0, ""), done.stderr
    row = json.loads((own.folder / "again" / "result.json").read_text())
    assert "longer" in row["outcomes"] and len(row["outcomes"]["longer"]["successes"]) == 7


def test_a_family_says_how_it_is_made_and_nothing_more(own: CommandLine) -> None:
    """The rest has values: it is chosen and reported by the return, as it is made, on data in a folder of its name."""
    done = own.run("env=least", "plugins=[ownworld]", "debug=quick", "model=gru", "model.d_model=16",
                   "module.context_length=1", to=own.folder / "least")  # fmt: skip
    assert (done.code, done.stderr) == (0, ""), done.stderr
    row = json.loads((own.folder / "least" / "result.json").read_text())
    assert (row["metric"], list(row["outcomes"]), row["selection_score"] is None) == ("return", ["all"], False)
    assert list((own.folder / "shards" / "echo").glob("*.h5"))


def test_what_no_person_allowed_is_refused_with_the_way(own: CommandLine, site: Path) -> None:
    said = own.run("env=bell").stderr
    assert "env=bell: there is no such option" in said and "plugins=[ownworld] allows" in said, said
    found = f"--config-dir={site}/ownworld/conf"  # settings alone bring no code
    said = own.run(found, "env=bell", "stage=collect").stderr
    assert "env.expert._target_: 'ownworld.bell.Expert' is refused" in said and "plugins=[ownworld]" in said, said
    said = own.run("env=gym", "env.id=ownworld.bell:Bell-v0", "stage=collect", "collect.mixture=1.0").stderr
    assert "importing ownworld.bell is refused" in said and "plugins=[ownworld]" in said, said
    done = own.run(found, "env=bell", "stage=collect", "plugins=[ownworld]", "collect.num_episodes=4",
                   f"shards={own.folder}/other")  # fmt: skip
    assert (done.code, done.stderr) == (0, ""), done.stderr


def test_any_environment_of_gymnasium_runs_by_its_id(own: CommandLine) -> None:
    done = own.run("env=gym", "env.id=Blackjack-v1", "collect.mixture=1.0", "debug=quick", "model.d_model=16",
                   to=own.folder / "blackjack")  # fmt: skip
    assert (done.code, done.stderr) == (0, ""), done.stderr
    row = json.loads((own.folder / "blackjack" / "result.json").read_text())
    assert (row["task"], row["metric"], list(row["outcomes"])) == ("Blackjack-v1", "return", ["all"])
    assert "successes" not in row["outcomes"]["all"]  # nothing says what a success would be


def test_a_package_that_is_not_here_is_named(own: CommandLine) -> None:
    said = own.run("plugins=[nopackage]", "debug=quick").stderr
    assert "plugins: there is no package 'nopackage' here" in said, said
