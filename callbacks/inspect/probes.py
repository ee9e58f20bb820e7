"""What is stored where: linear probes of slots, and the three ways in which slots fail, as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import entropy

from callbacks.inspect.recording import Recording
from callbacks.report.statistics import Share

FOLDS = 5
RIDGE = 1e-2  # of the mean square of a feature, added to it
FEWEST = 20  # episodes that a probe needs
MOST_SEGMENTS = 40  # at which something is asked
MOST_VALUES = 64  # different numbers that count as classes; more are cut at their quartiles
TINY = 1e-30  # for what is 0, of which there is no logarithm
HARDLY = 0.1  # of the uniform share: a slot that is read less is hardly read


@dataclass(frozen=True, eq=False)
class Probe:
    """How well one field can be read from each slot by a linear map, on episodes that it was not fitted to.

    item: which number of the field. hits, chance: bool `[M, N]`, of every slot and episode whether the answer was
    right, and whether that to labels shuffled between episodes was. most: the share of the commonest class.
    """

    field: str
    item: int
    bank: str
    segment: int
    hits: np.ndarray
    chance: np.ndarray
    most: float

    @cached_property
    def slot(self) -> int:
        """The best one, the first of equal ones."""
        return int(self.hits.sum(1).argmax())

    @cached_property
    def luckiest(self) -> int:
        """The slot that is best with shuffled labels."""
        return int(self.chance.sum(1).argmax())

    @cached_property
    def accuracy(self) -> Share:
        """Of the best slot."""
        return Share.of(int(self.hits[self.slot].sum()), self.hits.shape[1])

    @cached_property
    def control(self) -> Share:
        """Of the slot that is best with shuffled labels."""
        return Share.of(int(self.chance[self.luckiest].sum()), self.chance.shape[1])


def labels(values: np.ndarray) -> np.ndarray:
    """Classes int64 `[N, n]` of a field's values `[N, n]`: themselves, or the quarter that a number lies in."""
    if np.issubdtype(values.dtype, np.integer) and len(np.unique(values)) <= MOST_VALUES:
        return values.astype(np.int64)
    cuts = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    return (values[None] > cuts).sum(0)


