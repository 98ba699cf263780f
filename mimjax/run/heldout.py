"""The images that a run is judged by, the same at every evaluation."""

import pathlib
import zlib
from collections.abc import Callable

import jax
import numpy as np

from mimjax import data, evaluate
from mimjax.config import Config
from mimjax.data.faults import BadDataError
from mimjax.hosts.agree import same

# The seed of held-out masks, the same in every run so that losses can be compared.
MASKS = 0


def read(
    config: Config, workdir: pathlib.Path, should_stop: Callable[[], bool]
) -> dict[str, tuple[np.ndarray, ...]]:
    """Labelled images to learn from ("probe_train") and held-out ones ("test").

    The former only where there are labels; masks where the objective asks for them
    (`mask_values`). Raises evaluate.Interrupted when asked to
    stop, and BadDataError where one process could not read what others could.
    """
    encoder, wanted = config.encoder, config.evaluate
    limits: dict[data.Split, int] = {
        "probe_train": wanted.train_images,
        "test": wanted.test_images,
    }
    classes = data.labelled(config.data)
    found = {
        split: data.held_out(
            config.data,
            image_size=encoder.image_size,
            channels=encoder.channels,
            split=split,
            limit=limit,
            mask_values=config.mask_values,
            should_stop=should_stop,
            # Every process reads the same; one writes down what it could not.
            workdir=workdir if jax.process_index() == 0 else None,
        )
        for split, limit in limits.items()
        if split == "test" or classes
    }
    if should_stop():
        raise evaluate.Interrupted
    seen = 0
    for array in (array for arrays in found.values() for array in arrays):
        seen = zlib.crc32(array.data, seen)
    if not same(seen):
        raise BadDataError("the processes did not read the same held-out images")
    return found
