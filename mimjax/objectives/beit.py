"""BEiT: predict the visual tokens of hidden blocks of patches.

Bao et al., arXiv 2106.08254; official code microsoft/unilm beit
`modeling_pretrain.py`, `engine_for_pretraining.py`, `masking_generator.py`. The tokens
are those that a frozen tokenizer, trained by another run, sees in a second view of the
same crop. The loss is the mean over all hidden patches of the batch (with
config.optim.accumulate the mean of that over the parts), officially over those of each
GPU.
"""

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mimjax import frozen, masking, patches, tokenizers
from mimjax.backbones import layers, starts, vit
from mimjax.objectives import dvae
from mimjax.reductions import place_of_largest
from mimjax.tokenizers.dvae import Encoder

SAMPLING = ("block", "random")


def stand_in(codes: int) -> frozen.Model:
    """A tokenizer that is named nowhere, of so many codes."""
    return frozen.Model(dvae.Objective(Encoder(num_codes=codes)), (0.0,), (1.0,))


# What stands in until a tokenizer is named: the sizes of the public one of DALL-E.
PUBLIC = stand_in(8192)


class Objective(tokenizers.Predicted, nn.Module):
    """`tokenizer` is, in a config, the workdir of the run that trained it.

    At most `num_hidden` patches are hidden, in blocks of `min_block` patches or more
    (arXiv 2106.08254, section 2.3: 75 of 196 and 16), or exactly so many anywhere, with
    `sampling` "random" (table 4: "w/o blockwise masking").
    """

    encoder: vit.Encoder
    tokenizer: frozen.Model = PUBLIC
    num_hidden: int = 75
    min_block: int = 16
    sampling: str = "block"

    panel_note = (
        "tokens: what the tokenizer makes of the whole image; visible patches of the "
        "last column are drawn from their true tokens"
    )
    draws_pixels = True
    encoder_note = "beit's blocks and bias tables are on a grid of patches"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        encoder, found = self.encoder, []
        if not 1 <= self.num_hidden < encoder.num_tokens:
            found.append(
                f"num_hidden: {self.num_hidden} must be from 1 to less than the "
                f"{encoder.num_tokens} patches that image_size and patch_size make"
            )
        blocks = self.sampling == "block"
        if blocks and not 1 <= self.min_block <= max(1, self.num_hidden):
            found.append(
                f"min_block: {self.min_block} must be from 1 to num_hidden "
                f"({self.num_hidden})"
            )
        elif blocks and not masking.block_fits(self.min_block, encoder.grid):
            rows, columns = encoder.grid
            found.append(
                f"min_block: no block of {self.min_block} patches lies within "
                f"{rows} x {columns} (use a smaller one, or sampling='random')"
            )
        if self.sampling not in SAMPLING:
            known = ", ".join(SAMPLING)
            found.append(f"sampling: {self.sampling!r} is none of {known}")
        return found + self.tokenizer_problems()

    def setup(self) -> None:
        start = starts.STARTS[self.encoder.start]
        shape = (1, 1, self.encoder.width)
        self.mask_token = starts.param(self, "mask_token", start.cls, shape)
        self.head = layers.Dense(
            (self.teacher.objective.num_codes,),
            start.dense,
            dtype=self.encoder.dtype,
            rounds=False,
        )
        self.teacher.declare(self, "tokenizer", tokenizers.read_and_drawn)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        hidden = self.draw(batch["image"].shape[0])
        logits = self.predict(batch["image"], hidden, train=train)
        tokens = self.tokens(batch)
        target, counted = self.targets(tokens, hidden)
        right = (place_of_largest(logits) == target).astype(jnp.float32)
        metrics = {"accuracy": masking.masked_mean(right, counted)}
        return self.loss(tokens, logits, hidden), metrics

    def draw(self, batch: int) -> Bool[Array, "B N"]:
        """Which patches of each image are hidden."""
        encoder, key, most = self.encoder, self.make_rng("mask"), self.num_hidden
        if self.sampling == "random":
            return masking.random_order(key, batch, encoder.num_tokens) < most
        return masking.block_wise(key, batch, encoder.grid, most, self.min_block)

    def predict(
        self,
        image: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"],
        *,
        train: bool = False,
    ) -> Float[Array, "B M V"]:
        """Scores of the vocabulary at the first `num_hidden` places, hidden ones first.

        So the widest matrix product is made for hidden patches alone.
        """
        return self.scores(
            self.encoder(self.masked(image, hidden), train=train), hidden
        )

    def masked(
        self, image: Float[Array, "B H W C"], hidden: Bool[Array, "B N"]
    ) -> Float[Array, "B N D"]:
        """Patch embeddings, the mask token in place of hidden ones."""
        return patches.masked(self.encoder.embed(image), hidden, self.mask_token)

    def scores(
        self, x: Float[Array, "B T D"], hidden: Bool[Array, "B N"]
    ) -> Float[Array, "B M V"]:
        """Of the vocabulary, from what the encoder makes of the tokens."""
        ids = masking.first_ids(hidden, self.num_hidden)
        return self.head(masking.take(self.encoder.patch_tokens(x), ids))

    def targets(
        self, tokens: Int[Array, "B N"], hidden: Bool[Array, "B N"]
    ) -> tuple[Int[Array, "B M"], Bool[Array, "B M"]]:
        """The tokens at the places predicted, and which of them are hidden."""
        ids = masking.first_ids(hidden, self.num_hidden)
        target = jnp.take_along_axis(tokens, ids, axis=1)
        return target, jnp.take_along_axis(hidden, ids, axis=1)

    def loss(
        self,
        tokens: Int[Array, "B N"],
        logits: Float[Array, "B M V"],
        hidden: Bool[Array, "B N"],
    ) -> Float[Array, ""]:
        """Mean cross-entropy over the hidden patches of the whole batch."""
        target, counted = self.targets(tokens, hidden)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        return masking.masked_mean(losses, counted)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """The cross-entropy of every hidden patch."""
        hidden = self.draw(batch["image"].shape[0])
        logits = self.predict(batch["image"], hidden)
        return self.placed(self.tokens(batch), logits, hidden)

    def placed(
        self,
        tokens: Int[Array, "B N"],
        logits: Float[Array, "B M V"],
        hidden: Bool[Array, "B N"],
    ) -> Float[Array, "B N"]:
        """Cross-entropies where they belong, NaN at visible patches."""
        target, counted = self.targets(tokens, hidden)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        ids = masking.first_ids(hidden, self.num_hidden)
        return masking.placed(losses, ids, counted, self.encoder.num_tokens)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, visible patches and, from tokens, what was there and predicted."""
        hidden = self.draw(batch["image"].shape[0])
        ids = masking.first_ids(hidden, self.num_hidden)
        guess = self.predict(batch["image"], hidden).argmax(axis=-1)
        rows = jnp.arange(len(ids))[:, None]
        every = jnp.zeros(hidden.shape, guess.dtype).at[rows, ids].set(guess)
        return self.drawn(batch, hidden, every)
