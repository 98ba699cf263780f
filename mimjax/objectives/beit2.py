"""BEiT v2: BEiT on VQ-KD's tokens, with a class token that has to know the image.

Peng et al., arXiv 2208.06366, section 2.3; official code microsoft/unilm beit2
`modeling_pretrain.py`, `masking_generator.py`. A few layers more see the class token
after the last layer of the encoder and the patches after an earlier one, and predict
the same tokens again: what the patches do not know yet has to come through the class
token. These layers are dropped after pretraining.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mimjax import frozen, masking
from mimjax.backbones import blocks, starts, vit
from mimjax.objectives import beit, vqkd
from mimjax.reductions import place_of_largest

# What stands in until a tokenizer is named: one of the paper's sizes.
TOKENIZER = frozen.Model(vqkd.Objective(vit.Encoder()), (0.5,), (0.5,))


class Objective(beit.Objective):
    """Patches come from layer `early_layer`, counted from 1 (9 of 12, 21 of 24).

    `branch_depth` layers see them. Exactly `num_hidden` patches are hidden: blocks as
    in BEiT, and at random what these leave over.
    """

    tokenizer: frozen.Model = TOKENIZER
    early_layer: int = 9
    branch_depth: int = 2

    encoder_note = "beit2's blocks and bias tables are on a grid of patches"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found, depth = super().problems(), self.encoder.depth
        if not 1 <= self.early_layer < depth:
            found.append(
                f"early_layer: {self.early_layer} must be from 1 to less than the "
                f"depth of the encoder ({depth})"
            )
        if not 1 <= self.branch_depth <= depth:
            found.append(
                f"branch_depth: {self.branch_depth} must be from 1 to the depth of the "
                f"encoder ({depth})"
            )
        if not self.encoder.cls:
            found.append(
                "name: beit2 learns what an image is through the class token "
                "(config.encoder.cls=True)"
            )
        return found

    def setup(self) -> None:
        super().setup()
        encoder, early, depth = self.encoder, self.early_layer, self.branch_depth
        # They go on where the early layers end, with rates and starts by number. They
        # are made after all others were given their start and keep PyTorch's.
        spec = dataclasses.replace(
            encoder.spec(encoder.width, encoder.heads), start=starts.STARTS["torch"]
        )
        rates = np.linspace(0.0, encoder.drop_path, max(encoder.depth, early + depth))
        rates = rates[early : early + depth]
        self.branch = blocks.Blocks(
            spec,
            depth,
            (float(rates[0]), float(rates[-1])),
            encoder.remat,
            encoder.unroll,
            encoder.block,
            first=early + 1,
        )

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        hidden = self.draw(batch["image"].shape[0])
        last, branch = self.predict_twice(batch["image"], hidden, train=train)
        tokens = self.tokens(batch)
        target, _ = self.targets(tokens, hidden)
        losses = [self.loss(tokens, logits, hidden) for logits in (last, branch)]
        metrics = {
            "accuracy": (place_of_largest(last) == target).mean(),
            "branch_loss": losses[1],
        }
        return losses[0] + losses[1], metrics

    def draw(self, batch: int) -> Bool[Array, "B N"]:
        """Which patches of each image are hidden: always so many."""
        if self.sampling == "random":
            return super().draw(batch)
        encoder, key = self.encoder, self.make_rng("mask")
        kept = encoder.num_tokens - self.num_hidden
        ids = masking.block_ids(key, batch, encoder.grid, kept, self.min_block)[1]
        return masking.hidden_from_ids(ids, encoder.num_tokens)

    def patch_losses(self, batch: dict[str, Array]) -> Float[Array, "B N"]:
        """Both cross-entropies of every hidden patch together."""
        hidden = self.draw(batch["image"].shape[0])
        tokens = self.tokens(batch)
        last, branch = self.predict_twice(batch["image"], hidden)
        placed = [self.placed(tokens, logits, hidden) for logits in (last, branch)]
        return placed[0] + placed[1]

    def predict(
        self,
        image: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"],
        *,
        train: bool = False,
    ) -> Float[Array, "B M V"]:
        """Scores of the vocabulary at hidden places, from the last layer."""
        return self.predict_twice(image, hidden, train=train)[0]

    def predict_twice(
        self,
        image: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B M V"], Float[Array, "B M V"]]:
        """Scores from the last layer, and from the layers that see the class token.

        Both go through the same norm and the same head.
        """
        encoder, tokens = self.encoder, self.masked(image, hidden)
        last, early = encoder.run(tokens, train=train, chosen=(self.early_layer,))
        assert early is not None  # it was asked for
        early = early.astype(last.dtype)
        x = jnp.concatenate([last[:, :1], early[:, 1:]], axis=1)
        x, _ = self.branch(x, None, encoder.attn_bias(), train=train)
        return (
            self.scores(encoder.norm(last), hidden),
            self.scores(encoder.norm(x), hidden),
        )
