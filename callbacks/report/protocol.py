"""What was run and what can be believed: counts, and in what rows that stand in one table came about differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Gathered, Group, is_collected
from callbacks.report.row import Row
from callbacks.report.tables import named, questions
from callbacks.report.text import plain

MOST = 4  # values, folders or names that a sentence lists
LONGEST = 160  # characters of a reason


def _data(row: Row) -> str | None:
    """How many and of whom; of what this code has not collected the digest, which tells one file from another."""
    if row.data.get("episodes") is None:
        return None
    recorded = row.data.get("collection")
    how: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    env = how.get("env")
    said = [f"{row.data[key]} {key}" for key in ("episodes", "steps") if key in row.data]
    said += [f"of {str(how['expert']).rpartition('.')[2]}"] if how.get("expert") else []
    said += [f"{key} {value}" for key, value in (env.items() if isinstance(env, dict) else ()) if key != "call"]
    said += [f"{key} {how[key]}" for key in ("noise", "mixture", "draw_ties", "seed") if how.get(key)]
    said += [f"converted from {how['converted']}"] if "converted" in how else []
    said += [] if is_collected(row) else [f"digest {row.data.get('digest')}"]
    return ", ".join(said)


def _reference(row: Row) -> str | None:
    if row.metric != RETURN or row.reference is None:
        return None
    return "{random:g} and {expert:g}".format(**row.reference)


def _labels(row: Row) -> str | None:
    module = row.settings.get("module")
    if not isinstance(module, dict):
        return None
    objective = module.get("objective")
    if isinstance(objective, dict) and str(objective.get("_target_")).endswith(".Balanced"):
        return f"recorded actions, weighted by their frequency to the power -{objective.get('power')}"
    if isinstance(objective, dict) and str(objective.get("_target_")).endswith(".Preferences"):
        share = objective.get("action_share")
        beside = f", {share} of it the recorded action" if share else ""
        return f"preferences at temperature {objective.get('temperature')}{beside}"
    return "recorded actions"


def _rounds(row: Row) -> str:
    found: Any = row.data.get("rounds") or []
    if not found:
        return "none, recorded episodes alone"
    episodes, steps = (sum(one[name] for one in found) for name in ("episodes", "steps"))
    how = [(one.get("collection") or {}).get("learner") or {} for one in found]
    at, shares = (", ".join(str(one.get(name, "?")) for one in how) for name in ("updates", "expert_share"))
    return f"{len(found)} of {episodes} episodes, {steps:,} steps, at updates {at}, expert's share {shares}"


def _selection(row: Row) -> str | None:
    chosen: Any = row.settings.get("selection")
    if row.stage != "train" or not row.settings:
        return None
    if row.selection_score is None:
        return "the last checkpoint"
    return f"the best of {chosen.get('num_episodes', '?')} episodes" if isinstance(chosen, dict) else "the best"


def _seeds(row: Row) -> str:
    seeds = next(iter(row.outcomes.values())).seeds
    return f"{len(seeds)} from {seeds[0]}"


# What rows beside each other should have in common, and how it is read from a row.
PROTOCOL: dict[str, Callable[[Row], Any]] = {
    "training data": _data,
    "labels": _labels,
    "rounds of labelling on its own states": _rounds,
    "updates": lambda row: row.updates,
    "choice of the checkpoint": _selection,
    "report seeds": _seeds,
    "actions": lambda row: row.actions,
    "observations": lambda row: row.settings.get("observation"),
    "code": lambda row: row.origin.code and row.origin.code[:12],
    "versions": lambda row: ", ".join(f"{name} {of}" for name, of in row.versions.items() if name != "elmur") or None,
    "returns of random play and of the expert, of which those of the newest row count": _reference,
}
UNKNOWN = "unknown"  # what a row does not say


def overview(gathered: Gathered) -> list[str]:
    """Sentences that the report begins with."""
    rows = [row for group in gathered.groups for row in group.rows if row.stage == "train"]
    again = sum(len(group.rows) for group in gathered.groups if group.stage != "train")
    said = []
    if rows:
        tasks, models = {row.task for row in rows}, {row.model for row in rows}
        seeds = {row.seed for row in rows}
        factors = (tasks, "task"), (models, "model"), (seeds, "seed")
        said.append(f"{_count(rows, 'finished run')}: {' x '.join(_count(*factor) for factor in factors)}.")
    if again:
        said.append(f"{again} evaluations of checkpoints, which are no runs and stand in tables of their own.")
    for of in questions(gathered.groups).values():
        if common := sorted(of[0].common):
            said.append(f"{named(of[0])}: all of them with {', '.join(common)}.")
    said += _gaps(gathered.groups)
    said += _lost([row for group in gathered.groups for row in group.rows])
    others: dict[str, Sequence[Path] | Mapping[Path, str]] = {
        "not finished": gathered.unfinished,
        "on trajectories alone, judged by validation since nobody acted": gathered.validated,
        "failed": gathered.failed, "refused before it began": gathered.refused, "left out": gathered.left_out,
    }  # fmt: skip
    for words, found in others.items():
        if found:
            told = [f"{path} ({why})" for path, why in found.items()] if isinstance(found, Mapping) else found
            noun = "row" if words == "left out" else "run"
            said.append(f"{_count(found, noun)} {words}: {_list(told, '; ', '; and ')}.")
    single = [group.name for group in gathered.groups if any(len(of) == 1 for of in group.by_task().values())]
    if single:
        said.append(
            f"One seed only: {_list(single)}. Its interval is over episodes, and tells nothing of another training."
        )
    return said


def _count(of: Sized, noun: str) -> str:
    return f"{len(of)} {noun}{'s' * (len(of) != 1)}"


def _list(given: Iterable[object], between: str = ", ", last: str = " and ") -> str:
    """The first of them, and how many more there are."""
    texts = [str(one) for one in given]
    return between.join(texts[:MOST]) + f"{last}{len(texts) - MOST} more" * (len(texts) > MOST)


def _gaps(groups: Sequence[Group]) -> list[str]:
    """Seeds that other groups of the same table have, and tasks that one of them lacks."""
    said = []
    for (stage, *_), of in questions(groups).items():
        if stage != "train":
            continue
        seeds = sorted({row.seed for group in of for row in group.rows if row.seed is not None})
        tasks = {row.task for group in of for row in group.rows}
        for group in of:
            by_task = group.by_task()
            if lacking := sorted(tasks - set(by_task)):
                said.append(f"{group.name} has no run of {len(lacking)} of {len(tasks)} tasks: {_list(lacking)}.")
            short = {task: sorted(set(seeds) - {row.seed for row in rows}) for task, rows in by_task.items()}
            if any(short.values()) and len(seeds) > 1:
                task, missing = next((task, missing) for task, missing in short.items() if missing)
                said.append(
                    f"{group.name} lacks {sum(map(len, short.values()))} runs of seeds that others have: {task}, "
                    f"seed {_list(missing)}."
                )
    return said


def _lost(rows: Sequence[Row]) -> list[str]:
    """That episodes could not be played, with the commonest reasons."""
    outcomes = [[outcome for outcome in row.outcomes.values() if outcome.env_errors] for row in rows]
    concerned = [row for row, lost in zip(rows, outcomes, strict=True) if lost]
    why = Counter(text for of in outcomes for outcome in of for text in outcome.env_errors.values())
    if not why:
        return []
    played = sum(outcome.episodes for row in concerned for outcome in row.outcomes.values())
    reasons = _list((plain(text, most=LONGEST) for text, _ in why.most_common()), "; ", "; and ")
    return [
        f"{why.total()} of {played + why.total()} episodes of {_count(concerned, 'row')} could not be played "
        f"({reasons}) and are in no figure."
    ]


def differing(groups: Sequence[Group]) -> list[str]:
    """A sentence for each thing in which rows of one table came about differently, or may have, as one does not say."""
    said = []
    for of in questions(groups).values():
        by_task = {group.name: group.by_task() for group in of}
        tasks = list(dict.fromkeys(task for rows in by_task.values() for task in rows))
        for what, read in PROTOCOL.items():
            unlike = {}
            for task in tasks:
                values: dict[str, list[str]] = {}
                for name, rows in by_task.items():
                    found = [read(row) for row in rows.get(task, [])]
                    for value in dict.fromkeys(UNKNOWN if one is None else str(one) for one in found):
                        values.setdefault(value, []).append(name)
                if len(values) > 1:
                    unlike[task] = values
            if unlike:
                task, values = next(iter(unlike.items()))
                listed = _list((f"{value} ({_list(names)})" for value, names in values.items()), "; ", "; and ")
                where = task if len(tasks) == 1 else f"{len(unlike)} of {len(tasks)} tasks, {task} for example"
                said.append(f"{named(of[0])}, {where}: not the same {what}: {listed}.")
    return said
