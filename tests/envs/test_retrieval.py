"""Associative retrieval: what is shown, asked and paid, read off the episode itself."""

from __future__ import annotations

import numpy as np
import pytest

from envs.experts.retrieval import RetrievalExpert
from envs.observers import Recorder
from envs.retrieval import make_vector, variants
from envs.rollout import RandomPolicy, rollout


def test_an_episode_shows_n_pairs_and_asks_for_one_of_them() -> None:
    for number in (1, 3, 32):
        env = make_vector(4, number)
        for episode in rollout(env, RetrievalExpert(), range(8), observers=[Recorder()]):
            assert episode.steps is not None and episode.length == 5 * number + 4
            shown, action = episode.steps.observation["shown"], episode.steps.action
            pairs = {tuple(row) for row in shown[: 5 * number : 5, :2].tolist()}
            assert len({key for key, _ in pairs}) == number and min(key for key, _ in pairs) >= 1
            between = np.delete(shown, np.arange(0, 5 * number, 5), axis=0)
            assert not between[:-1].any()  # nothing but pairs, until the question
            asked, _, question = shown[-1].tolist()
            assert question == 1 and not shown[:-1, 2].any()
            assert (asked, action[-1] + 1) in pairs  # the expert answers with the value that was shown with the key
            assert episode.episode_return == 1.0 and episode.success
            assert episode.steps.loss_mask.tolist() == [False] * (episode.length - 1) + [True]
            assert episode.steps.terminated and not episode.steps.truncated


def test_guessing_is_right_one_time_in_eight() -> None:
    env = make_vector(100, 8)
    found = np.mean([episode.success for episode in rollout(env, RandomPolicy(env.spec), range(1000))])
    assert abs(found - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 1000)


def test_every_pair_is_asked_for_and_numbers_of_pairs_vary() -> None:
    env = make_vector(50, 4, least=2)
    lengths, places = set(), set()
    for episode in rollout(env, RetrievalExpert(), range(200), observers=[Recorder()]):
        assert episode.steps is not None
        shown = episode.steps.observation["shown"]
        lengths.add(episode.length)
        places.add(np.flatnonzero(shown[:-1, 0] == shown[-1, 0]).item() // 5)
    assert lengths == {14, 19, 24} and places == {0, 1, 2, 3}


@pytest.mark.parametrize("arguments", [{"pairs": 0}, {"pairs": 33}, {"pairs": 3, "least": 4}])
def test_a_number_of_pairs_that_cannot_be_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"pairs: expected 1 <= least <= pairs <= keys=32; found"):
        make_vector(1, **arguments)
    assert variants([2]) == {"n=2": {"pairs": 2}}
