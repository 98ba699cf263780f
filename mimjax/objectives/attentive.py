"""AIM's attentive probe: a classifier that learns where to look in frozen features.

El-Nouby et al., arXiv 2401.08541 (attentive probing); official code apple/ml-aim
`aim-v1/aim/v1/torch/layers.py` (AverageLayers, AttentionPoolingClassifier). One learned
query looks at the patches, head by head, and a linear layer scores the classes. Nothing
follows the attention but that layer, and no layer has a bias. Kernels start as those of
ml-l3m, the authors' training code (`SimplifiedAttentionPoolingClassifier`: Xavier).

It is a probe where the encoder stays as it is: config.optim.frozen=('encoder',).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mimjax.backbones import hybrid, sizes, starts, vit
from mimjax.objectives import classify, linear


class Objective(nn.Module):
    """`layers` are those whose mean is probed, from 1 or back from -1.

    The last six are the official default (`constants.py`); there is no norm behind
    them. The query has the encoder's number of heads. The encoder is used as in
    evaluation, without dropout.
    """

    encoder: vit.Encoder | hybrid.Encoder
    num_classes: int = 1000
    layers: tuple[int, ...] = (-6, -5, -4, -3, -2, -1)

    encoder_note = "attentive takes the mean of layers of one width"

    @nn.nowrap
    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        widths = self.encoder.layer_widths
        found = sizes.layer_problems(widths, self.layers, needed=True)
        return found + classify.count_problems(self.num_classes)

    def setup(self) -> None:
        encoder, xavier = self.encoder, nn.initializers.xavier_uniform()
        heads = encoder.heads, encoder.width // encoder.heads
        self.query = starts.param(self, "query", nn.initializers.normal(0.02), heads)
        self.key, self.value = (
            nn.DenseGeneral(
                heads, use_bias=False, kernel_init=xavier, dtype=encoder.dtype
            )
            for _ in range(2)
        )
        self.head = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=xavier, dtype=jnp.float32
        )
        self.norm = linear.BatchNorm(encoder.width)
        nn.share_scope(self, self.norm)

    def __call__(
        self, batch: dict[str, Array], *, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits = self.logits(batch["image"], train=train)
        return classify.scored(logits, batch["label"])

    def logits(
        self, image: Float[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B V"]:
        """Scores of the classes, float32."""
        return self.classified(self.probed(image), train=train)

    def probed(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        """The mean of the layers, of every patch, float32."""
        encoder = self.encoder
        chosen = encoder.numbered(self.layers)
        last, mean = encoder.run(encoder.embed(image), chosen=chosen)
        if self.is_initializing():
            # Unused, but the encoder has the same tree whatever trains it.
            encoder.norm(last)
        assert mean is not None, "layers are chosen"
        return encoder.patch_tokens(mean)

    def classified(
        self, x: Float[Array, "B N D"], *, train: bool = False
    ) -> Float[Array, "B V"]:
        """Scores from what is probed: norm, attention of the query, linear layer."""
        x = self.norm(x, train=train)  # over samples and patches
        keys, values = self.key(x), self.value(x)
        query = self.query * self.query.shape[1] ** -0.5
        scores = jnp.einsum(
            "ah,bnah->ban",
            query.astype(keys.dtype),
            keys,
            preferred_element_type=jnp.float32,
        )
        weights = jax.nn.softmax(scores).astype(values.dtype)
        pooled = jnp.einsum("ban,bnah->bah", weights, values)
        return self.head(pooled.reshape(x.shape[0], -1))
