"""Attention by cuDNN on NVIDIA GPUs: it keeps no scores (arXiv 2205.14135)."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Heads that it takes on every GPU, in numbers and as a multiple of.
WIDEST, EIGHTH = 128, 8


def takes(qkv: Array) -> bool:
    """Whether it takes queries, keys and values of this type and shape."""
    head = qkv.shape[-1]
    return qkv.dtype == jnp.bfloat16 and head <= WIDEST and head % EIGHTH == 0


def attend(
    qkv: Float[Array, "B T 3 A h"],
    prefix: Int[Array, " B"] | None = None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T A h"]:
    """Softmax attention of all heads, with `prefix` as `masking.PrefixCausal` has it.

    That is two kinds of mask that cuDNN knows, and no bias for every pair: queries of
    the prefix see it and nothing else, those behind it all that came before them.
    """
    batch, length = qkv.shape[:2]
    odd = length % 2  # its way back wants an even number of tokens
    if odd:
        qkv = jnp.pad(qkv, [(0, odd if axis == 1 else 0) for axis in range(qkv.ndim)])
    q, k, v = (qkv[:, :, part] for part in range(3))
    run = functools.partial(
        jax.nn.dot_product_attention, q, k, v, implementation=implementation
    )
    if prefix is None:
        lengths = jnp.full(batch, length, jnp.int32) if odd else None
        mixed = run(query_seq_lengths=lengths, key_value_seq_lengths=lengths)
    else:
        within = run(query_seq_lengths=prefix, key_value_seq_lengths=prefix)
        place = jnp.arange(qkv.shape[1])[:, None, None]
        inside = place < prefix[:, None, None, None]
        mixed = jnp.where(inside, within, run(is_causal=True))
    return mixed[:, :length]
