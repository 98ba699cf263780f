"""A folder of images with masks, which say of every pixel what it shows.

Images lie in `images/`, masks in `masks/` or `annotations/` under the same name, with
.png at its end; in one such pair of folders or in one to train on and one held out,
named as PATH/train/images or as PATH/images/training (the way of ADE20K).
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from mimjax.data import Part, folder, listing
from mimjax.data.faults import Unusable
from mimjax.data.folder import Folder


class Masked(NamedTuple):
    """Images of one part, without labels, and their masks under the same numbers."""

    images: Folder
    masks: Folder

    @property
    def length(self) -> int:
        return self.images.length

    def path(self, index: int) -> str:
        return self.images.path(index)

    def read(self, index: int) -> tuple[bytes, int]:
        return self.images.read(index)

    def mask(self, index: int) -> bytes:
        """The file of the mask."""
        try:
            return self.masks.read(index)[0]
        except Unusable as error:
            raise Unusable(f"mask {error.reason}") from error


def scan(path: str, part: Part, holdout_fraction: float) -> Masked:
    """Find the images of a part and name their masks, which need not be there."""
    train, test = _parts(path, holdout_fraction)
    return test if part == "test" else train


@functools.lru_cache(maxsize=4)
def _parts(path: str, holdout_fraction: float) -> tuple[Masked, Masked]:
    """Those to train on and those held out."""
    train, *apart = pairs(Path(os.path.expanduser(path)))
    held = apart[0] if apart else train
    found = folder.names(train[0])
    if apart:
        parts = found, folder.names(held[0])
    else:
        parts = folder.share(found, holdout_fraction)
    return _masked(train, parts[0]), _masked(held, parts[1])


def _masked(folders: tuple[Path, Path], names: list[bytes]) -> Masked:
    masks = [os.path.splitext(name)[0] + b".png" for name in names]
    return Masked(folder.listed(folders[0], names), folder.listed(folders[1], masks))


def pairs(top: Path) -> list[tuple[Path, Path]]:
    """Where images and masks are: those to train on and, if they lie apart, held out.

    Nothing where there are no such folders.
    """

    def of(*names: str) -> list[tuple[Path, Path]]:
        kinds = [("images", "masks"), ("images", "annotations")]
        inside = [(top / n / a, top / n / b) for n in names for a, b in kinds]
        across = [(top / a / n, top / b / n) for n in names for a, b in kinds]
        return [pair for pair in inside + across if all(map(Path.is_dir, pair))][:1]

    train, held = of(*listing.TRAIN_NAMES), of(*listing.HELD_OUT_NAMES)
    return train + held if train else of("")


def content_hash(found: Masked) -> str:
    """SHA-256 of what identifies images and masks."""
    both = folder.content_hash(found.images) + folder.content_hash(found.masks)
    return hashlib.sha256(both.encode()).hexdigest()
