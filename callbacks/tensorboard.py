"""TensorBoard, told of settings and results too."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageSequence

from callbacks.loggers import Result

if TYPE_CHECKING:
    from callbacks.report.report import Report

MILLISECONDS = 50  # a frame, as `callbacks.evaluation.video` has it
MOST_FRAMES, WIDEST = 400, 320  # of a video: it is kept in the event file, as a GIF


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, which also takes the result of a run: table, figure, video, and metrics beside settings."""

    @rank_zero_only
    def show_result(self, result: Result) -> None:
        """Write the result under the last step that was logged."""
        writer: Any = self.experiment
        for name, value in result.numbers.items():
            writer.add_scalar(name, value)
        writer.add_text("table", result.sheet.markdown())
        if result.figure is not None:
            with Image.open(result.figure) as picture:
                writer.add_image("figure", np.asarray(picture.convert("RGB")), dataformats="HWC")
        if result.video is not None:
            from tensorboard.compat.proto.summary_pb2 import Summary

            size, content = as_gif(result.video)
            image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=content)
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="video", image=image)]))
        writer.flush()

    @rank_zero_only
    def show_report(self, report: Report) -> None:
        """Write its tables as texts and its figures as pictures."""
        writer: Any = self.experiment
        for sheet in report.sheets:
            writer.add_text(sheet.title, sheet.markdown())
        for figure in report.figures:
            with Image.open(io.BytesIO(figure.drawing.png())) as picture:
                writer.add_image(figure.title, np.asarray(picture.convert("RGB")), dataformats="HWC")
        writer.flush()


def as_gif(path: Path) -> tuple[tuple[int, int], bytes]:
    """Width and height, and the bytes, of a video as a GIF: its first frames, made smaller."""
    pictures = []
    with closing(frames_of(path)) as frames:
        for frame in islice(frames, MOST_FRAMES):
            picture = Image.fromarray(frame)
            picture.thumbnail((WIDEST, WIDEST))
            pictures.append(picture.quantize(128))
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0)
    return pictures[0].size, content.getvalue()


def frames_of(path: Path) -> Generator[np.ndarray, None, None]:
    """The frames of a video, uint8 [h, w, 3] each."""
    if path.suffix == ".gif":
        with Image.open(path) as video:
            for frame in ImageSequence.Iterator(video):
                yield np.asarray(frame.convert("RGB"))
        return
    import imageio.v2

    reader: Any = imageio.v2.get_reader(path)
    with closing(reader):
        yield from reader
