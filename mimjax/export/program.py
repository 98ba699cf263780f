"""The encoder as a program: StableHLO, for any JAX without this package."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mimjax import models, patches
from mimjax.convert import writing
from mimjax.convert.files import read
from mimjax.metrics import replacing
from mimjax.objectives import MOVING
from mimjax.trees import named_leaves, nested

LAYOUT, NAME = "stablehlo", "encoder.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


@models.exactly()
def write(model: models.Model, out: pathlib.Path) -> None:
    """The program and its weights.

    It is called with the weights by name and images [b, H, W, C] uint8, and returns
    {"tokens": [b, T, D] after the last norm, "features": [b, D]} in float32 (pool and
    layers as the config evaluates them), and "logits" of a classifier. The weights stay
    outside, for a program is at most 2 GB.
    """
    arrays, encoder = weights_of(model), model.encoder
    (b,) = export.symbolic_shape("b")
    size = (b, *encoder.image_size, encoder.channels)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
    answer = jax.jit(functools.partial(answers, model))
    exported = export.export(answer, platforms=PLATFORMS)(
        shapes, jax.ShapeDtypeStruct(size, jnp.uint8)
    )
    with replacing(out / NAME) as temporary:
        temporary.write_bytes(exported.serialize())
    writing.write(out / "model.safetensors", arrays, arrays.__getitem__)


def answers(model: models.Model, flat: dict[str, Any], images: Any) -> dict[str, Any]:
    """What the program computes."""
    params = nested({tuple(name.split("/")): x for name, x in flat.items()})
    moving = params.pop(MOVING, {})
    image = patches.normalise(images, *model.constants)
    encoder, wanted = model.encoder, model.config.evaluate
    bound, layers = {"params": params["encoder"]}, encoder.numbered(wanted.layers)
    found = {
        "tokens": tokens_of(encoder, bound, image),
        "features": encoder.apply(bound, image, wanted.pool, layers, method="features"),
    }
    if "head" in params:
        whole, method = {"params": params, MOVING: moving}, "logits"
        found["logits"] = model.config.objective.apply(whole, image, method=method)
    return found


def ours(model: models.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What it computes here."""
    found = jax.jit(functools.partial(answers, model))(weights_of(model), images)
    return {name: np.asarray(x) for name, x in found.items()}


def run(folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What it computes from the folder alone."""
    exported = export.deserialize(bytearray((folder / NAME).read_bytes()))
    found: Any = exported.call(read(folder / "model.safetensors"), images)
    return {name: np.asarray(x) for name, x in found.items()}


def tokens_of(encoder: Any, variables: Any, image: Any) -> Any:
    """What the encoder gives for images, float32."""
    tokens = encoder.apply(variables, image, method="embed")
    return encoder.apply(variables, tokens).astype(jnp.float32)


def weights_of(model: models.Model) -> dict[str, np.ndarray]:
    """The encoder's parameters by name; of a classifier all, and what moves."""
    variables = dict(model.variables)
    params = variables.pop("params")
    params = {**params, **variables}
    if not hasattr(model.config.objective, "logits"):
        params = {"encoder": params["encoder"]}
    leaves = named_leaves(params)
    return {"/".join(name): np.asarray(x) for name, x in leaves.items()}


def left_out(model: models.Model) -> list[str]:
    """The parameters that do not serve the encoder."""
    whole = named_leaves(model.variables["params"])
    return sorted({"/".join(name) for name in whole} - weights_of(model).keys())
