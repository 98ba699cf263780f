"""The images that a run is judged by, the same at every evaluation."""

import pathlib
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from mimjax import data, evaluate
from mimjax.config import Config
from mimjax.data.faults import BadDataError
from mimjax.hosts.agree import same

# The seed of held-out masks, the same in every run so that losses can be compared.
MASKS = 0


def blocks(
    config: Config,
    split: data.Split,
    workdir: pathlib.Path,
    should_stop: Callable[[], bool],
    size: int,
    probing: bool = False,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Images to learn from ("probe_train") or held-out ones ("test"), and their labels.

    So many at a time, or all. With the latter masks where the objective asks for them
    (`mask_values`), if they are not for `probing` the encoder alone. Raises
    evaluate.Interrupted when asked to stop, and BadDataError where one process could
    not read what others could.
    """
    encoder = config.encoder
    found = data.held_out(
        config.probed if probing else config.data,
        image_size=encoder.image_size,
        channels=encoder.channels,
        split=split,
        limit=limit(config, split),
        size=size,
        mask_values=0 if probing else config.mask_values,
        should_stop=should_stop,
        # Every process reads the same; one writes down what it could not.
        workdir=workdir if jax.process_index() == 0 else None,
    )
    for arrays in found:
        if should_stop():
            raise evaluate.Interrupted
        seen = 0
        for array in arrays:
            seen = zlib.crc32(array.data, seen)
        agreed(seen)
        yield arrays
    agreed(zlib.crc32(b"no more"))


def agreed(seen: int) -> None:
    """Raises BadDataError where another process has seen something else."""
    if not same(seen):
        raise BadDataError("the processes did not read the same held-out images")


def counted(config: Config, batch: dict[str, np.ndarray]) -> int:
    """How many of the held-out images count for what finds classes: those of one.

    Raises BadDataError where there are none.
    """
    labels = batch["label"]
    count = len(labels) if config.mask_values else int(np.sum(labels >= 0))
    if not count:
        name = config.values["objective"]["name"]
        raise BadDataError(
            f"config.data.source: no held-out image of {config.data.source} has a "
            f"class, by which objective {name!r} is judged; name another split, or set "
            "config.eval_every to 0"
        )
    return count


def limit(config: Config, split: data.Split) -> int:
    """How many of them there are at most."""
    wanted = config.evaluate
    return wanted.test_images if split == "test" else wanted.train_images


def read(
    config: Config,
    split: data.Split,
    workdir: pathlib.Path,
    should_stop: Callable[[], bool],
    probing: bool = False,
) -> tuple[np.ndarray, ...]:
    """All of them at once, as `blocks` has them."""
    return next(blocks(config, split, workdir, should_stop, 0, probing))
