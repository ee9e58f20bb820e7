"""A run of the published code, read from its folder and written as a checkpoint of ours."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from elmur.build import build
from elmur.checkpoint import CHECKPOINT_VERSION, load_plain, save_whole
from elmur.files import read_json
from elmur.published import baselines
from elmur.published.config import DEFAULTS, PublishedError, check_keys, model_config, task_spec
from elmur.published.weights import convert_weights
from elmur.untrusted import UntrustedError, check_plain, described

log = logging.getLogger(__name__)
CONFIG, BEST, STEPS = "config.json", "best_checkpoint.pth", "checkpoints/step_*.pth"
# Modules that the published model owns but does not use where a flag is off or None; ours does not have them then.
UNUSED_WITHOUT = {
    "use_tok2mem": r"layers\.\d+\.(cross_attention1|token_norm_cross)\.",
    "use_mem2tok": r"layers\.\d+\.(cross_attention2|memory_norm_cross|memory_ffn)\.",
    "use_relative_bias": r"layers\.\d+\.cross_rel_bias\.",
}


def import_run(source: Path, target: Path) -> Path:
    """Write the weights and the configuration of a published run to `target`, a checkpoint that acts; gives `target`.

    source: a run folder (`config.json` with `best_checkpoint.pth` or `checkpoints/step_N.pth`, the newest), or a
    weights file with its `config.json` beside it or up to two folders above. Pickled code is never executed.
    Raises PublishedError for everything that is missing, unknown or does not fit, CheckpointError for code.
    """
    config_file, weights_file = find_files(Path(source))
    run, state = read_config(config_file), read_weights(weights_file)
    config, size = run.config, weights_file.stat().st_size
    if int(config["state_dim"]) < 1 and "state_encoder.weight" in state:  # POPGym: taken from the data when it was run
        config = {**config, "state_dim": state["state_encoder.weight"].shape[-1]}
    context_length = baselines.window(run.mode, run.context_length, run.sections)
    if run.mode == "ELMUR":
        state = used_weights(config_file, config, state)
        spec, model, convert = task_spec(config), model_config(config), convert_weights
    else:
        spec = baselines.task_spec(config, run.mode)
        model = baselines.model_config(config, run.mode, context_length)
        convert = partial(baselines.convert_weights, config=config, mode=run.mode)
    if re.match(r"popgym-(?!.*-v\d+$)", spec.name):
        spec = replace(spec, name=f"{spec.name}-v0")
    try:
        check_plain({**config, "context_length": context_length}, size)
        make = partial(build, model, f"{config_file}: model", "model", spec=spec)
        weights = convert(state, expected := described(make, config["n_layer"], len(state), size))
    except PublishedError as error:
        raise PublishedError(f"{weights_file}: {error}") from error
    except UntrustedError as error:
        raise PublishedError(
            f"{config_file}: expected a model of the weights in {weights_file}, found {error}"
        ) from error
    checkpoint = {
        "state_dict": {f"model.{name}": tensor.to(expected[name].dtype).clone() for name, tensor in weights.items()},
        "elmur": {
            "version": CHECKPOINT_VERSION,
            "spec": spec.to_json(),
            "model": model,
            "context_length": context_length,
            "source": str(weights_file),
        },
    }
    save_whole(checkpoint, target)
    return target


def used_weights(config_file: Path, config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a published ELMUR less those of parts that its flags leave unused; a flag not set is told of."""
    off = [flag for flag in UNUSED_WITHOUT if not config[flag]]
    unset = [flag for flag in off if config[flag] is None]
    if "use_tok2mem" in off and "use_mem2tok" in off:
        off.append("use_relative_bias")  # nothing is left for it to act on
    if unset:
        log.warning(
            "%s: %s not set, which the published code takes for false: it was trained without memory, and acts so",
            config_file,
            ", ".join(unset),
        )
    return {k: v for k, v in state.items() if not any(re.match(UNUSED_WITHOUT[flag], k) for flag in off)}


def find_files(source: Path) -> tuple[Path, Path]:
    """The configuration and the weights that `source` names. Raises PublishedError listing what is not there."""
    if not source.exists():
        raise PublishedError(f"{source}: there is no such run folder or weights file")
    if source.is_file():
        configs = [folder / CONFIG for folder in (source.parent, *list(source.absolute().parents)[1:3])]
        weights: Path | None = source
    else:
        configs = [source / CONFIG]
        steps = sorted(source.glob(STEPS), key=lambda path: int(re.sub(r"\D", "", path.stem) or -1))
        weights = next((path for path in (source / BEST, *reversed(steps)) if path.is_file()), None)
    config = next((path for path in configs if path.is_file()), None)
    if config is None or weights is None:
        missing = [f"no {CONFIG} (looked for {', '.join(map(str, configs))})"] * (config is None)
        missing += [f"no weights (looked for {BEST} and {STEPS})"] * (weights is None)
        raise PublishedError(f"{source}: not a run of the published code: {'; '.join(missing)}")
    return config, weights


@dataclass(frozen=True)
class Run:
    """What a published configuration says: the complete model keys, which model, steps per segment, segments."""

    config: dict[str, Any]
    mode: str
    context_length: int
    sections: int


def read_config(path: Path) -> Run:
    """A published configuration. Raises PublishedError for one that is not complete or not understood."""
    try:
        whole = read_json(path)
        if not isinstance(whole, dict):
            raise ValueError(f"expected an object, found {type(whole).__name__}")
    except ValueError as error:
        raise PublishedError(f"{path}: expected the JSON of a published run: {error}") from error
    nested = isinstance(whole.get("model"), dict)
    model = dict(whole["model"]) if nested else {k: v for k, v in whole.items() if not isinstance(v, dict)}
    training = whole.get("training")
    lengths = training if isinstance(training, dict) else model
    length, sections = lengths.get("context_length"), lengths.get("sections")
    if lengths is model:
        model = {key: value for key, value in model.items() if key not in ("context_length", "sections")}
    mode = str(named(whole, model, "model_mode") or "ELMUR")
    if mode != "ELMUR" and mode not in baselines.MODES:
        known = ", ".join(["ELMUR", *baselines.MODES])
        raise PublishedError(f"{path}: expected a run of {known}, found {mode}, which cannot be imported")
    if type(length) is not int or length < 1:
        raise PublishedError(f"{path}: training.context_length: expected a whole number from 1, found {length!r}")
    if sections is not None and (type(sections) is not int or sections < 1):
        raise PublishedError(f"{path}: training.sections: expected a whole number from 1, found {sections!r}")
    try:
        if mode == "ELMUR":
            # The published command line hands the keys of all its models over, None where they were not given.
            config = {key: value for key, value in model.items() if value is not None or key in DEFAULTS}
            config = check_keys({**config, "dtype": named(whole, model, "dtype")})
        else:
            whatever = {key: named(whole, model, key) for key in ("arch_mode", "dtype")}
            config = baselines.check_keys({**model, **whatever}, mode)
    except PublishedError as error:
        raise PublishedError(f"{path}: {error}") from error
    return Run(config, mode, length, sections or 1)


def named(whole: dict[str, Any], model: dict[str, Any], key: str) -> Any:
    """The first value of a key of the run, wherever the published code puts it; None where it is nowhere."""
    sections = [section for section in (whole, whole.get("run"), model) if isinstance(section, dict)]
    return next((section[key] for section in sections if section.get(key) is not None), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file by name. Raises ValueError for anything else; runs nothing that it holds."""
    state = load_plain(path, "weights of the published code")
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise PublishedError(f"{path}: expected a dictionary of tensors by name, found {type(state).__name__}")
    return state
