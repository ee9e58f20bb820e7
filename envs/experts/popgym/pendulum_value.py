"""What a pendulum in a known state will cost under best control, by dynamic programming."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

# Gymnasium's Pendulum (length and mass 1): step [s], gravity, fastest angular velocity, strongest torque.
STEP, GRAVITY, FASTEST, STRONGEST = 0.05, 10.0, 8.0, 2.0
NUM_ANGLES, NUM_VELOCITIES, NUM_TORQUES = 161, 129, 9
SWEEPS = 250  # a horizon after which the best action changes no more


def wrap(angle: np.ndarray) -> np.ndarray:
    """The same angle from -pi up to pi; 0 is upright."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


def advance(angle: np.ndarray, velocity: np.ndarray, torque: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """(angle, velocity) one step later, exactly as the environment computes them; arrays that broadcast."""
    velocity = velocity + (1.5 * GRAVITY * np.sin(angle) + 3.0 * torque) * STEP
    velocity = np.clip(velocity, -FASTEST, FASTEST)
    return angle + velocity * STEP, velocity


def cost(angle: np.ndarray, velocity: np.ndarray, torque: np.ndarray | float) -> np.ndarray:
    """Cost of one step (the reward is a decreasing linear function of it)."""
    return wrap(angle) ** 2 + 0.1 * velocity**2 + 0.001 * np.square(torque)


def corners(angle: np.ndarray, velocity: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The four grid points around each state, as indices of the flat table, and their weights in a bilinear mean."""
    row = (wrap(angle) + np.pi) * (NUM_ANGLES / (2.0 * np.pi))
    column = (velocity + FASTEST) * ((NUM_VELOCITIES - 1) / (2.0 * FASTEST))
    i, j = row.astype(np.int64), np.minimum(column.astype(np.int64), NUM_VELOCITIES - 2)
    down, right = row - i, column - j
    here = i % NUM_ANGLES * NUM_VELOCITIES + j
    below = (i + 1) % NUM_ANGLES * NUM_VELOCITIES + j
    weights = [(1.0 - down) * (1.0 - right), (1.0 - down) * right, down * (1.0 - right), down * right]
    return [here, here + 1, below, below + 1], weights


@lru_cache(maxsize=1)
def value_table() -> np.ndarray:
    """Least cost of the next SWEEPS steps from each grid point [NUM_ANGLES * NUM_VELOCITIES]; takes 0.3 s, once."""
    angle = -np.pi + np.arange(NUM_ANGLES) * (2.0 * np.pi / NUM_ANGLES)
    velocity = np.linspace(-FASTEST, FASTEST, NUM_VELOCITIES)
    torque = np.linspace(-STRONGEST, STRONGEST, NUM_TORQUES)
    state = np.meshgrid(angle, velocity, torque, indexing="ij")
    points, weights = corners(*advance(*state))
    rows = np.repeat(np.arange(state[0].size), 4)
    entries = (np.stack(weights, axis=-1).ravel(), (rows, np.stack(points, axis=-1).ravel()))
    mean_of_next = csr_array(entries, shape=(state[0].size, NUM_ANGLES * NUM_VELOCITIES))
    now = cost(*state).ravel()
    value = np.zeros(NUM_ANGLES * NUM_VELOCITIES)
    for _ in range(SWEEPS):
        value = (now + mean_of_next @ value).reshape(-1, NUM_TORQUES).min(axis=1)
    value.flags.writeable = False
    return value


def best_torque(angle: np.ndarray, velocity: np.ndarray, torques: np.ndarray) -> np.ndarray:
    """The torque [N] with the least expected cost, over H equally likely states: angle and velocity [N, H]."""
    angle, velocity = angle[..., None], velocity[..., None]
    table = value_table()
    points, weights = corners(*advance(angle, velocity, torques))
    later = sum(table[point] * weight for point, weight in zip(points, weights, strict=True))
    # The angle's and velocity's own cost is the same for every torque.
    return torques[(later.mean(axis=1) + 0.001 * torques**2).argmin(axis=-1)]
