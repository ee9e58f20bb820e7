"""LeRobot's data sets, version 3: steps in Parquet, many episodes to a file, and pictures in videos beside them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from data.columns import Array
from data.episode import Episode
from data.readers import EpisodeReader, ReadError, rewards
from data.readers.bounded import MOST_BYTES, check_size, inside, natural, picture
from data.readers.table import Table, column, opened
from elmur.files import read_json

log = logging.getLogger(__name__)
PREFIX = "observation."
FEATURE = re.compile(r"[\w-]+(\.[\w-]+)*")  # never a path
NUMBERS = re.compile(r"(u?int|float)\d+|bool")
MOST_FRAMES = 1 << 20  # of a file, that are looked at on the way to an episode


class LeRobot(EpisodeReader):
    """The episodes of a data set, by number.

    source: its folder, with `meta/info.json`. observation: features to take; null: all `observation.*` of numbers,
    pictures and, where the package av is there, videos. action, reward, terminated: names of columns; reward=null
    stores zeros, which imitation does not read; terminated=null counts every episode as cut short (`next.done` is true
    at the end of each, whatever ended it).
    """

    def __init__(
        self,
        source: Path | str,
        observation: Sequence[str] | None = None,
        action: str = "action",
        reward: str | None = "next.reward",
        terminated: str | None = None,
    ) -> None:
        self.folder = Path(source)
        info = self._info()
        self._fps = float(info["fps"])
        self._features: Mapping[str, Any] = info["features"]
        self._action, self._reward, self._terminated = action, reward, terminated
        self._open: dict[Path, tuple[Table, dict[str, Array]]] = {}
        self._seen = self._chosen(observation)
        self.places = {f"episode {number}": (number, row) for number, row in self._outline().items()}
        if not self.places:
            raise ReadError(f"{self.folder}: expected episodes in meta/episodes, found none")

    def _info(self) -> dict[str, Any]:
        """What meta/info.json says. Raises ReadError where it is not of version 3."""
        path = self.folder / "meta" / "info.json"
        if not path.is_file():
            raise ReadError(f"source={self.folder}: expected a LeRobot data set with meta/info.json, found none")
        try:
            found: Any = read_json(inside(self.folder, path))
            version, fps, features = (found[key] for key in ("codebase_version", "fps", "features"))
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise ReadError(f"{path}: expected JSON with codebase_version, fps and features; found {error}") from error
        if not str(version).startswith("v3"):
            raise ReadError(
                f"{path}: codebase_version: found {str(version)[:20]!r}, expected v3.x; LeRobot converts older ones: "
                "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
            )
        if type(fps) not in (int, float) or not 0 < fps < 1e6 or not isinstance(features, dict):
            raise ReadError(f"{path}: expected a number of pictures a second as fps and a dictionary as features")
        for name, feature in features.items():
            if not FEATURE.fullmatch(name) or not isinstance(feature, dict):
                raise ReadError(f"{path}: features: found {name[:60]!r}, expected names of letters, digits, _ - .")
        return dict(found)

    def _chosen(self, observation: Sequence[str] | None) -> dict[str, str]:
        """The features to take: name -> dtype."""
        names = observation or [name for name in self._features if name.startswith(PREFIX)]
        kinds = {name: str(self._features.get(name, {}).get("dtype", "nothing")) for name in names}
        if kinds and not util.find_spec("av"):
            videos = [name for name, kind in kinds.items() if kind == "video"]
            if videos and observation:
                raise ReadError(f"{videos[0]}: videos need the package av: pip install av")
            if videos:
                log.warning("%s: left out, videos need the package av: pip install av", ", ".join(videos))
            kinds = {name: kind for name, kind in kinds.items() if kind != "video"}
        for name, kind in kinds.items():
            if kind not in ("video", "image") and not NUMBERS.fullmatch(kind):
                raise ReadError(
                    f"{self.folder}: {name}: found {kind[:40]}, expected numbers, image or video; name those to take, "
                    f"reader.observation=[...]"
                )
        if not kinds:
            raise ReadError(f"{self.folder}: expected features {PREFIX}*, found {', '.join(self._features)}")
        return kinds

    def _outline(self) -> dict[int, dict[str, Any]]:
        """Of every episode, by number: where its rows and its pictures lie."""
        videos = [name for name, kind in self._seen.items() if kind == "video"]
        wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        places = ("chunk_index", "file_index", "from_timestamp")
        wanted += [f"videos/{name}/{place}" for name in videos for place in places]
        rows: dict[int, dict[str, Any]] = {}
        for path in sorted(
            (self.folder / "meta" / "episodes").glob("*/*.parquet"), key=lambda p: (natural(p.parent), natural(p))
        ):
            with opened(inside(self.folder, path), wanted) as table:
                found = {key: column(table, (key,)) for key in wanted}
            for i, number in enumerate(found["episode_index"].tolist()):
                rows[int(number)] = {key: values[i].item() for key, values in found.items()}
        return dict(sorted(rows.items()))

    def read(self, place: tuple[int, Mapping[str, Any]]) -> Episode:
        number, row = place
        table, read = self._table(int(row["data/chunk_index"]), int(row["data/file_index"]))
        of = read["episode_index"]
        begin, end = np.searchsorted(of, number, "left"), np.searchsorted(of, number, "right")
        length = int(end - begin)
        if length != row["length"] or length < 1:
            raise ReadError(f"found {length} rows of it in data, expected {row['length']}, as meta/episodes says")

        def values(name: str) -> Array:
            if name not in read:
                read[name] = column(table, (name,))
            return read[name][begin:end]

        seen: dict[str, Array] = {}
        for name, kind in self._seen.items():
            part = re.sub(r"\W", "_", name.removeprefix(PREFIX))
            if kind == "video":
                seen[part] = self._frames(name, row, length)
            elif kind == "image":
                seen[part] = self._pictures(table, name, int(begin), int(end))
            else:
                seen[part] = values(name)
        reward = rewards(self._reward, values)
        ended = False if self._terminated is None else bool(values(self._terminated).reshape(length, -1)[-1].any())
        return Episode.of(seen, values(self._action), reward, terminated=ended)

    def _table(self, chunk: int, file: int) -> tuple[Table, dict[str, Array]]:
        """The rows of a file, and what has been read of it: at first the number of each row's episode."""
        path = self.folder / "data" / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet"
        if path in self._open:
            return self._open[path]
        names = [name for name, kind in self._seen.items() if kind != "video"]
        ends = [name for name in (self._action, self._reward, self._terminated) if name is not None]
        with opened(inside(self.folder, path), [*names, *ends, "episode_index"]) as table:
            of = column(table, ("episode_index",))
        if (np.diff(of) < 0).any():
            raise ReadError(f"{path}: episode_index: found numbers that fall, expected episodes one after another")
        self._open = {path: (table, {"episode_index": of})}  # one at a time: episodes come in its order
        return self._open[path]

    def _shape(self, name: str) -> tuple[int, int, int]:
        """Height, width and channels of a feature of pictures, whichever way it is told."""
        try:
            shape = [int(size) for size in self._features[name]["shape"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ReadError(f"{name}: shape: found {error}, expected three numbers") from error
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MOST_BYTES:
            raise ReadError(f"{name}: shape: found {shape[:5]}, expected height, width and channels")
        return (shape[1], shape[2], shape[0]) if shape[0] in (1, 3) and shape[2] not in (1, 3) else tuple(shape)  # type: ignore[return-value]

    def _pictures(self, table: Table, name: str, begin: int, end: int) -> Array:
        """Pictures in the table itself, uint8 [T, H, W, C]."""
        shape = self._shape(name)
        check_size(name, (end - begin) * math.prod(shape), table.size)
        return np.stack([picture(content, shape) for content in table.contents((name, "bytes"), begin, end)])

    def _frames(self, name: str, row: Mapping[str, Any], length: int) -> Array:
        """Pictures of a video, uint8 [T, H, W, C]."""
        where = [int(row[f"videos/{name}/{place}"]) for place in ("chunk_index", "file_index")]
        path = self.folder / "videos" / name / f"chunk-{where[0]:03d}" / f"file-{where[1]:03d}.mp4"
        shape = self._shape(name)
        check_size(name, length * math.prod(shape), MOST_BYTES)
        return frames(inside(self.folder, path), float(row[f"videos/{name}/from_timestamp"]), length, self._fps, shape)


def frames(path: Path, begin: float, length: int, fps: float, shape: tuple[int, int, int]) -> Array:
    """`length` pictures of a video from `begin` seconds on, uint8 [length, H, W, 3]. Raises ReadError."""
    import av

    pixels, count = np.empty((length, *shape), np.uint8), 0
    try:
        with av.open(str(path), format="mp4", options={"protocol_whitelist": "file"}) as video:
            stream = video.streams.video[0]
            if (stream.codec_context.height, stream.codec_context.width, 3) != shape:
                found = f"{stream.codec_context.height} x {stream.codec_context.width} pixels"
                raise ReadError(f"{path}: found {found}, expected {shape[0]} x {shape[1]} with 3 channels")
            video.seek(max(0, int(begin * av.time_base)))
            for looked, frame in enumerate(video.decode(stream)):
                if looked > MOST_FRAMES or count == length:
                    break
                if frame.time is None or frame.time < begin - 0.5 / fps or (frame.height, frame.width) != shape[:2]:
                    continue
                pixels[count] = frame.to_ndarray(format="rgb24")
                count += 1
    except (av.FFmpegError, IndexError, OverflowError, MemoryError) as error:
        raise ReadError(f"{path}: not a whole video ({' '.join(str(error).split())[:200]})") from error
    if count < length:
        raise ReadError(f"{path}: found {count} pictures from {begin:g} s on, expected {length}")
    return pixels
