"""Experts at the Pendulums: the state is reconstructed, or guessed by a cloud of particles, and steered by value."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import log_ndtr

from envs.experts.history import HistoryPolicy
from envs.experts.popgym.pendulum_value import FASTEST, STEP, STRONGEST, advance, best_torque, wrap
from envs.vector import Observation

NOISE = {"Easy": 0.1, "Medium": 0.2, "Hard": 0.3}
FINE_TORQUES = np.linspace(-STRONGEST, STRONGEST, 81)
TORQUES = np.linspace(-STRONGEST, STRONGEST, 21)
FIRST_VELOCITIES = np.linspace(-0.95, 0.95, 20)  # an episode starts with a velocity uniform in -1 .. 1
# Particles at the first reading and later; how many of them choose the torque; how far resampled ones are scattered.
FIRST_PARTICLES, PARTICLES, VOTERS, SCATTER = 4000, 1000, 50, 0.15
SCATTER_TABLES = 61


class PositionOnlyPendulum(HistoryPolicy):
    """The velocity is exactly the angle's last change; the torque is the best by the value of where it leads."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._angle = np.zeros(num_envs)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The torque, float32 [N, 1]."""
        cosine, sine = observation["observation"].astype(np.float64).T
        angle = np.arctan2(sine, cosine)
        velocity = np.clip(wrap(angle - self._angle) / STEP, -FASTEST, FASTEST)
        self._angle = angle
        torque = best_torque(angle[:, None], velocity[:, None], FINE_TORQUES)
        if is_first.any():
            angles = np.repeat(angle[is_first, None], len(FIRST_VELOCITIES), axis=1)
            torque[is_first] = best_torque(angles, np.broadcast_to(FIRST_VELOCITIES, angles.shape), FINE_TORQUES)
        return torque[:, None].astype(np.float32)


class NoisyPendulum(HistoryPolicy):
    """A particle filter per row; the torque is the best for fifty of the particles together (QMDP).

    What a filter draws is read from tables that are the same for all episodes: the same history gives the same torque.
    Readings are clipped to -1 .. 1, so a reading at a limit says only "at least that".
    """

    def __init__(self, level: str) -> None:
        self._noise = NOISE[level]
        super().__init__(level)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._angle, self._velocity, self._log_weight = np.zeros((3, num_envs, PARTICLES))
        self._time = np.zeros(num_envs, np.int64)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The torque, float32 [N, 1]."""
        reading = observation["observation"].astype(np.float64)
        torque = observation["previous_action"].astype(np.float64)
        later = np.flatnonzero(~is_first)
        self._angle[later], self._velocity[later] = advance(self._angle[later], self._velocity[later], torque[later])
        self._log_weight[later] += self._likelihood(reading[later], self._angle[later])
        for row in np.flatnonzero(is_first).tolist():
            self._begin(row, reading[row])
        self._time = np.where(is_first, 0, self._time + 1)
        weight = np.exp(self._log_weight - self._log_weight.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        few = np.flatnonzero(np.square(weight).sum(axis=1) > 2.0 / PARTICLES)  # half of them have all the weight
        if few.size:
            self._resample(few, weight)
            weight[few] = 1.0 / PARTICLES
        voters = _drawn(weight, VOTERS)
        chosen = [np.take_along_axis(cloud, voters, axis=1) for cloud in (self._angle, self._velocity)]
        return best_torque(chosen[0], chosen[1], TORQUES)[:, None].astype(np.float32)

    def _begin(self, row: int, reading: np.ndarray) -> None:
        """Particles all over the states in which an episode may start, those kept that fit the first reading."""
        angle, velocity = _start_states()
        fit = self._likelihood(reading[None], angle[None])
        kept = _drawn(np.exp(fit - fit.max()), PARTICLES)[0]
        self._angle[row], self._velocity[row] = angle[kept], velocity[kept]
        self._log_weight[row] = 0.0

    def _likelihood(self, reading: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Log likelihood [R, P] of the readings [R, 2] of cosine and sine, up to a number per row."""
        total = np.zeros_like(angle)
        for shown, truth in zip(reading.T, (np.cos(angle), np.sin(angle)), strict=True):
            off = (shown[:, None] - truth) / self._noise
            fit = -0.5 * off**2
            clipped = np.abs(shown) >= 1.0 - 1e-6
            if clipped.any():
                fit[clipped] = np.maximum(log_ndtr(-off[clipped] * np.sign(shown[clipped, None])), -30.0)
            total += fit
        return total

    def _resample(self, rows: np.ndarray, weight: np.ndarray) -> None:
        """Replaces the particles of these rows by equally weighted ones; where they agree, they are scattered a little.

        Shrinking the cloud by as much as the scatter widens it keeps its mean and covariance (Liu and West, 2001).
        """
        kept = _drawn(weight[rows], PARTICLES)
        angle = np.take_along_axis(self._angle[rows], kept, axis=1)
        velocity = np.take_along_axis(self._velocity[rows], kept, axis=1)
        off = wrap(angle - angle[:, :1])
        middle, mean = off.mean(axis=1, keepdims=True), velocity.mean(axis=1, keepdims=True)
        off, speed = off - middle, velocity - mean
        # Cholesky factor of the 2 x 2 covariance
        size = np.sqrt(np.square(off).mean(axis=1, keepdims=True) + 1e-8)
        shared = (off * speed).mean(axis=1, keepdims=True) / size
        own = np.sqrt(np.maximum(np.square(speed).mean(axis=1, keepdims=True) - shared**2, 0.0) + 1e-8)
        drawn = _scatter()[self._time[rows] % SCATTER_TABLES]
        agree = np.hypot(np.sin(angle).std(axis=1), np.cos(angle).std(axis=1)) < 0.5
        amount = np.where(agree, SCATTER, 0.0)[:, None]
        shrunk = np.sqrt(1.0 - amount**2)
        angle = angle[:, :1] + middle + shrunk * off + amount * size * drawn[:, 0]
        velocity = mean + shrunk * speed + amount * (shared * drawn[:, 0] + own * drawn[:, 1])
        self._angle[rows], self._velocity[rows] = wrap(angle), np.clip(velocity, -FASTEST, FASTEST)
        self._log_weight[rows] = 0.0


def _drawn(weight: np.ndarray, number: int) -> np.ndarray:
    """Indices [R, number] drawn by the weights [R, P] at equal distances: each as often as its weight says, rounded."""
    total = weight.cumsum(axis=1)
    places = (np.arange(number) + 0.5) / number
    return np.stack([line.searchsorted(places * line[-1]) for line in total])


@lru_cache(maxsize=1)
def _start_states() -> tuple[np.ndarray, np.ndarray]:
    """Angles and velocities [FIRST_PARTICLES], spread over all the states in which an episode may start."""
    rng = np.random.default_rng(0)
    return rng.uniform(-np.pi, np.pi, FIRST_PARTICLES), rng.uniform(-1.0, 1.0, FIRST_PARTICLES)


@lru_cache(maxsize=1)
def _scatter() -> np.ndarray:
    """Standard normal numbers [SCATTER_TABLES, 2, PARTICLES]."""
    return np.random.default_rng(1).standard_normal((SCATTER_TABLES, 2, PARTICLES))
