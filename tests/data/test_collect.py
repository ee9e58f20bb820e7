"""Collection: what the expert did is what the shards hold; finished shards are kept, foreign folders refused."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data.shard_job as job_module
from data import provenance
from data.collect import CollectionError, collect
from data.collection import shard_name
from data.dataset import WindowDataset
from data.disturbed import FIRST_SEED, episode_seed
from data.index import Index, build_index
from data.shard import Shard, write_shard
from elmur.files import leftovers
from elmur.spec import Discrete, TaskSpec, Vector
from envs.experts.tmaze import TMazeExpert
from envs.tmaze import make_vector
from envs.vector import SUCCESS, TimeStep

SPEC = TaskSpec("count", {"state": Vector(2)}, Discrete((3,)), 20)


class Count:
    """N episodes that last `seed % 7 + 1` steps (at most `longest`); the state is (seed % 1000, steps so far)."""

    metrics = (SUCCESS,)

    def __init__(self, num_envs: int, longest: int = 7) -> None:
        self.num_envs, self.spec, self.longest = num_envs, SPEC, longest
        self.seed, self.steps = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)

    def _seen(self) -> dict[str, np.ndarray]:
        return {"state": np.stack([self.seed % 1000, self.steps], axis=1).astype(np.float32)}

    def reset(self, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
        for i, seed in enumerate(seeds):
            if seed is not None:
                self.seed[i], self.steps[i] = seed, 0
        return self._seen()

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        self.steps += active
        ended = (self.steps == np.minimum(self.seed % 7 + 1, self.longest)) & active
        reward = (action * active).astype(np.float32)
        every = np.ones(self.num_envs, np.bool_)
        return TimeStep(self._seen(), reward, ended, np.zeros(self.num_envs, np.bool_), every, {SUCCESS: ended})

    def close(self) -> None:
        pass


class Parity:
    """Chooses the parity of the steps so far."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        pass

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        return observation["state"][:, 1].astype(np.int64) % 2

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        pass


def gather(root: Path, **changes: Any) -> list[Path]:
    options: dict[str, Any] = {"num_episodes": 25, "seed": 3, "num_envs": 4, "shard_episodes": 10, "progress": False}
    return list(collect(functools.partial(Count, longest=7), Parity(), root, **{**options, **changes}).paths)


def served(root: Path, num_episodes: int) -> Index:
    """What so many episodes are, of vectors that are normalised."""
    options: dict[str, Any] = {"seed": 3, "num_envs": 4, "shard_episodes": 10, "progress": False, "normalise": True}
    found = collect(functools.partial(Count, longest=7), Parity(), root, num_episodes, **options)
    return build_index(root, served=found)


def contents(paths: Sequence[Path]) -> list[Any]:
    found = []
    for path in paths:
        with Shard(path) as shard:
            rows = int(shard.offsets[-1])
            found.append([shard.offsets.tolist()] + [shard.read(k, 0, rows).tolist() for k in shard.columns])
    return found


def test_shards_hold_what_the_expert_did(tmp_path: Path) -> None:
    paths = gather(tmp_path)
    assert [path.name for path in paths] == [shard_name(i) for i in range(3)]
    index = build_index(tmp_path)
    seeds = [episode_seed(3, i) for i in range(25)]
    assert index.spec == SPEC
    assert index.lengths.tolist() == [seed % 7 + 1 for seed in seeds]
    number = 0
    for path in paths:
        with Shard(path) as shard:
            for begin, end in zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True):
                steps = np.arange(end - begin)
                expected = np.stack([np.full(len(steps), seeds[number] % 1000), steps], axis=1)
                np.testing.assert_array_equal(shard.read("observation/state", begin, end), expected)
                assert shard.read("action", begin, end).tolist() == (steps % 2).tolist()
                assert shard.read("reward", begin, end).tolist() == (steps % 2).tolist()
                number += 1
            assert shard.read("terminated", 0, len(shard.offsets) - 1).all()
    assert number == 25
    found = Shard(paths[1]).attribute("provenance")
    assert found["episodes"] == [10, 20]
    assert found["seed_range"] == [min(seeds[10:20]), max(seeds[10:20])]
    assert found["expert"].endswith("Parity") and found["success"] == 1.0


