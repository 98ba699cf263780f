"""A folder of images: found by one scan, sorted, kept as one compact index.

With `train/` and one of `val/ valid/ validation/ test/` inside, those are the training
and the held-out part; otherwise a hash of each file's relative path decides. The first
level of sub-folders below names the class, unless images lie beside those folders or
there is but one. Hidden files, and files whose names end as texts, tables or archives
do, are no images; what the others are, their bytes say.
"""

import functools
import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from mimjax.data.faults import Unusable

HELD_OUT_NAMES = ("val", "valid", "validation", "test")
# fmt: off
NOT_IMAGES = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml",
    ".html", ".pdf", ".py", ".log", ".npy", ".npz", ".mat", ".pkl", ".parquet", ".db",
    ".zip", ".tar", ".gz", ".tgz", ".7z", ".bz2", ".xz", ".sha256", ".md5",
)
# fmt: on
RETRY_SECONDS = (0.05, 0.2, 0.8, 2.0)
SIZES_HASHED = 100_000


class Folder(NamedTuple):
    """The images of one part; file number -> path and label."""

    root: str
    names: bytes  # all relative paths, one after another
    ends: Int[np.ndarray, " n"]  # where each of them ends
    labels: Int[np.ndarray, " n"]
    class_names: list[str]
    aside: str = ""  # the folder of held-out images that is not used

    @property
    def length(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])])

    def read(self, index: int) -> tuple[bytes, int]:
        """Content and label; a failing store is asked again before giving up."""
        path = os.path.join(self.root, self.path(index))
        for pause in (*RETRY_SECONDS, None):
            try:
                with open(path, "rb") as file:
                    return file.read(), int(self.labels[index])
            except (FileNotFoundError, IsADirectoryError) as error:
                raise Unusable("missing") from error
            except OSError as error:
                if pause is None or isinstance(error, PermissionError):
                    raise Unusable("unreadable") from error
                time.sleep(pause)
        raise AssertionError("unreachable")


@functools.lru_cache(maxsize=4)
def scan(path: str, part: Literal["train", "test"], holdout_fraction: float) -> Folder:
    """Find the images of a part; the order is that of the sorted paths."""
    top = Path(path).expanduser()
    train, held = part_folders(top)
    classes, aside = _classes(train), ""
    if held is not None and bool(_classes(held)) != bool(classes):
        # Labelled images cannot be judged on unlabelled ones.
        aside, held = held.name, None
    root = held if part == "test" and held is not None else train
    found = [os.fsencode(name) for name in walk(root)]
    if held is None:
        found = share(found, part, holdout_fraction)
    if not classes:
        return listed(root, found)._replace(aside=aside)
    numbers = {os.fsencode(name): number for number, name in enumerate(classes)}
    # A class that is not trained on cannot be judged.
    found = [raw for raw in found if raw.split(b"/", 1)[0] in numbers]
    labels = [numbers[raw.split(b"/", 1)[0]] for raw in found]
    return listed(root, found)._replace(
        labels=np.asarray(labels, np.int32), class_names=classes, aside=aside
    )


def listed(root: Path, names: list[bytes]) -> Folder:
    """Files of a folder in the order given, without labels."""
    ends = np.cumsum([len(raw) for raw in names], dtype=np.int64)
    labels = np.full(len(names), -1, np.int32)
    return Folder(str(root), b"".join(names), ends, labels, [])


def share(
    names: list[bytes], part: Literal["train", "test"], fraction: float
) -> list[bytes]:
    """Those of a part where no folder of its own is held out."""
    apart = _held_out(names, fraction)
    return [raw for raw in names if (raw in apart) == (part == "test")]


def _held_out(names: list[bytes], fraction: float) -> set[bytes]:
    """The names whose hash falls into the fraction; at least one if it is above 0.

    At least one is left to train on as well.
    """
    ranked = sorted(names, key=lambda raw: (zlib.crc32(raw), raw))
    count = sum(zlib.crc32(raw) < round(fraction * 2**32) for raw in names)
    return set(ranked[: min(max(count, fraction > 0), len(names) - 1)])


def walk(root: Path, inside: str = "", seen: tuple[str, ...] = ()) -> Iterator[str]:
    """Relative paths, with `/`, of all files that may be images, sorted.

    Links are followed; a folder linked into itself is entered once.
    """
    here = os.path.realpath(root / inside)
    if here in seen:
        return
    with os.scandir(root / inside) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk(root, f"{inside}{entry.name}/", (*seen, here))
        elif not entry.name.lower().endswith(NOT_IMAGES):
            yield inside + entry.name


def content_hash(folder: Folder) -> str:
    """SHA-256 of all paths, and of the sizes of up to 100,000 files evenly spaced."""
    digest = hashlib.sha256(folder.names)
    digest.update(folder.ends.astype("<i8").tobytes())
    for index in spread(folder.length, SIZES_HASHED):
        path = Path(folder.root, folder.path(int(index)))
        digest.update(str(path.stat().st_size if path.exists() else -1).encode())
    return digest.hexdigest()


def spread(length: int, limit: int) -> Int[np.ndarray, " n"]:
    """At most `limit` evenly spaced numbers out of [0, length)."""
    count = min(length, limit)
    return np.arange(count) * length // max(count, 1)


def part_folders(top: Path) -> tuple[Path, Path | None]:
    """Where the training images and, if they lie apart, the held-out ones are."""
    if not (top / "train").is_dir():
        return top, None
    others = [top / name for name in HELD_OUT_NAMES if (top / name).is_dir()]
    return top / "train", others[0] if others else None


def _classes(root: Path) -> list[str]:
    """Names of the sub-folders that hold images, [] where they are no classes."""
    found = []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if not entry.name.lower().endswith(NOT_IMAGES):
                return []
        elif next(walk(root, entry.name + "/"), None) is not None:
            found.append(entry.name)
    return found if len(found) > 1 else []
