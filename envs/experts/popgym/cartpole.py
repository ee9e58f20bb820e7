"""Experts at the three CartPoles: the state is reconstructed, exactly or by a Kalman filter, and pushed back to 0."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from scipy.special import log_ndtr

from envs.experts.history import HistoryPolicy
from envs.vector import Observation

# Gymnasium's CartPole: step [s], gravity, masses of cart and pole, half the pole's length, push.
STEP, GRAVITY, CART, POLE, HALF_LENGTH, PUSH = 0.02, 9.8, 1.0, 0.1, 0.5, 10.0
# Weights of (position, its velocity, angle, its velocity) in the side to push to; those of the noisier levels were
# searched for on simulated episodes. The less one sees, the less the position matters.
GAINS = (0.05, 0.12, 1.0, 0.25)
NOISY_GAINS = {"Easy": GAINS, "Medium": (0.016, 0.025, 1.0, 0.22), "Hard": (0.020, 0.013, 1.0, 0.21)}
NOISE = {"Easy": 0.1, "Medium": 0.2, "Hard": 0.3}
# The filter's state is kept within these. No episode comes near; but the readings of an idle row do not fit the motion,
# and would drive the estimate to infinity.
SANE = np.array([10.0, 10.0, 1.0, 10.0])
READING_LIMITS = {0: 4.8, 2: 24.0 * np.pi / 180.0}  # readings of position and angle are clipped here


def accelerations(angle: np.ndarray, angular: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accelerations of the cart and of the angle [N] under a push to the right (true) or left."""
    sine, cosine = np.sin(angle), np.cos(angle)
    mass = CART + POLE
    lift = (np.where(right, PUSH, -PUSH) + POLE * HALF_LENGTH * angular**2 * sine) / mass
    turn = (GRAVITY * sine - cosine * lift) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cosine**2 / mass))
    return lift - POLE * HALF_LENGTH * turn * cosine / mass, turn


class _CartPole(HistoryPolicy):
    """Pushes to the side to which a weighted sum of the estimated state points.

    `_state` [N, 4]: position, its velocity, angle, its velocity.
    """

    _gains: tuple[float, ...] = GAINS

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._state = np.zeros((num_envs, 4))

    @abstractmethod
    def estimate(self, shown: np.ndarray, pushed_right: np.ndarray, is_first: np.ndarray) -> None:
        """Brings `_state` up to date; `shown` [N, 2] is the observation after the push."""

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """0 (left) or 1 (right)."""
        shown = observation["observation"].astype(np.float64)
        self.estimate(shown, observation["previous_action"][:, 0] == 2, is_first)
        return (self._state @ self._gains > 0.0).astype(np.int64)


class PositionOnly(_CartPole):
    """Velocities of the step before are differences of what is shown; known forces bring them to the present. Exact."""

    def estimate(self, shown: np.ndarray, pushed_right: np.ndarray, is_first: np.ndarray) -> None:
        """Exact, but for the first step, where the velocities are taken as 0."""
        angle = self._state[:, 2]
        velocity, angular = ((shown - self._state[:, ::2]) / STEP).T
        cart, turn = accelerations(angle, angular, pushed_right)
        moved = np.stack([velocity + STEP * cart, angular + STEP * turn], axis=1)
        self._state[:, 1::2] = np.where(is_first[:, None], 0.0, moved)
        self._state[:, ::2] = shown


class VelocityOnly(_CartPole):
    """The first observation shows positions (a quirk of POPGym), so adding up the velocities gives them for ever."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        super().start(num_envs)
        self._second = np.zeros(num_envs, np.bool_)

    def estimate(self, shown: np.ndarray, pushed_right: np.ndarray, is_first: np.ndarray) -> None:
        """Exact, but for the first step, where the velocities are taken as 0."""
        before = self._state[:, 1::2]
        # The velocities of the first step follow from those after it: solve `after = before + STEP * acceleration`.
        initial = shown
        for _ in range(3):
            forces = accelerations(self._state[:, 2], initial[:, 1], pushed_right)
            initial = shown - STEP * np.stack(forces, axis=1)
        before = np.where(self._second[:, None], initial, before)
        positions = self._state[:, ::2] + STEP * before
        self._state[:, ::2] = np.where(is_first[:, None], shown, positions)
        self._state[:, 1::2] = np.where(is_first[:, None], 0.0, shown)
        self._second = is_first.copy()


class NoisyPositionOnly(_CartPole):
    """An extended Kalman filter for noisy readings that are clipped: a reading at a limit says only "at least that"."""

    def __init__(self, level: str) -> None:
        self._gains = NOISY_GAINS[level]
        self._noise = NOISE[level] ** 2
        super().__init__(level)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        super().start(num_envs)
        self._covariance = np.zeros((num_envs, 4, 4))

    def estimate(self, shown: np.ndarray, pushed_right: np.ndarray, is_first: np.ndarray) -> None:
        """Predicts by the push, then corrects by the two readings."""
        self._predict(pushed_right)
        self._state[is_first] = 0.0
        self._covariance[is_first] = np.eye(4) * 0.1**2 / 12.0  # each number starts uniform within 0.05 of 0
        for reading, (component, limit) in enumerate(READING_LIMITS.items()):
            self._correct(component, shown[:, reading], limit)

    def _predict(self, right: np.ndarray) -> None:
        _, velocity, angle, angular = self._state.T
        cart, turn = accelerations(angle, angular, right)
        tiny = 1e-5
        by_angle = accelerations(angle + tiny, angular, right)
        by_angular = accelerations(angle, angular + tiny, right)
        slope = np.broadcast_to(np.eye(4), self._covariance.shape).copy()
        slope[:, 0, 1] = slope[:, 2, 3] = STEP
        for row, now in ((1, cart), (3, turn)):
            slope[:, row, 2] += STEP * (by_angle[row // 2] - now) / tiny
            slope[:, row, 3] += STEP * (by_angular[row // 2] - now) / tiny
        moved = self._state + STEP * np.stack([velocity, cart, angular, turn], axis=1)
        self._state = np.clip(moved, -SANE, SANE)
        self._covariance = slope @ self._covariance @ slope.transpose(0, 2, 1) + 1e-8 * np.eye(4)

    def _correct(self, component: int, reading: np.ndarray, limit: float) -> None:
        spread = self._covariance[:, component, component] + self._noise
        gain = self._covariance[:, :, component] / spread[:, None]
        guess = self._state[:, component]
        clipped = np.abs(reading) >= limit - 1e-6
        value, variance = reading.copy(), np.zeros_like(reading)
        if clipped.any():
            mean, kept = _beyond(guess[clipped] * np.sign(reading[clipped]), spread[clipped], limit)
            value[clipped], variance[clipped] = mean * np.sign(reading[clipped]), kept
        self._state += gain * (value - guess)[:, None]
        self._covariance -= gain[:, :, None] * gain[:, None, :] * (spread - variance)[:, None, None]


def _beyond(mean: np.ndarray, variance: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a normal variable that is known to exceed the limit."""
    deviation = np.sqrt(variance)
    start = (limit - mean) / deviation
    hazard = np.exp(-0.5 * start**2 - 0.5 * np.log(2.0 * np.pi) - log_ndtr(-start))
    return mean + deviation * hazard, variance * (1.0 - hazard * (hazard - start))
