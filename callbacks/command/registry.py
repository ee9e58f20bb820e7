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

# Of Gymnasium's and Minigrid's wrappers those that take plain values and neither write nor show anything.
WRAPPERS = {
    **{
        name: f"gymnasium.wrappers.{name}"
        for name in (
            "AddWhiteNoise", "AtariPreprocessing", "ClipAction", "ClipReward", "DelayObservation",
            "DiscretizeAction", "DiscretizeObservation", "FilterObservation", "FlattenObservation",
            "FrameStackObservation", "GrayscaleObservation", "MaxAndSkipObservation", "ObstructView", "RepeatAction",
            "RescaleAction", "RescaleObservation", "ReshapeObservation", "ResizeObservation", "StickyAction",
            "TimeAwareObservation",
        )
    },
    **{
        name: f"minigrid.wrappers.{name}"
        for name in (
            "DirectionObsWrapper", "FlatObsWrapper", "FullyObsWrapper", "ImgObsWrapper", "OneHotPartialObsWrapper",
            "RGBImgObsWrapper", "RGBImgPartialObsWrapper", "SymbolicObsWrapper", "ViewSizeWrapper",
        )
    },
}  # fmt: skip

PLATFORM = MODELS | Registry(
    {
        "run": Role(
            takes={
                "model": "model",
                "module": "module",
                "data": "data",
                "trainer": "trainer",
                "env": "env",
                "collect": "env",
                "callbacks": "callbacks",
                "logger": "logger",
                "recipe": "recipe",
                "reader": "reader",
                "writer": "writer",
            },
        ),
        "stage": Role(
            {
                "train": "callbacks.stages.train.run",
                "collect": "callbacks.stages.collect.run",
                "convert": "callbacks.stages.convert.run",
                "evaluate": "callbacks.stages.evaluate.run",
                "report": "callbacks.stages.report.run",
                "import": "callbacks.stages.published.run",
                "benchmark": "callbacks.stages.benchmark.run",
                "doctor": "callbacks.stages.doctor.run",
                "inspect": "callbacks.stages.inspect.run",
                "export": "callbacks.stages.export.run",
            },
            functions=True,
        ),
        # What stages call by name: callbacks import nothing of `data`.
        "trajectories": Role({"collect": "data.collect.collect", "convert": "data.convert.convert"}, functions=True),
        "reader": Role(
            {
                "archive": "data.readers.archive.Archive",
                "minari": "data.readers.minari.Minari",
                "lerobot": "data.readers.lerobot.LeRobot",
                "robomimic": "data.readers.robomimic.Robomimic",
                "npz": "data.readers.npz.NpzFolder",
            },
            partial=True,
            functions=True,
        ),
        "writer": Role({"minari": "data.readers.minari.write"}, partial=True, functions=True),
        "env": Role(takes=ENV),
        "recipe": Role(takes=MODEL_PARTS),  # what a task asks of a model, on its way there
        "measured task": Role(takes=ENV),
        "env maker": Role(
            {
                "tmaze": "envs.tmaze.make_vector",
                "popgym": "envs.popgym.make_vector",
                "mikasa": "envs.mikasa.make_vector",
                "gym": "envs.gym.make_vector",
                "minigrid": "envs.minigrid.make_vector",
                "retrieval": "envs.retrieval.make_vector",
                "recorded": "data.replay.Replay",
            },
            partial=True,
            functions=True,
            takes={"wrappers": "wrapper"},
        ),
        "wrapper": Role(WRAPPERS, kind="gymnasium.Wrapper", partial=True),
        "variants": Role(
            {
                "lengths": "envs.tmaze.variants",
                "sizes": "envs.minigrid.variants",
                "pairs": "envs.retrieval.variants",
            },
            functions=True,
        ),
        "expert": Role(
            {
                "none": "envs.experts.none",
                "tmaze": "envs.experts.tmaze.TMazeExpert",
                "minigrid": "envs.experts.minigrid.MinigridExpert",
                "retrieval": "envs.experts.retrieval.RetrievalExpert",
                "popgym": "envs.experts.popgym.expert_for",
                "mikasa": "envs.experts.mikasa.expert_for",
            },
            partial=None,
            functions=True,
        ),
        "reference": Role({"popgym": "envs.experts.popgym.levels.level_of"}, functions=True),
        "check": Role(
            {"popgym": "envs.experts.popgym.levels.check_level", "reproducible": "envs.gym.check_reproducible"},
            partial=True,
            functions=True,
            takes={"make_env": "env maker"},
        ),
        "archive": Role(
            {
                "popgym": "envs.popgym.archive.PublishedEpisodes",
                "mikasa": "envs.mikasa.archive.PublishedEpisodes",
            },
            partial=True,
        ),
        "data": Role({"shards": "data.datamodule.TrajectoryDataModule"}, kind="lightning.pytorch.LightningDataModule"),
        "trainer": Role(
            {"lightning": "lightning.pytorch.trainer.Trainer"},
            kind="lightning.pytorch.Trainer",
            takes={"strategy": "strategy", "profiler": "profiler"},
        ),
        "strategy": Role({"lightning_ddp": "lightning.pytorch.strategies.DDPStrategy"}),
        "profiler": Role(
            {
                "simple": "lightning.pytorch.profilers.SimpleProfiler",
                "advanced": "lightning.pytorch.profilers.AdvancedProfiler",
                "pytorch": "lightning.pytorch.profilers.PyTorchProfiler",
            },
            kind="lightning.pytorch.profilers.Profiler",
        ),
        "callbacks": Role(takes={"*": "callback"}),
        "callback": Role(
            {
                "resume": "callbacks.checkpoint.ResumePoint",
                "stop": "callbacks.checkpoint.StopOnSignal",
                "metrics": "callbacks.metriclog.MetricLog",
                "progress": "callbacks.progress.UpdateProgress",
                "selection": "callbacks.selection.RolloutSelection",
                "validation": "callbacks.validation.ValidationSelection",
                "throughput": "callbacks.throughput.Throughput",
                "memory": "callbacks.inspect.watch.MemoryWatch",
                "summary": "lightning.pytorch.callbacks.RichModelSummary",
                "plain_summary": "lightning.pytorch.callbacks.ModelSummary",
                "device_stats": "lightning.pytorch.callbacks.DeviceStatsMonitor",
                "early_stopping": "callbacks.early_stopping.EarlyStopping",
                "learning_rate": "lightning.pytorch.callbacks.LearningRateMonitor",
            },
            kind="lightning.pytorch.Callback",
            takes={"make_env": "env maker", "variants": "variants"},
        ),
        "logger": Role(
            {
                "tensorboard": "callbacks.tensorboard.TensorBoard",
                "plain_tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
                "csv": "lightning.pytorch.loggers.CSVLogger",
                "wandb": "callbacks.loggers.wandb_logger",
            },
            functions=True,
        ),
        # What Hydra builds by itself, of its own section.
        "hydra": Role(takes={"callbacks": "hydra callbacks", "launcher": "launcher", "sweeper": "sweeper"}),
        "hydra callbacks": Role(takes={"*": "hydra callback"}),
        "hydra callback": Role(
            {"sweep": "callbacks.command.sweeps.Sweep", "accounting": "callbacks.command.slurm.WithoutAccounting"},
            kind="hydra.experimental.callback.Callback",
        ),
        "launcher": Role(
            {
                "basic": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
                "local": "hydra_plugins.elmur_local.LocalLauncher",
                "submitit_local": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
                "submitit_slurm": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
            },
        ),
        "sweeper": Role(
            {
                "basic": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
                "compare": "hydra_plugins.elmur_compare.Comparison",
                "optuna": "hydra_plugins.elmur_optuna.OptunaSearch",
            },
            takes={"sampler": "sampler"},
        ),
        "sampler": Role(
            {
                "tpe": "optuna.samplers.TPESampler",
                "random": "optuna.samplers.RandomSampler",
                "cmaes": "optuna.samplers.CmaEsSampler",
                "grid": "optuna.samplers.GridSampler",
                "nsgaii": "optuna.samplers.NSGAIISampler",
            },
            partial=None,
        ),
    }
)
