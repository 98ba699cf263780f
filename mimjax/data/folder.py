"""A folder of images: found by one scan, sorted, kept as one compact index.

With `train/` (or `training/`) and one of `val/ valid/ validation/ test/` inside, those
are the training and the held-out part; otherwise a hash of each file's relative path
decides. The first level of sub-folders below names the class, unless images lie beside
those folders or there is but one. Which files are images says `listing.py`.
"""

import errno
import functools
import hashlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mimjax.data import Part
from mimjax.data.faults import Unusable, persistent
from mimjax.data.listing import IMAGES, part_folders, walk

MAX_BYTES = 100_000_000  # a larger file counts as bad
SIZES_HASHED = 100_000
# Errors of a link whose target is gone or closed to us.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG)


class Folder(NamedTuple):
    """The images of one part; file number -> path and label."""

    root: str
    names: bytes  # all relative paths, one after another
    ends: Int[np.ndarray, " n"]  # where each of them ends
    labels: Int[np.ndarray, " n"]
    class_names: list[str]
    aside: str = ""  # which held-out images are not used, in words

    @property
    def length(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])])

    def read(self, index: int) -> tuple[bytes, int]:
        """Content and label; raises Unusable."""
        path = os.path.join(self.root, self.path(index))
        return persistent(lambda: content_of(path), OSError), int(self.labels[index])


def content_of(path: str) -> bytes:
    """All of a file, or of one that is too large as much as shows it."""
    try:
        with open(path, "rb") as file:
            # To ask for the most there may be would allocate it for every image.
            large = os.fstat(file.fileno()).st_size > MAX_BYTES
            return file.read(MAX_BYTES + 1 if large else -1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Unusable("missing") from error
    except OSError as error:
        if error.errno in GONE:
            raise Unusable("unreadable") from error
        raise


def scan(path: str, part: Part, holdout_fraction: float) -> Folder:
    """Find the images of a part; the order is that of the sorted paths."""
    train, test = _parts(path, holdout_fraction)
    return test if part == "test" else train


@functools.lru_cache(maxsize=4)
def _parts(path: str, holdout_fraction: float) -> tuple[Folder, Folder]:
    """Those to train on and those held out."""
    train, held = part_folders(Path(os.path.expanduser(path)))
    found, others, aside = names(train), names(held) if held else [], ""
    classes = _classes(found)
    found = _known(found, classes)
    if held is not None and (why := _unfit(others, classes)):
        aside = f"{held.name}/ is left aside and a share of {train.name}/ held out "
        aside, held = f"{aside}(data.holdout_fraction), for {why}", None
    if held is None:
        found, others = share(found, holdout_fraction)
    # A class without a folder to train on cannot be judged; one of which a share has
    # held out every image has its number and stays.
    fit = _known(others, classes)
    if held and (left := len(others) - len(fit)):
        aside = f"{left:,} in {held.name}/ left out: {train.name}/ lacks their class"
    numbers = {os.fsencode(name): number for number, name in enumerate(classes)}

    def part(root: Path, names: list[bytes]) -> Folder:
        labels = [numbers.get(raw.split(b"/", 1)[0], -1) for raw in names]
        return listed(root, names)._replace(
            labels=np.asarray(labels, np.int32), class_names=classes, aside=aside
        )

    return part(train, found), part(held or train, fit)


def _unfit(others: list[bytes], classes: list[str]) -> str:
    """Why held-out images cannot judge what is trained on those classes, if so."""
    if not others:
        return "it holds no image"
    # Labelled images cannot be judged on unlabelled ones.
    if bool(_classes(others)) != bool(classes):
        return "one of them has class folders, not both"
    return "" if _known(others, classes) else "they have no class in common"


def names(root: Path) -> list[bytes]:
    """Relative paths of all files that may be images, sorted."""
    return [os.fsencode(name) for name in walk(root)]


def _classes(names: list[bytes]) -> list[str]:
    """Names of the sub-folders that hold images, [] where they are no classes."""
    known = tuple(os.fsencode(ending) for ending in IMAGES)
    if any(b"/" not in raw and raw.lower().endswith(known) for raw in names):
        return []
    firsts = {raw.split(b"/", 1)[0] for raw in names if b"/" in raw}
    return sorted(map(os.fsdecode, firsts)) if len(firsts) > 1 else []


def _known(names: list[bytes], classes: list[str]) -> list[bytes]:
    """Those in the folders of the classes, all where there are none."""
    folders = {os.fsencode(name) for name in classes}
    return [raw for raw in names if not folders or raw.split(b"/", 1)[0] in folders]


def listed(root: Path, names: list[bytes]) -> Folder:
    """Files of a folder in the order given, without labels."""
    ends = np.cumsum([len(raw) for raw in names], dtype=np.int64)
    labels = np.full(len(names), -1, np.int32)
    return Folder(str(root), b"".join(names), ends, labels, [])


def share(names: list[bytes], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """Those to train on and, by their hash, those held out, where no folder says it.

    At least one is held out of a fraction above 0, and at least one left to train on.
    """

    def rank(raw: bytes) -> tuple[int, bytes]:
        return zlib.crc32(raw), raw

    apart = {raw for raw in names if zlib.crc32(raw) < round(fraction * 2**32)}
    if fraction > 0 and names:
        apart = apart or {min(names, key=rank)}
    if names and len(apart) == len(names):
        apart.remove(max(names, key=rank))
    return [x for x in names if x not in apart], [x for x in names if x in apart]


def content_hash(folder: Folder) -> str:
    """SHA-256 of all paths, and of the sizes of up to 100,000 files evenly spaced."""
    digest = hashlib.sha256(folder.names)
    digest.update(folder.ends.astype("<i8").tobytes())
    for index in spread(folder.length, SIZES_HASHED):
        try:
            size = os.stat(os.path.join(folder.root, folder.path(int(index)))).st_size
        except OSError as error:
            if error.errno not in GONE:
                raise
            size = -1
        digest.update(str(size).encode())
    return digest.hexdigest()


def spread(length: int, limit: int) -> Int[np.ndarray, " n"]:
    """At most `limit` evenly spaced numbers out of [0, length)."""
    count = min(length, limit)
    return np.arange(count) * length // max(count, 1)
