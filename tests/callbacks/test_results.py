"""Sinks are told settings and results: read from what they wrote."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks.loggers import Result, open_until_the_end, tell_report, tell_result, tell_settings, wandb_logger
from callbacks.report.panels import Drawing, Figure
from callbacks.report.report import Report
from callbacks.report.sheets import Sheet
from callbacks.tensorboard import TensorBoard, as_gif
from tests.sinks import tensorboard_run, wandb_run

SETTINGS = {"seed": 3, "model": {"d_model": 16, "memory": {"write": None}}, "env": {"lengths": [9, 30]}}
NUMBERS = {"result/T=9/success": 0.75, "hp_metric": 0.75}


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """A table, a picture, and a video of three frames."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "success.png")
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "video.gif", save_all=True, append_images=frames[1:], duration=50)
    sheet = Sheet("tmaze", [{"variant": "T=9", "success": "0.75"}])
    return Result(sheet, NUMBERS, tmp_path / "success.png", tmp_path / "video.gif")


def told(sinks: list[Any], result: Result) -> None:
    with open_until_the_end(sinks):
        tell_settings(sinks, SETTINGS)
        for sink in sinks:
            sink.log_metrics({"train/loss": 1.5}, step=1)
            sink.finalize("success")
        tell_result(sinks, result)


def test_tensorboard_has_settings_table_figure_and_video(result: Result, tmp_path: Path) -> None:
    told([TensorBoard(str(tmp_path), name="", version="logs")], result)
    found = tensorboard_run(tmp_path / "logs")
    assert found["parameters"] == {"seed": 3.0, "model.d_model": 16.0, "env.lengths": "[9, 30]"}
    assert found["scalars"] == {"train/loss": 1.5, "hp_metric": 0.75, "result/T=9/success": 0.75}
    assert "| T=9 | 0.75 |" in found["texts"]["table/text_summary"]
    figure = np.asarray(Image.open(io.BytesIO(found["images"]["figure"])))
    assert figure.shape == (30, 40, 3) and (figure == (255, 0, 0)).all()
    video = Image.open(io.BytesIO(found["images"]["video"]))
    assert (video.format, getattr(video, "n_frames"), video.size) == ("GIF", 3, (64, 48))  # noqa: B009


@pytest.fixture
def summary() -> Report:
    """A table and a red square of two by two inches."""

    def paint(on: Any) -> None:
        on.subplots().imshow([[[1.0, 0.0, 0.0]]])

    sheet = Sheet("Success: elmur", [{"task": "tmaze", "success": 0.75}])
    figure = Figure("square", "A square", Drawing((2, 2), paint), [])
    about: dict[str, Any] = {"title": "What <b>they</b> reached", "sources": [], "command": None}
    return Report(["One run."], [], [sheet], [], Sheet("runs", []), [figure], about)


def test_tensorboard_has_tables_and_figures_of_a_report(summary: Report, tmp_path: Path) -> None:
    tell_report([TensorBoard(str(tmp_path), name="", version="logs")], summary)
    found = tensorboard_run(tmp_path / "logs")
    assert "| tmaze | 0.75 |" in found["texts"]["Success: elmur/text_summary"]
    square = np.asarray(Image.open(io.BytesIO(found["images"]["A square"])))
    assert square.shape == (300, 300, 3) and (square[150, 150] == (255, 0, 0)).all()


def test_wandb_has_the_page_and_the_tables_of_a_report(summary: Report, tmp_path: Path) -> None:
    tell_report(wandb_logger("elmur", str(tmp_path), mode="offline"), summary)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run = wandb_run(folder)
    logged = run["history"][-1]
    kinds = {name: logged[f"{name}/_type"] for name in ("report", "Success: elmur")}
    assert kinds == {"report": "html-file", "Success: elmur": "table-file"}
    page = (folder / "files" / logged["report/path"]).read_text()
    assert "What &lt;b&gt;they&lt;/b&gt; reached" in page and "<svg" in page
    table = json.loads((folder / "files" / logged["Success: elmur/path"]).read_text())
    assert (table["columns"], table["data"]) == (["task", "success"], [["tmaze", "0.75"]])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of imageio's process
def test_tensorboard_shows_an_mp4_as_a_gif(tmp_path: Path) -> None:
    """As `evaluation.video` writes it where there is ffmpeg."""
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v2

    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    imageio.v2.mimwrite(tmp_path / "video.mp4", [np.full((48, 64, 3), colour) for colour in colours], fps=20)
    size, content = as_gif(tmp_path / "video.mp4")
    video = Image.open(io.BytesIO(content))
    assert size == (64, 48) and getattr(video, "n_frames") == 3  # noqa: B009
    for number, colour in enumerate(colours):
        video.seek(number)
        assert np.abs(np.asarray(video.convert("RGB")).mean((0, 1)) - colour).max() < 16, "a codec loses a little"


def test_wandb_has_them_under_one_id_and_can_be_sent_later(result: Result, tmp_path: Path) -> None:
    for _ in range(2):  # the second time as a run that goes on
        told(wandb_logger("elmur", str(tmp_path), mode="offline", name="elmur/seed-3", group="tmaze"), result)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    runs = [wandb_run(folder) for folder in folders]
    assert len(runs) == 2 and {run["id"] for run in runs} == {(tmp_path / "wandb.id").read_text()}
    for run, folder in zip(runs, folders, strict=True):
        assert (run["name"], run["group"]) == ("elmur/seed-3", "tmaze")
        given = {key: value for key, value in run["config"].items() if not key.startswith("_")}
        assert given == {"seed": 3, "model.d_model": 16, "env.lengths": [9, 30]}
        assert run["history"][0]["train/loss"] == 1.5
        logged = run["history"][-1]
        kinds = {name: logged[f"{name}/_type"] for name in ("table", "figure", "video")}
        assert kinds == {"table": "table-file", "figure": "image-file", "video": "video-file"}
        assert all((folder / "files" / logged[f"{name}/path"]).is_file() for name in kinds)
        table = json.loads((folder / "files" / logged["table/path"]).read_text())
        assert (table["columns"], table["data"]) == (["variant", "success"], [["T=9", "0.75"]])
        assert logged["result/T=9/success"] == 0.75
