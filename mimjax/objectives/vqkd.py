"""BEiT v2's tokenizer (VQ-KD): codes that are enough to predict a teacher's features.

Peng et al., arXiv 2208.06366, section 2.2; official code microsoft/unilm beit2
`modeling_vqkd.py`, `norm_ema_quantizer.py`. An encoder turns patches into unit vectors,
each is replaced by the nearest code, and a small decoder predicts from these what the
teacher makes of each patch. The teacher is the encoder of another run (in the paper
CLIP or DINO). The codes follow their vectors by an average, the rest by a gradient.

The official quantiser also counts how often each code is asked for, for its report of
unused codes over a whole data set; here usage is measured on each batch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mimjax import frozen
from mimjax.backbones import sizes, vit
from mimjax.objectives import MOVING, classify
from mimjax.tokenizers import codebook

# Until a teacher is named, one like the encoder stands in.
UNNAMED = frozen.Model(None, (0.5,), (0.5,))


def patches_of(objective: Any, image: Array) -> Array:
    """What the encoder of an objective makes of each patch, after the last norm."""
    encoder = objective.encoder
    x = encoder.patch_tokens(encoder(encoder.embed(image)))
    return x.astype(jnp.float32)


class Objective(nn.Module):
    """`teacher` is, in a config, the workdir of the run that trained it.

    The other values are the paper's (official `TOKENIZER.md`): `num_codes` unit vectors
    of `code_width` numbers; `decay` is that of their average, `commitment` weighs how
    far vectors are from their codes.
    """

    encoder: vit.Encoder
    teacher: frozen.Model = UNNAMED
    num_codes: int = 8192
    code_width: int = 32
    decay: float = 0.99
    commitment: float = 1.0
    decoder_width: int = 768
    decoder_depth: int = 3
    decoder_heads: int = 12

    panel_note = "a colour for each code; codes that are close have like colours"
    draws_pixels = True
    encoder_note = "the decoder of vqkd is an encoder of the same kind on the codes"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        width, ratio = self.decoder_width, self.encoder.mlp_ratio
        found = sizes.stack_problems(
            width, self.decoder_depth, self.decoder_heads, ratio, prefix="decoder_"
        )
        if self.encoder.position == "sincos" and width % 4:
            found.append(f"decoder_width: {width} must be a multiple of 4")
        for name, most in (("num_codes", 2**20), ("code_width", sizes.MOST_WIDTH)):
            if not 2 <= getattr(self, name) <= most:
                found.append(f"{name}: {getattr(self, name)} must be from 2 to {most}")
        if not 0 <= self.decay < 1:
            found.append(f"decay: {self.decay} must be in [0, 1)")
        if self.commitment < 0:
            found.append(f"commitment: {self.commitment} must not be negative")
        theirs, ours = self.teacher_model.objective.encoder, self.encoder
        for name in ("channels", "image_size"):
            if getattr(theirs, name) != getattr(ours, name):
                found.append(
                    f"teacher: it takes {name} {getattr(theirs, name)}, not the "
                    f"{getattr(ours, name)} of config.encoder.{name}"
                )
        if theirs.cell != ours.cell:
            found.append(
                f"teacher: a token of it stands for {theirs.cell} pixels, not for the "
                f"{ours.cell} of config.encoder.patch_size"
            )
        return found

    @property
    def teacher_model(self) -> frozen.Model:
        """The teacher, or what stands in for it."""
        if self.teacher is not UNNAMED:
            return self.teacher
        like = self.encoder.clone(parent=None, name=None)
        objective = classify.Objective(like, parent=None)
        return dataclasses.replace(UNNAMED, objective=objective)

    def setup(self) -> None:
        encoder, teacher = self.encoder, self.teacher_model.objective.encoder

        def dense(features: int) -> nn.Dense:
            normal = nn.initializers.normal(0.02)
            return nn.Dense(features, kernel_init=normal, dtype=jnp.float32)

        # Two layers around a tanh before the codes, and two after the decoder; all in
        # float32, officially only the first two.
        self.code_hidden, self.code = dense(encoder.width), dense(self.code_width)
        self.decoder_hidden = dense(self.decoder_width)
        self.decoder_pred = dense(teacher.out_width)
        self.decoder = encoder.clone(
            parent=None,
            name=None,
            image_size=encoder.grid,
            patch_size=(1, 1),
            channels=self.code_width,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
        )
        self.codes = self.variable(MOVING, "codes", self.random_codes)
        self.started = self.variable(MOVING, "started", jnp.zeros, (), jnp.int32)
        self.teacher_model.declare(self, "teacher", patches_of)

    def random_codes(self) -> Float[Array, "V E"]:
        """Directions that stand in until there are vectors to start from."""
        shape = self.num_codes, self.code_width
        return codebook.unit(jax.random.normal(self.make_rng("params"), shape))

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        vectors = self.vectors(batch["image"], train=train)
        codes = self.codes.value
        if train:
            codes = self.initialised(jax.lax.stop_gradient(vectors))
        ids = codebook.nearest(jax.lax.stop_gradient(vectors), codes)
        pixels = self.teacher_model.normalised(batch["pixels"])
        wanted = self.teacher_model.ask(self, "teacher", patches_of, pixels)
        loss, metrics = self.loss(wanted, vectors, codes[ids], train=train)
        metrics |= codebook.usage(ids, self.num_codes)
        # A caller that may not change anything, as in evaluation, is not to be moved.
        if train and self.is_mutable_collection(MOVING):
            flat = jax.lax.stop_gradient(vectors)
            self.codes.value = codebook.moved(flat, ids, codes, self.decay)
            self.started.value = jnp.ones((), jnp.int32)
        return loss, metrics

    def vectors(
        self, image: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B N E"]:
        """A unit vector for every patch."""
        encoder = self.encoder
        x = encoder.patch_tokens(encoder(encoder.embed(image), train=train))
        return codebook.unit(self.code(jnp.tanh(self.code_hidden(x))))

    def initialised(self, vectors: Float[Array, "B N E"]) -> Float[Array, "V E"]:
        """The codes; on the first batch of a run (or its first part) by k-means.

        Over all vectors of that batch; officially each GPU groups its own and then all
        share one sum.
        """
        key, flat = self.make_rng("drop"), vectors.reshape(-1, self.code_width)

        def clusters() -> Float[Array, "V E"]:
            first = codebook.first(key, flat, self.num_codes)
            return codebook.kmeans(flat, first)

        codes = self.codes.value
        return jax.lax.cond(self.started.value > 0, lambda: codes, clusters)

    def loss(
        self,
        wanted: Float[Array, "B N T"],
        vectors: Float[Array, "B N E"],
        chosen: Float[Array, "B N E"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """One minus the cosine to what the teacher says, and the commitment.

        The gradient goes through the choice of a code as if it were none. The
        commitment is a mean over all numbers (equation 2 has a sum, and a term for the
        codes, which move by their average here as in the official code).
        """
        through = vectors + jax.lax.stop_gradient(chosen - vectors)
        predicted = self.reconstruct(through, train=train)
        cosine = (codebook.unit(predicted) * codebook.unit(wanted)).sum(axis=-1).mean()
        commitment = jnp.square(jax.lax.stop_gradient(chosen) - vectors).mean()
        loss = 1 - cosine + self.commitment * commitment
        return loss, {"cosine": cosine, "commitment": commitment}

    def reconstruct(
        self, codes: Float[Array, "B N E"], *, train: bool = False
    ) -> Float[Array, "B N T"]:
        """The teacher's features of the patches, predicted from their codes."""
        grid = codes.reshape(len(codes), *self.encoder.grid, -1)
        decoder = self.decoder
        x = decoder.patch_tokens(decoder(decoder.embed(grid), train=train))
        return self.decoder_pred(jnp.tanh(self.decoder_hidden(x)))

    def tokens(self, image: Float[Array, "B H W C"]) -> Int[Array, "B N"]:
        """The nearest code of each patch."""
        return codebook.nearest(self.vectors(image), self.codes.value)

    def decode(self, ids: Int[Array, "B N"]) -> Float[Array, "B h w C"]:
        """A colour for each code, from 0 to 1; of close codes they are alike.

        There is no way back to pixels: the decoder predicts features.
        """
        channels = self.encoder.channels
        mix = np.random.RandomState(0).normal(size=(self.code_width, channels))
        colours = jax.nn.sigmoid(2 * self.codes.value @ mix.astype(np.float32))
        return colours[ids].reshape(len(ids), *self.encoder.grid, channels)

    def panels(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Original, and the code of each patch."""
        coloured = self.decode(self.tokens(batch["image"]))
        coloured = jax.image.resize(coloured, batch["pixels"].shape, "nearest")
        return {"original": batch["pixels"], "codes": coloured}
