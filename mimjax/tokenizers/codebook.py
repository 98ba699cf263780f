"""A codebook of unit vectors that follows the vectors it is asked about.

The quantiser of BEiT v2 (Peng et al., arXiv 2208.06366, section 2.2; official code
microsoft/unilm beit2 `norm_ema_quantizer.py`): nearest by cosine, started by k-means on
the first batch, moved by a moving average and never by a gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

# Rounds of k-means on the first batch (official `kmeans`).
ROUNDS = 10


def unit(x: Float[Array, "*s E"]) -> Float[Array, "*s E"]:
    """Vectors of length one; a vector of zeros stays zero."""
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    # The root is taken of what is not zero, or the gradient there would be no number.
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.maximum(square, 1e-24)), 0.0)


def nearest(
    vectors: Float[Array, "*n E"], codes: Float[Array, "V E"]
) -> Int[Array, "*n"]:
    """The code at the smallest distance of each vector."""
    products = jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.square(codes).sum(axis=-1) - 2 * products
    return distance.argmin(axis=-1).astype(jnp.int32)


def usage(ids: Int[Array, "*n"], codes: int) -> dict[str, Float[Array, ""]]:
    """The share of the codes that are there, and their perplexity."""
    share = jnp.zeros(codes).at[ids].add(1) / ids.size
    perplexity = jnp.exp(jax.scipy.special.entr(share).sum())
    return {"codes_used": (share > 0).mean(), "perplexity": perplexity}


def centres(
    vectors: Float[Array, "*n E"], ids: Int[Array, "*n"], codes: Float[Array, "V E"]
) -> Float[Array, "V E"]:
    """The direction of the vectors of each code; without any, its own direction."""
    flat, ids = vectors.reshape(-1, vectors.shape[-1]), ids.reshape(-1)
    count = jax.ops.segment_sum(jnp.ones_like(ids), ids, len(codes))
    total = jax.ops.segment_sum(flat, ids, len(codes))
    return jnp.where(count[:, None] > 0, unit(total), codes)


def moved(
    vectors: Float[Array, "*n E"],
    ids: Int[Array, "*n"],
    codes: Float[Array, "V E"],
    decay: float,
) -> Float[Array, "V E"]:
    """The codes a step later: each drawn towards its vectors, on the sphere."""
    return unit(decay * codes + (1 - decay) * centres(vectors, ids, codes))


def first(
    key: Key[Array, ""], vectors: Float[Array, "n E"], codes: int
) -> Float[Array, "V E"]:
    """So many vectors at random; some of them twice only where there are too few."""
    count = len(vectors)
    if count >= codes:
        return vectors[jax.random.permutation(key, count)[:codes]]
    return vectors[jax.random.randint(key, (codes,), 0, count)]


def kmeans(
    vectors: Float[Array, "n E"], codes: Float[Array, "V E"]
) -> Float[Array, "V E"]:
    """Unit vectors in groups by cosine: the directions of the groups.

    A group that has lost its members stays where it is.
    """

    def again(_: Int[Array, ""], codes: Float[Array, "V E"]) -> Float[Array, "V E"]:
        return centres(vectors, nearest(vectors, codes), codes)

    return jax.lax.fori_loop(0, ROUNDS, again, codes)