def right(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How many of N answers are right for each item `[n]`, see `answered`."""
    counts: np.ndarray = answered(features, classes).sum(0)
    return counts


def answered(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Which answers are right, bool `[N, n]`, from features `[N, D]`, for classes `[N, n]`.

    Ridge regression on indicators of the classes, the largest taken; every episode is answered by a map that was fitted
    to four fifths of the others. Folds go by the order of the episodes, which their seeds decide.
    """
    number, items = classes.shape
    kinds = np.unique(classes)
    targets = (classes[:, :, None] == kinds).astype(np.float64)
    targets = targets.reshape(number, -1)
    fold = np.arange(number) * FOLDS // number
    answers = np.empty_like(classes)
    for left_out in range(FOLDS):
        fitted, asked = fold != left_out, fold == left_out
        mean, spread = features[fitted].mean(0), features[fitted].std(0)
        x = (features - mean) / np.where(spread > 1e-12, spread, 1.0)
        y, centre = targets[fitted], targets[fitted].mean(0)
        square = x[fitted].T @ x[fitted] / fitted.sum()
        weights = np.linalg.solve(square + RIDGE * np.eye(len(square)), x[fitted].T @ (y - centre) / fitted.sum())
        scores = (x[asked] @ weights + centre).reshape(int(asked.sum()), items, len(kinds))
        answers[asked] = kinds[scores.argmax(-1)]
    found: np.ndarray = answers == classes
    return found


def some_of(count: int) -> list[int]:
    """The numbers 1 to `count`, or MOST_SEGMENTS of them, closer together at the beginning."""
    if count <= MOST_SEGMENTS:
        return list(range(1, count + 1))
    return [int(at) for at in np.unique(np.geomspace(1, count, MOST_SEGMENTS).astype(int))]


def probes(recording: Recording) -> Iterator[Probe]:
    """Every item of every hidden field, for each bank at the beginning of each segment but the first.

    A field that changes is asked for as it was at the last step before, which is the last that memory has seen.
    Episodes that have ended by then are left out.
    """
    rng, length, slots = np.random.default_rng(0), recording.context_length, recording.slots()
    for name, values in recording.hidden.items():
        for segment in some_of(recording.segments - 1):
            playing = np.flatnonzero(recording.reaching(segment))
            number = len(playing)
            if number < FEWEST:
                continue
            classes = labels(values[segment * length - 1][playing])
            kept = [item for item in range(classes.shape[1]) if len(np.unique(classes[:, item])) > 1]
            classes = classes[:, kept]
            if not kept:
                continue
            shuffled = classes[rng.permutation(number)]
            most = np.array([np.bincount(column - column.min()).max() for column in classes.T]) / number
            for bank, held in slots.items():
                features = held[segment][playing].astype(np.float64)
                both = np.concatenate([classes, shuffled], axis=1)  # one fit for the two
                of_slots = np.stack([answered(features[:, m], both) for m in range(features.shape[1])])
                hits, chance = np.split(of_slots, 2, axis=2)
                for i, item in enumerate(kept):
                    yield Probe(name, item, bank, segment, hits[..., i], chance[..., i], float(most[i]))


@dataclass(frozen=True)
class Failure:
    """One of the ways in which slots fail, as a number of one bank; `good` says which way is better."""

    name: str
    bank: str
    value: float
    good: str
    meaning: str


def failures(recording: Recording) -> list[Failure]:
    """Collapse, diffuse writing, and mismatch of what is written and what is read; what a model tells of them.

    Slots are those that an episode's own last segment begins with.
    """
    found = []
    dated, ends = recording.written_at(), (recording.lengths - 1) // recording.context_length
    lanes = np.flatnonzero(ends > 0 if ends.any() else ends == 0)  # the others hold what they began with
    for number, (bank, held) in enumerate(recording.slots().items()):
        last = held[ends[lanes], lanes].astype(np.float64)
        if last.shape[1] > 1:
            found.append(Failure("collapse", bank, alike(last), "low", "cosine between two slots of an episode, in the "
                                 "mean: 1 where all slots are alike"))  # fmt: skip
            found.append(Failure("slots used", bank, spread_over(last), "high", "effective number of directions among "
                                 "the slots of an episode, as a share of the slots"))  # fmt: skip
        if written := recording.writing(number):
            rows = [row[np.flatnonzero(recording.reaching(segment + 1))] for segment, row in enumerate(written[0])]
            found.append(Failure("diffuse writing", bank, diffuse(rows), "low", "entropy of a "
                                 "slot's attention to the tokens it sees: 0 one token, 1 all alike"))  # fmt: skip
        if (reading := recording.reading(number)) is not None and bank in dated:
            mass, unread = mismatch(recording, reading, dated[bank])
            found.append(Failure("read, never written", bank, mass, "low", "share of reading attention on slots that "
                                 "hold noise, once some slot is written"))  # fmt: skip
            found.append(Failure("written, hardly read", bank, unread, "low", "share of written slots that get less "
                                 "than a tenth of the uniform share"))  # fmt: skip
    return found


def alike(slots: np.ndarray) -> float:
    """Mean cosine between two slots `[N, M, D]` of an episode."""
    unit = slots / np.maximum(np.linalg.norm(slots, axis=-1, keepdims=True), 1e-12)
    cosines = unit @ unit.swapaxes(1, 2)
    size = slots.shape[1]
    return float((cosines.sum((1, 2)) - size).mean() / (size * (size - 1)))


def spread_over(slots: np.ndarray) -> float:
    """exp of the entropy of the squared singular values of an episode's slots, over the number of slots."""
    values = np.linalg.svd(slots, compute_uv=False) ** 2
    return float(np.exp(entropy(np.maximum(values, TINY), axis=-1)).mean() / slots.shape[1])


def diffuse(rows: list[np.ndarray]) -> float:
    """Entropy of writing attention `[N, W, T]` over the tokens that a slot may see, as a share of the most there is."""
    values = []
    for weights in rows:
        seen = (weights > 0).sum(-1)
        values.append((entropy(np.maximum(weights, TINY), axis=-1) / np.log(np.maximum(seen, 2)))[seen > 1])
    joined = np.concatenate(values)
    return float(joined.mean()) if len(joined) else 0.0


def mismatch(recording: Recording, reading: np.ndarray, dates: np.ndarray) -> tuple[float, float]:
    """The reading mass on slots that were never written, and the share of written slots that are hardly read.

    Both of steps after the first write, of episodes that still play.
    """
    length, played = recording.context_length, recording.played()
    weights = reading[: len(played)].mean(2)[:, : played.shape[1]]  # [T, N, M]
    segment = np.arange(len(weights)) // length
    written = (dates >= 0)[segment][:, : played.shape[1]]
    counted = played & written.any(-1)
    if not counted.any():
        return 0.0, 0.0
    size = weights.shape[-1]
    never = (weights * ~written).sum(-1)[counted].mean()
    on, hardly = written & counted[..., None], []
    for number in range(1, segment.max() + 1):
        rows = segment == number
        steps = np.maximum(counted[rows].sum(0), 1)[:, None]
        share = (weights[rows] * counted[rows][..., None]).sum(0) / steps
        hardly.append((share < HARDLY / size)[on[rows].any(0)])
    return float(never), float(np.concatenate(hardly).mean())
