"""Attention by cuDNN on NVIDIA GPUs: it keeps no scores (arXiv 2205.14135)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mimjax.sharding import by_sample

# Of heads, on every GPU that it runs on; and what they are a multiple of.
WIDEST, EIGHTH = 128, 8


def runs_on(device: Any) -> bool:
    """Whether it is an NVIDIA GPU of compute capability 8.0 or more."""
    found = str(getattr(device, "compute_capability", ""))
    # Of AMD's it is the name of an architecture.
    return device.platform == "gpu" and found[:1].isdigit() and float(found) >= 8


def takes(qkv: Array) -> bool:
    """Whether it takes queries, keys and values of this type and shape."""
    head = qkv.shape[-1]
    return qkv.dtype == jnp.bfloat16 and head <= WIDEST and head % EIGHTH == 0


def attend(
    qkv: Float[Array, "B T 3 A h"], prefix: Int[Array, " B"] | None = None
) -> Float[Array, "B T A h"]:
    """Softmax attention of all heads, with `prefix` as `masking.PrefixCausal` has it.

    That is two kinds of mask that cuDNN knows, and no bias for every pair: queries of
    the prefix see it and nothing else, those behind it all that came before them.
    """
    batch, length = qkv.shape[:2]
    odd = length % 2  # of an odd number of tokens there has been no way back
    if odd:
        qkv = jnp.pad(qkv, [(0, odd if axis == 1 else 0) for axis in range(qkv.ndim)])
    q, k, v = (qkv[:, :, part] for part in range(3))

    def run(lengths: Int[Array, " B"], **more: Any) -> Float[Array, "B t A h"]:
        # Lengths are told where they say nothing new too: without, some versions of
        # cuDNN give NaN. They are cut as the batch is, which JAX does not see to.
        lengths = by_sample(lengths)
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
            **more,
        )

    whole = jnp.full(batch, length, jnp.int32)
    if prefix is None:
        return run(whole)[:, :length]
    place = jnp.arange(qkv.shape[1])[:, None, None]
    inside = place < prefix[:, None, None, None]
    return jnp.where(inside, run(prefix), run(whole, is_causal=True))[:, :length]
