"""A trained model in a notebook: where it lies, its encoder, features of images."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from mimjax import (
    checks,
    config,
    data,
    evaluate,
    origins,
    patches,
    settings,
    train,
    trees,
)
from mimjax.checkpoint import StorageError
from mimjax.convert import files, weights, workdirs
from mimjax.data import given as given_images
from mimjax.evaluate.features import extract
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
        fresh: names of parameters that were not there: those of the encoder have the
            first values of a new run, others are left out of `variables`.
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
    def headless(self) -> list[str]:
        """Names of parameters beside the encoder that were not there."""
        return [name for name in self.fresh if not name.startswith("encoder/")]

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
            or folder that `python -m mimjax.convert` reads, where nothing has to be
            said beside it.

    Raises:
        BadFileError, StorageError, ValueError: it cannot be read, is damaged, or of a
            newer version; the message is one line.
    """
    place = pathlib.Path(path)
    if settings.holds_model(str(place)):
        return of_workdir(place)
    if not place.exists():
        what = "does not exist: name the workdir of a run, or a file of weights"
        raise files.BadFileError(f"{place} {what}")
    if place.is_dir() and not settings.is_file(str(place)):
        names = ", ".join(files.NAMES)
        raise StorageError(f"{place} holds no checkpoint of a run, and none of {names}")
    found = weights.convert([place])
    return complete(found.config.plain(), workdirs.origin(found))


def of_workdir(workdir: pathlib.Path) -> Model:
    """The newest checkpoint of a run, or what a file was made into."""
    given = config.of_workdir(str(workdir)).plain()
    return complete(given, origins.of_workdir(workdir))


def complete(given: config.Config, origin: origins.Origin) -> Model:
    """A model whose encoder is whole: what is missing starts as in a new run."""
    wanted = weights.shapes_of(given)
    there = origin.there | trees.named_leaves({MOVING: origin.moving})
    # What is beside the encoder may depend on another run, which need not be here.
    own = {n: x for n, x in wanted.items() if n[0] == "encoder" and n in there}
    if any(there[n].shape != x.shape for n, x in own.items()):
        what = "the encoder's parameters are not those of its config.json"
        raise StorageError(f"{origin.name}: {what}")
    # Wherever it was trained: one device holds it.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    leaves = origin.load(
        {
            n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)
            for n, x in there.items()
        }
    )
    fresh = [name for name in wanted if name not in there]
    started = tuple(name for name in fresh if name[0] == "encoder")
    if started:
        leaves |= jax.jit(functools.partial(starts_of, given, started))()
    params = trees.nested({n: x for n, x in leaves.items() if n[0] != MOVING})
    moving = trees.nested({n: x for n, x in leaves.items() if n[0] == MOVING})
    names = ["/".join(name) for name in fresh]
    return Model(given, {"params": params, **moving}, names, origin.step)


def starts_of(given: config.Config, names: tuple[tuple[str, ...], ...]) -> trees.Leaves:
    """Some of the parameters of a new run."""
    leaves = trees.named_leaves(train.init_state(given).params)
    return {name: leaves[name] for name in names}


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Multiplies float32 as float32, as the updates and evaluations of a run do.

    By themselves accelerators round the factors (`setup.settle`); whoever has told JAX
    how to multiply is obeyed.
    """
    known: Any = jax.config
    told = known.jax_default_matmul_precision
    with jax.default_matmul_precision(told or "float32"):
        yield


@exactly()
def features(
    model: Model, images: Any, pool: str = "", layers: Sequence[int] | None = None
) -> Float[np.ndarray, "n D"]:
    """One vector for each image, of the frozen encoder, as its run evaluates it.

    Args:
        model: of `load`.
        images: [n, H, W, C] uint8, or any number of images of any size: arrays
            [h, w] or [h, w, 1 to 4] of uint8 or uint16, Pillow images or names of
            files. An array of the encoder's size is taken as it is; everything else as
            a run takes held-out files: 256/224 of that size, then the centre.
        pool: as in `Evaluate`; that of the model's config where it is empty.
        layers: mean of these, from 1 or back from -1, before the last norm; none: what
            comes out of the encoder. As the model's config has it where it is None.

    Returns:
        [n, D] float32.

    Raises:
        ValueError: no images, or one that cannot be used; pool or layers that are none
            of the encoder's. The message is one line.
    """
    mean, std = (tuple(map(float, part)) for part in model.constants)
    how = (model.encoder, (mean, std), *probed(model, pool, layers))
    params, found = jax.device_put(model.params), listed(images)
    size, apply = min(BATCH, len(found)), functools.partial(embed, *how, params)
    parts = [
        extract(apply, prepared(model, found, start, size), size, jax.device_put)
        for start in range(0, len(found), BATCH)
    ]
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def embed(
    encoder: Any,
    constants: tuple[tuple[float, ...], tuple[float, ...]],
    pool: str,
    chosen: tuple[int, ...],
    params: Any,
    images: Any,
) -> jax.Array:
    """Features of a batch [B, H, W, C] uint8; compiled once for an encoder."""
    mean, std = (np.asarray(part, np.float32) for part in constants)
    image = patches.normalise(images, mean, std)
    return encoder.apply({"params": params}, image, pool, chosen, method="features")


def probed(
    model: Model, pool: str, layers: Sequence[int] | None
) -> tuple[str, tuple[int, ...]]:
    """The pool, and the layers counted from 1; ValueError where there are no such."""
    own = model.config.evaluate
    layers = own.layers if layers is None else tuple(layers)
    asked = dataclasses.replace(own, pool=pool or own.pool, layers=layers)
    whole = dataclasses.replace(model.config, evaluate=asked)
    for line in [*evaluate.check(asked), *checks.joint_problems(whole)]:
        field = line.removeprefix("config.evaluate.")
        if field.startswith(("pool", "layers")):
            raise ValueError(field)
    return asked.pool, model.encoder.numbered(asked.layers)


def listed(images: Any) -> list[Any]:
    """The images one by one; ValueError where they are none, or one alone."""
    shape = getattr(images, "shape", None)
    if isinstance(images, str | os.PathLike | Image.Image):
        raise ValueError("this is one image: give a list of them")
    if shape is not None and len(shape) != 4:
        raise ValueError(f"one array of images is [n, H, W, C], not {tuple(shape)}")
    found = list(images if shape is None else np.asarray(images))
    if not found:
        raise ValueError("no images to take features of")
    return found


def prepared(model: Model, images: list[Any], start: int, size: int) -> np.ndarray:
    """Some of the images, [at most size, H, W, C] uint8."""
    encoder, rows = model.encoder, []
    for number, image in enumerate(images[start : start + size], start):
        name = f" ({image})" if isinstance(image, str | os.PathLike) else ""
        size_of, channels = encoder.image_size, encoder.channels
        try:
            row = given_images.prepared(image, model.config.data, size_of, channels)
        except ValueError as error:
            raise ValueError(f"image {number}{name}: {error}") from None
        rows.append(row)
    return np.stack(rows)
