"""A trained model in a notebook: where it lies, its encoder, features of images."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from mimjax import config, data, origins, patches, settings, train, trees
from mimjax.checkpoint import StorageError
from mimjax.convert import weights
from mimjax.objectives import MOVING

BATCH = 64  # images at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What a run has trained, or a file of another project holds.

    It unpacks as `encoder, params`: the Flax module and its parameters, ready for
    `encoder.apply({"params": params}, tokens)` with the tokens of `embed`.

    Attributes:
        config: of the run, or what the file tells.
        variables: of the whole objective: "params" (averaged, where the run has that),
            and what moves beside them.
        fresh: names of parameters that were not there and have their first values.
        step: updates it has seen.
    """

    config: config.Config
    variables: dict[str, Any]
    fresh: list[str]
    step: int

    @property
    def encoder(self) -> Any:
        """The Flax module."""
        return self.config.encoder

    @property
    def params(self) -> Any:
        """Its parameters."""
        return self.variables["params"]["encoder"]

    @property
    def constants(self) -> tuple[Any, Any]:
        """Mean and deviation that its images are normalised by, a channel each."""
        return data.normalise_constants(self.config.data, self.encoder.channels)

    def __iter__(self) -> Iterator[Any]:
        yield self.encoder
        yield self.params


def load(path: str | pathlib.Path) -> Model:
    """The model in a workdir, or in a file or folder of another project.

    Args:
        path: the workdir of a run, of which the newest checkpoint is taken; or a file
            that `python -m mimjax.convert` reads.

    Raises:
        BadFileError, StorageError: it cannot be read; the message is one line.
    """
    place = pathlib.Path(path)
    if settings.holds_model(str(place)):
        return of_workdir(place)
    found = weights.convert([place])
    there = {name: part.like for name, part in found.parts.items()}
    return complete(found.config, there, weights.origin(found).load, 0)


def of_workdir(workdir: pathlib.Path) -> Model:
    """The newest checkpoint of a run, or what a file was made into."""
    origin = origins.of_workdir(workdir)
    there = origin.there | trees.named_leaves({MOVING: origin.moving})
    return complete(config.of_workdir(str(workdir)), there, origin.load, origin.step)


def complete(given: config.Config, there: trees.Leaves, load: Any, step: int) -> Model:
    """A model whose missing parameters start as those of a new run do."""
    wanted = weights.shapes_of(given)
    if any(there[n].shape != x.shape for n, x in wanted.items() if n in there):
        raise StorageError("its parameters are not those of its config.json")
    fresh = [name for name in wanted if name not in there]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaves = load(
        {
            n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
            for n, x in wanted.items()
            if n in there
        }
    )
    if fresh:
        leaves |= jax.jit(functools.partial(starts_of, given, tuple(fresh)))()
    params = trees.nested({n: x for n, x in leaves.items() if n[0] != MOVING})
    moving = trees.nested({n: x for n, x in leaves.items() if n[0] == MOVING})
    names = ["/".join(name) for name in fresh]
    return Model(given, {"params": params, **moving}, names, step)


def starts_of(given: config.Config, names: tuple[tuple[str, ...], ...]) -> trees.Leaves:
    """Some of the parameters of a new run."""
    state = train.init_state(given)
    moving = {MOVING: (state.frozen or {}).get(MOVING, {})}
    leaves = trees.named_leaves(state.params) | trees.named_leaves(moving)
    return {name: leaves[name] for name in names}


def features(
    model: Model, images: Any, pool: str = "", layers: Sequence[int] | None = None
) -> Float[np.ndarray, "n D"]:
    """One vector for each image, of the frozen encoder.

    Args:
        model: of `load`.
        images: [n, H, W, C] uint8, or a sequence of such images of any size, Pillow
            images or names of files. They are scaled to cover the encoder's image size
            and cut to it at the centre.
        pool: "mean", "max" or "cls"; as the model's config has it where it is empty.
        layers: mean of these, from 1 or back from -1, before the last norm; none: what
            comes out of the encoder. As the model's config has it where it is None.

    Returns:
        [n, D] float32.
    """
    evaluate, encoder = model.config.evaluate, model.encoder
    pool = pool or evaluate.pool
    chosen = evaluate.layers if layers is None else tuple(layers)
    after = len(encoder.layer_widths) + 1
    chosen = tuple(layer % after for layer in chosen)  # -1 is the last

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        image = patches.normalise(batch, *model.constants)
        variables, method = {"params": params}, "features"
        return encoder.apply(variables, image, pool, chosen, method=method)

    parts = []
    for start in range(0, len(images), BATCH):
        batch = [
            pixels(image, encoder.image_size, encoder.channels)
            for image in images[start : start + BATCH]
        ]
        parts.append(np.asarray(run(model.params, np.stack(batch))))
    if not parts:
        raise ValueError("no images to take features of")
    return np.concatenate(parts)


def pixels(image: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    """An image, whatever it is given as, as uint8 [*size, channels]."""
    if isinstance(image, np.ndarray) and image.shape == (*size, channels):
        return image
    if isinstance(image, str | pathlib.Path):
        image = ImageOps.exif_transpose(Image.open(image))
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image).squeeze())
    image = image.convert("L" if channels == 1 else "RGB")
    # Pillow has the width first.
    cut = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(cut).reshape(*size, channels)