def test_missing_shards_are_made_and_finished_ones_kept(tmp_path: Path) -> None:
    whole = contents(gather(tmp_path / "whole"))
    paths = gather(tmp_path / "broken")
    paths[1].unlink()
    (tmp_path / "broken" / ".shard-00001.h5.1-ab.partial").write_bytes(b"half")
    kept = [os.stat(paths[0]).st_mtime_ns, os.stat(paths[2]).st_mtime_ns]
    assert contents(gather(tmp_path / "broken")) == whole
    assert [os.stat(paths[0]).st_mtime_ns, os.stat(paths[2]).st_mtime_ns] == kept
    assert leftovers(tmp_path / "broken") == []


def test_interrupted_collection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = contents(gather(tmp_path / "whole", noise=0.3))
    original, calls = write_shard, list[Any]()

    def interrupted(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments, **options)

    monkeypatch.setattr(job_module, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "stopped", noise=0.3)
    assert len(list((tmp_path / "stopped").glob("*.h5"))) == 1
    assert contents(gather(tmp_path / "stopped", noise=0.3)) == whole
    assert len(calls) == 2 + 2


def test_noise_changes_actions_by_the_seed_alone(tmp_path: Path) -> None:
    plain, noisy, again = (
        contents(gather(tmp_path / name, noise=noise)) for name, noise in (("a", 0.0), ("b", 0.5), ("c", 0.5))
    )
    assert noisy == again != plain
    assert [shard[0] for shard in noisy] == [shard[0] for shard in plain]


def test_a_mixture_plays_whole_episodes_at_random(tmp_path: Path) -> None:
    """Count's expert alternates 0 and 1: an episode that does not is random play, and so says the provenance."""
    plain, mixed = (contents(gather(tmp_path / str(share), mixture=share, num_episodes=60)) for share in (0.0, 0.5))
    assert [shard[0] for shard in mixed] == [shard[0] for shard in plain], "the same episodes of the env"
    said, seen = [], []
    for path in sorted((tmp_path / "0.5").glob("*.h5")):
        with Shard(path) as shard:
            said += shard.attribute("provenance")["random_play"]
            for begin, end in zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True):
                own = shard.read("action", begin, end).tolist() == [i % 2 for i in range(end - begin)]
                seen += [not own]
                assert shard.read("loss_mask", begin, end).all()
    assert {i for i, at_random in enumerate(seen) if at_random} <= set(said), "a short one may alternate by chance"
    assert 18 <= len(said) <= 42 and len(said) - sum(seen) <= 12
    with pytest.raises(CollectionError, match=r"mixture was None, now 0\.5"):
        gather(tmp_path / "0.0", mixture=0.5, num_episodes=60)
    every = contents(gather(tmp_path / "all", mixture=1.0))
    assert sum(len(shard[0]) - 1 for shard in every) == 25


