"""The table of what POPGym's experts reach: `python -m envs.experts.popgym --episodes 200 [--match REGEX]`."""

from __future__ import annotations

import argparse
import re
import time

import numpy as np
from rich.console import Console

from envs.experts.popgym import expert_for
from envs.experts.popgym.levels import LEVELS
from envs.popgym import TASKS, make_vector
from envs.rollout import rollout


def main() -> None:
    """One line per task: mean return, its standard error, the known level, mean length, CPU time for 3000 episodes."""
    parser = argparse.ArgumentParser(prog="python -m envs.experts.popgym", description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--num-envs", type=int, default=50)
    parser.add_argument("--match", default="", help="only tasks whose name contains this regular expression")
    options = parser.parse_args()
    console = Console(highlight=False, width=100)
    console.print(f"{'task':<42}{'mean':>8}{'s.e.':>8}{'level':>8}{'random':>8}{'steps':>8}{'s / 3000':>10}")
    means = []
    for task in (name for name in TASKS if re.search(options.match, name)):
        seeds = range(options.first_seed, options.first_seed + options.episodes)
        env = make_vector(min(options.num_envs, options.episodes), task)
        begin = time.process_time()
        episodes = rollout(env, expert_for(task), list(seeds))
        seconds = (time.process_time() - begin) * 3000 / options.episodes
        env.close()
        returns = np.array([episode.episode_return for episode in episodes])
        error = returns.std() / np.sqrt(len(returns))
        steps = np.mean([episode.length for episode in episodes])
        means.append(returns.mean())
        known = f"{LEVELS[task].expert:>8.3f}{LEVELS[task].random:>8.3f}"
        console.print(f"{task:<42}{returns.mean():>8.4f}{error:>8.4f}{known}{steps:>8.1f}{seconds:>10.0f}")
    console.print(f"{f'sum over {len(means)}':<42}{sum(means):>8.2f}")


if __name__ == "__main__":
    main()
