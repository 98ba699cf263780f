"""Encoders that turn an image into tokens of a finite vocabulary.

Each is an encoder like those of `mimjax/backbones` (the contract is there). It is
trained by the objective of the same name, which has `num_codes`, the size of the
vocabulary, `tokens(image)` -> ids [B, N] and `decode(ids)` -> pixels; and then used,
frozen, by objectives that predict tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mimjax import frozen, patches


def read_and_drawn(objective: Any, image: Array) -> None:
    """All that is ever asked of a tokenizer."""
    objective.decode(objective.tokens(image))


class Predicted:
    """What objectives share that predict the tokens of a frozen tokenizer.

    Their field `tokenizer` is the model of another run; their variable of that name
    holds its parameters.
    """

    encoder: Any
    tokenizer: Any

    @property
    def teacher(self) -> frozen.Model:
        """The tokenizer, where it can be at the size that gives a token a patch.

        What stands in for one can.
        """
        model = self.tokenizer
        if model.workdir and not getattr(model.objective, "any_size", False):
            return model
        cell, grid = model.objective.encoder.cell, self.encoder.grid
        size = grid[0] * cell[0], grid[1] * cell[1]
        # What stands in for one takes what there is.
        colours = {} if model.workdir else {"channels": self.encoder.channels}
        encoder = model.objective.encoder.clone(image_size=size, **colours)
        resized = model.objective.clone(encoder=encoder)
        return dataclasses.replace(model, objective=resized)

    @property
    def view_size(self) -> tuple[int, int]:
        """The size the tokenizer is shown; (0, 0) if it is that of the image."""
        if self.tokenizer is None:
            return 0, 0
        size = self.teacher.objective.encoder.image_size
        return (0, 0) if size == self.encoder.image_size else size

    def tokenizer_problems(self) -> list[str]:
        """What cannot work with the tokenizer, one line each."""
        if not hasattr(self.tokenizer.objective, "num_codes"):
            return [f"tokenizer: {self.tokenizer.workdir} is no run of a tokenizer"]
        theirs, ours = self.teacher.objective.encoder, self.encoder
        found = []
        if theirs.channels != ours.channels:
            found.append(
                f"tokenizer: it takes {theirs.channels} channels, not the "
                f"{ours.channels} of config.encoder.channels"
            )
        if theirs.grid != ours.grid:
            found.append(
                f"tokenizer: it makes {theirs.grid} tokens of an image, not the "
                f"{ours.grid} that image_size and patch_size make"
            )
        return found

    def tokens(self, batch: dict[str, Array]) -> Int[Array, "B N"]:
        """The tokenizer's token for every patch."""
        pixels = batch["view"] if any(self.view_size) else batch["pixels"]
        pixels = self.teacher.normalised(pixels)
        return self.teacher.ask(self, "tokenizer", "tokens", pixels)

    def drawn(
        self,
        batch: dict[str, Array],
        hidden: Bool[Array, "B N"],
        guess: Int[Array, "B N"],
    ) -> dict[str, Array]:
        """Panels of pixels: original, visible, and drawn from true and guessed tokens.

        Guesses count at hidden places alone.
        """
        pixels = batch["pixels"]
        cut = self.encoder.image_size, self.encoder.patch_size
        values = patches.patchify(pixels, self.encoder.patch_size)
        masked = jnp.where(hidden[:, :, None], 0.5, values)
        shown = {"original": pixels, "masked": patches.unpatchify(masked, *cut)}
        tokens = self.tokens(batch)
        mixed = jnp.where(hidden, guess, tokens)
        for name, ids in (("tokens", tokens), ("predicted", mixed)):
            image = self.teacher.ask(self, "tokenizer", "decode", ids)
            shown[name] = jax.image.resize(image, pixels.shape, "nearest")
        return shown