def test_experts_are_checked_before_anything_is_published(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def check(returns: list[float]) -> None:
        seen.append(returns)
        if len(seen) == 2:
            raise RuntimeError("not up to it")

    with pytest.raises(RuntimeError, match="not up to it"):
        gather(tmp_path / "a", check=check)
    assert [path.name for path in (tmp_path / "a").glob("*.h5")] == [shard_name(0)]
    lengths = [episode_seed(3, i) % 7 + 1 for i in range(10)]
    assert seen[0] == [length // 2 for length in lengths], "the sum of 0, 1, 0, 1, ..."


@pytest.mark.parametrize("disturbed", ["noise", "mixture"])
def test_an_expert_whose_episodes_are_disturbed_is_checked_on_some_that_are_not(tmp_path: Path, disturbed: str) -> None:
    seen: list[list[float]] = []
    gather(tmp_path / "a", check=lambda returns: seen.append(returns), **{disturbed: 1.0})
    lengths = [episode_seed(3, i) % 7 + 1 for i in range(10)]
    assert seen == [[length // 2 for length in lengths[: len(seen[0])]]], "once, before the first shard"

    def check(returns: list[float]) -> None:
        raise RuntimeError("not up to it")

    with pytest.raises(RuntimeError, match="not up to it"):
        gather(tmp_path / "b", check=check, **{disturbed: 1.0})
    assert not list((tmp_path / "b").glob("*.h5"))


def test_random_play_is_not_measured_against_an_expert_that_there_is_not(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    collect(Count, None, tmp_path, 3, 0, mixture=1.0, check=lambda **of: seen.append(of), progress=False)
    assert seen == [{"returns": []}], "the env is still checked, by who looks at no returns"


def test_shards_of_another_version_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    note = {"numpy": "it counts anew", "no-such-package": ""}
    gather(tmp_path, depends_on=note)
    assert not caplog.records
    monkeypatch.setattr(provenance, "_version", lambda package: "99.0")
    gather(tmp_path, depends_on=note)
    (record,) = caplog.records
    assert f"{tmp_path} was made with numpy {np.__version__}, 99.0 is installed (it counts anew)" in record.message
    assert record.levelname == "WARNING" and "delete that folder and repeat the command" in record.message


def test_another_collection_is_refused(tmp_path: Path) -> None:
    gather(tmp_path)
    says = (
        r"was collected in another way \(noise was 0.0, now 0.5; num_episodes was 25, now 30\); choose another folder"
    )
    with pytest.raises(CollectionError, match=says):
        gather(tmp_path, num_episodes=30, noise=0.5)
    with pytest.raises(CollectionError, match=r"env was .*'longest': 7.* now .*'longest': 3"):
        collect(functools.partial(Count, longest=3), Parity(), tmp_path, 25, 3, shard_episodes=10)
    with pytest.raises(CollectionError, match="corridor was None, now 30"):
        gather(tmp_path, parameters={"corridor": 30})
    gather(tmp_path, num_envs=7)  # how fast it is collected does not tell one collection from another


def test_what_an_expert_did_before_it_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(tmp_path)
    monkeypatch.setattr(Parity, "revision", 2, raising=False)
    with pytest.raises(
        CollectionError, match=r"expert was '.*\.Parity', now '.*\.Parity \(revision 2\)'.* collect anew"
    ):
        gather(tmp_path)


def test_a_collection_grows(tmp_path: Path) -> None:
    """Full shards stay as they are, and all together is what would have been collected at once."""
    before = {path.name: path.stat().st_mtime_ns for path in gather(tmp_path / "a", num_episodes=13)}
    grown = gather(tmp_path / "a", num_episodes=30)
    assert grown[0].stat().st_mtime_ns == before[grown[0].name], "its ten episodes are complete"
    assert contents(grown) == contents(gather(tmp_path / "b", num_episodes=30))
    assert gather(tmp_path / "a", num_episodes=20) == grown[:2], "the first shards are those of a smaller one"
    with pytest.raises(CollectionError, match=r"noise was 0.0, now 0.5; num_episodes was 30, now 40"):
        gather(tmp_path / "a", num_episodes=40, noise=0.5)


def test_how_files_are_cut_makes_no_other_collection(tmp_path: Path) -> None:
    """A folder keeps the size of its files: it serves, grows and is completed as if that had been asked for."""
    there = gather(tmp_path / "a", num_episodes=13)
    assert gather(tmp_path / "a", num_episodes=13, shard_episodes=50) == there
    there[0].unlink()
    grown = gather(tmp_path / "a", num_episodes=30, shard_episodes=50)
    assert contents(grown) == contents(gather(tmp_path / "b", num_episodes=30))


def test_a_collection_serves_any_smaller_number_of_episodes(tmp_path: Path) -> None:
    """The first 13 of 30 are the 13 of a folder of their own: the same steps, statistics and digest."""
    large, small = functools.partial(served, tmp_path / "large"), functools.partial(served, tmp_path / "small")
    large(30)
    of_more, of_its_own = large(13), small(13)
    assert len(of_more) == 13 and of_more.digest == of_its_own.digest
    assert of_more.lengths.tolist() == of_its_own.lengths.tolist()
    assert of_more.spec == of_its_own.spec != large(30).spec, "its mean and deviation are of 13 episodes"
    steps = [WindowDataset(index, 7)[np.array([[12, 0]])].observation["state"] for index in (of_more, of_its_own)]
    assert torch.equal(*steps)


def test_an_interrupted_growth_ends_complete(tmp_path: Path) -> None:
    """A last shard that was not full is gone before more is promised; what is missing is made for whoever asks."""
    first = gather(tmp_path, num_episodes=13)
    gather(tmp_path, num_episodes=30)
    first[1].unlink()  # as where the process had been killed before it was made anew
    gather(tmp_path, num_episodes=13)
    assert len(build_index(tmp_path)) == 30, "not 13 in a folder of 30"


def test_a_record_that_does_not_say_how_many_serves_nobody(tmp_path: Path) -> None:
    gather(tmp_path / "c")
    for damage in ("", '"num_episodes": "20", '):
        (tmp_path / "c" / "collection.json").write_text(f'{{"parameters": {{{damage}"noise": 0.0}}, "num_shards": 3}}')
        with pytest.raises(CollectionError, match=r"num_episodes was (None|'20'), now 30"):
            gather(tmp_path / "c", num_episodes=30)


def test_shards_from_elsewhere_are_left_alone(tmp_path: Path) -> None:
    paths = gather(tmp_path)
    (tmp_path / "collection.json").unlink()
    paths[0].unlink()
    assert gather(tmp_path, num_episodes=7) == paths[1:]


def test_processes_make_the_same_shards(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"num_envs": 5, "shard_episodes": 3, "noise": 0.2, "progress": False}
    make = functools.partial(make_vector, time_limit=9)
    one, two = (collect(make, TMazeExpert(), tmp_path / str(n), 6, 1, processes=n, **arguments).paths for n in (1, 2))
    assert len(one) == 2
    assert contents(one) == contents(two)


def test_seeds_are_kept_apart_and_alternate() -> None:
    seeds = [episode_seed(s, i) for s in range(3) for i in range(3000)]
    assert min(seeds) >= FIRST_SEED == 1_000_000
    assert max(seeds) < 2**31
    assert len(set(seeds)) >= len(seeds) - 2
    assert [seed % 2 for seed in seeds[:6]] == [0, 1, 0, 1, 0, 1]


def test_progress_counts_every_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    original: Any = job_module.shown  # type: ignore[attr-defined]

    class Bar:
        def __init__(self, title: str, total: int, unit: str, wanted: bool) -> None:
            self.inside = original(title, total, unit, wanted)
            assert total == 25

        def __enter__(self) -> Any:
            bar = self.inside.__enter__()
            monkeypatch.setattr(bar, "advance", told.append)
            return bar

        def __exit__(self, *error: Any) -> Any:
            return self.inside.__exit__(*error)

    monkeypatch.setattr(job_module, "shown", Bar)
    gather(tmp_path)
    assert sum(told) == 25 and min(told) >= 1


@pytest.mark.parametrize(
    "changes", [{"num_episodes": 0}, {"num_envs": 0}, {"processes": 0}, {"noise": 2.0}, {"mixture": 1.5}, {"seed": -1}]
)
def test_refusals(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        gather(tmp_path, **changes)
    assert os.listdir(tmp_path) == []
