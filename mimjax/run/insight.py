"""Pictures of what an encoder sees: asked on all devices, drawn by one process.

Nothing here touches the training state or its random streams.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from mimjax import data, patches, sharding
from mimjax.config import Config
from mimjax.evaluate import Interrupted, components, features, maps, neighbours
from mimjax.report import pictures, sights

# Images of a sheet; and of those of attention, which have two columns for each.
ROWS, FEW = 8, 4
# Images whose neighbours are shown, and how many of these.
ASKED, NEAREST = 6, 7


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers below `count`, evenly chosen, first and last."""
    return np.unique(np.linspace(0, count - 1, most).astype(int))


def drawable(values: np.ndarray, what: str) -> bool:
    """Whether all are numbers; one line says where they are not."""
    good = bool(np.isfinite(values).all())
    if not good:
        print(f"{what}: no picture, for not all is finite", file=sys.stderr)
    return good


@dataclasses.dataclass
class Insight:
    """How the encoder of a config is asked on a mesh, and its answers drawn.

    Attributes:
        mean, std: constants of its images, a number a channel.
        should_stop: asked between pictures, equally often on every process.
    """

    config: Config
    mean: Any
    std: Any
    mesh: jax.sharding.Mesh
    should_stop: Callable[[], bool]

    def pause(self) -> None:
        """Ends the pictures where that is asked for."""
        if self.should_stop():
            raise Interrupted

    def compiled(self, function: Any) -> Any:
        """A function of parameters and images; its results are whole on all devices.

        The images come as uint8 and are normalised.
        """

        def of(params: Any, images: Array) -> Any:
            return function(params, patches.normalise(images, self.mean, self.std))

        return jax.jit(of, out_shardings=sharding.replicated(self.mesh))

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that features are taken from, counted from 1."""
        return self.config.encoder.numbered(self.config.evaluate.layers)

    def colours(self, images: np.ndarray) -> UInt8[np.ndarray, "B H W 3"]:
        """Some uint8 images of any channels as colours."""
        channels = images.shape[-1]
        return pictures.to_uint8(images / 255, (0.0,) * channels, (1.0,) * channels)

    def inside(
        self, params: Any, images: np.ndarray, folder: pathlib.Path, when: str
    ) -> None:
        """Attention maps, and components of patch tokens.

        Image by image: attention of all layers and heads takes much memory.
        """
        self.pause()
        encoder = self.config.encoder
        chosen = maps.chosen_layers(encoder)

        def seen(params: Any, image: Array) -> Any:
            tokens = maps.patch_tokens(encoder, params, image, self.layers)
            found = maps.layer_maps(encoder, params, image, chosen) if chosen else []
            return found, tokens

        ask = self.compiled(seen)
        images = images[spread(len(images), ROWS)]
        answers = [
            jax.device_get(ask(params, sharding.copied(image[None], self.mesh)))
            for image in images
        ]
        if jax.process_index():
            return
        shown = self.colours(images)
        few = spread(len(images), FEW)
        for number, layer in enumerate(chosen):
            found = [answers[n][0][number] for n in few]
            heads, query = (np.concatenate(part) for part in zip(*found, strict=True))
            name = f"attention of layer {layer}"
            if not drawable(np.stack([heads, query]), name):
                continue
            sights.attention(
                shown[few],
                heads,
                query,
                maps.middle(heads.shape[2:]),
                folder / f"attention_layer_{layer:02d}.png",
                title=f"{name} of {chosen[-1]}, {when}",
                asks="class token" if encoder.cls else "mean of patches",
                elsewhere=encoder.num_prefix,
            )
        tokens = np.concatenate([tokens for _, tokens in answers])
        if not drawable(tokens, "components"):
            return
        values, shares = components.project(tokens.reshape(-1, tokens.shape[-1]))
        grid = encoder.grid_of(tokens.shape[1])
        sights.components(
            shown,
            values.reshape(len(images), *grid, 3),
            shares,
            folder / "components.png",
            title=f"principal components of the patches, {when}",
        )

    def alike(
        self,
        params: Any,
        images: np.ndarray,
        labels: np.ndarray,
        folder: pathlib.Path,
        when: str,
    ) -> None:
        """Some images and those nearest to them; a label of -1 is none."""
        if len(images) < 2:
            return
        self.pause()
        encoder, wanted = self.config.encoder, self.config.evaluate

        def embed(params: Any, image: Array) -> Any:
            how = image, wanted.pool, self.layers
            return encoder.apply({"params": params}, *how, method="features")

        ask, shared = self.compiled(embed), sharding.shares(self.mesh)
        size = -(-min(wanted.batch_size, len(images)) // shared) * shared
        found = features.extract(
            lambda rows: ask(params, rows),
            images,
            size,
            lambda rows: sharding.dealt(rows, self.mesh),
            self.should_stop,
        )
        if jax.process_index() or not drawable(found, "neighbours"):
            return
        asked = spread(len(images), ASKED)
        near, cosines = neighbours.nearest(found, asked, min(NEAREST, len(images) - 1))
        rows = np.concatenate([asked[:, None], near], axis=1)
        drawn, places = np.unique(rows, return_inverse=True)
        places = places.reshape(rows.shape)
        known = data.class_names(self.config.data) if labels.max() >= 0 else []
        sights.neighbours(
            self.colours(images[drawn]),
            places[:, 0],
            places[:, 1:],
            cosines,
            [known[label] if label >= 0 else "" for label in labels[drawn]],
            folder / "neighbours.png",
            title=f"nearest among {len(images):,} images, {when}",
        )
