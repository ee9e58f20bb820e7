"""What a configuration may name beside what `elmur` knows: data, envs, callbacks, Lightning's parts and Hydra's.

PLATFORM begins at the role "run", the whole of the settings; each of their sections is a role of its own.
"""

from __future__ import annotations

from elmur.registry import MODEL_PARTS, MODELS, Registry, Role

ENV = {
    "make": "env maker", "render": "env maker", "make_env": "env maker", "variants": "variants",
    "selection": "variants", "expert": "expert", "reference": "reference", "archive": "archive", "check": "check",
    "benchmark": "measured task", "recipe": "recipe",
}  # fmt: skip


def inside(package: str, *named: str, **paths: str) -> dict[str, str]:
    """Short name -> import path of members of a package: of those that are called so there, and of others."""
    return {name: f"{package}.{path}" for name, path in {**dict(zip(named, named, strict=True)), **paths}.items()}


# Of Gymnasium's and Minigrid's wrappers those that take plain values and neither write nor show anything.
WRAPPERS = inside(
    "gymnasium.wrappers",
    "AddWhiteNoise", "AtariPreprocessing", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeAction",
    "DiscretizeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation",
    "GrayscaleObservation", "MaxAndSkipObservation", "ObstructView", "RepeatAction", "RescaleAction",
    "RescaleObservation", "ReshapeObservation", "ResizeObservation", "StickyAction", "TimeAwareObservation",
) | inside(
    "minigrid.wrappers",
    "DirectionObsWrapper", "FlatObsWrapper", "FullyObsWrapper", "ImgObsWrapper", "OneHotPartialObsWrapper",
    "RGBImgObsWrapper", "RGBImgPartialObsWrapper", "SymbolicObsWrapper", "ViewSizeWrapper",
)  # fmt: skip
STAGES = ("train", "collect", "convert", "evaluate", "report", "import", "benchmark", "doctor", "inspect", "export")
SECTIONS = ("model", "module", "data", "trainer", "env", "callbacks", "logger", "recipe", "reader", "writer")

PLATFORM = MODELS | Registry({
    "run": Role(takes={**{name: name for name in SECTIONS}, "collect": "env"}),
    # A file each; `import` is no name for one.
    "stage": Role(
        {name: f"callbacks.stages.{'published' if name == 'import' else name}.run" for name in STAGES}, functions=True
    ),
    # What stages call by name: callbacks import nothing of `data`.
    "trajectories": Role(inside("data", collect="collect.collect", convert="convert.convert"), functions=True),
    "reader": Role(
        inside("data.readers", archive="archive.Archive", minari="minari.Minari", lerobot="lerobot.LeRobot",
               robomimic="robomimic.Robomimic", npz="npz.NpzFolder"),
        partial=True, functions=True,
    ),
    "writer": Role(inside("data.readers", minari="minari.write"), partial=True, functions=True),
    "env": Role(takes=ENV),
    "recipe": Role(takes=MODEL_PARTS),  # what a task asks of a model, on its way there
    "measured task": Role(takes=ENV),
    "env maker": Role(
        {**{name: f"envs.{name}.make_vector" for name in ("tmaze", "popgym", "mikasa", "gym", "minigrid", "retrieval")},
         "recorded": "data.replay.Replay"},
        partial=True, functions=True, takes={"wrappers": "wrapper"},
    ),
    "wrapper": Role(WRAPPERS, kind="gymnasium.Wrapper", partial=True),
    "variants": Role(
        inside("envs", lengths="tmaze.variants", sizes="minigrid.variants", pairs="retrieval.variants"), functions=True
    ),
    "expert": Role(
        inside("envs.experts", "none", tmaze="tmaze.TMazeExpert", minigrid="minigrid.MinigridExpert",
               retrieval="retrieval.RetrievalExpert", popgym="popgym.expert_for", mikasa="mikasa.expert_for"),
        partial=None, functions=True,
    ),
    "reference": Role(inside("envs.experts", popgym="popgym.levels.level_of"), functions=True),
    "check": Role(
        inside("envs", popgym="experts.popgym.levels.check_level", reproducible="gym.check_reproducible"),
        partial=True, functions=True, takes={"make_env": "env maker"},
    ),
    "archive": Role(
        inside("envs", popgym="popgym.archive.PublishedEpisodes", mikasa="mikasa.archive.PublishedEpisodes"),
        partial=True,
    ),
    "data": Role(
        inside("data", shards="datamodule.TrajectoryDataModule"), kind="lightning.pytorch.LightningDataModule"
    ),
    "trainer": Role(
        inside("lightning.pytorch", lightning="trainer.Trainer"), kind="lightning.pytorch.Trainer",
        takes={"strategy": "strategy", "profiler": "profiler"},
    ),
    "strategy": Role(inside("lightning.pytorch.strategies", lightning_ddp="DDPStrategy")),
    "profiler": Role(
        inside("lightning.pytorch.profilers", simple="SimpleProfiler", advanced="AdvancedProfiler",
               pytorch="PyTorchProfiler"),
        kind="lightning.pytorch.profilers.Profiler",
    ),
    "callbacks": Role(takes={"*": "callback"}),
    "callback": Role(
        inside("callbacks", resume="checkpoint.ResumePoint", stop="checkpoint.StopOnSignal",
               metrics="metriclog.MetricLog", progress="progress.UpdateProgress",
               selection="selection.RolloutSelection", validation="validation.ValidationSelection",
               throughput="throughput.Throughput", memory="inspect.watch.MemoryWatch")
        | inside("lightning.pytorch.callbacks", summary="RichModelSummary", plain_summary="ModelSummary",
                 device_stats="DeviceStatsMonitor", early_stopping="EarlyStopping",
                 learning_rate="LearningRateMonitor"),
        kind="lightning.pytorch.Callback", takes={"make_env": "env maker", "variants": "variants"},
    ),
    "logger": Role(
        inside("callbacks", tensorboard="tensorboard.TensorBoard", wandb="loggers.wandb_logger")
        | inside("lightning.pytorch.loggers", plain_tensorboard="TensorBoardLogger", csv="CSVLogger"),
        functions=True,
    ),
    # What Hydra builds by itself, of its own section.
    "hydra": Role(takes={"callbacks": "hydra callbacks", "launcher": "launcher", "sweeper": "sweeper"}),
    "hydra callbacks": Role(takes={"*": "hydra callback"}),
    "hydra callback": Role(
        inside("callbacks.command", sweep="sweeps.Sweep", accounting="slurm.WithoutAccounting"),
        kind="hydra.experimental.callback.Callback",
    ),
    "launcher": Role(
        inside("hydra_plugins", local="elmur_local.LocalLauncher",
               submitit_local="hydra_submitit_launcher.submitit_launcher.LocalLauncher",
               submitit_slurm="hydra_submitit_launcher.submitit_launcher.SlurmLauncher")
        | inside("hydra._internal.core_plugins", basic="basic_launcher.BasicLauncher"),
    ),
    "sweeper": Role(
        inside("hydra_plugins", compare="elmur_compare.Comparison", optuna="elmur_optuna.OptunaSearch")
        | inside("hydra._internal.core_plugins", basic="basic_sweeper.BasicSweeper"),
        takes={"sampler": "sampler"},
    ),
    "sampler": Role(
        inside("optuna.samplers", tpe="TPESampler", random="RandomSampler", cmaes="CmaEsSampler", grid="GridSampler",
               nsgaii="NSGAIISampler"),
        partial=None,
    ),
})  # fmt: skip
