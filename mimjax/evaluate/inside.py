"""What happens inside an encoder: the tokens each layer gives, and where it looks."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float


class Stage(NamedTuple):
    """Layers of one kind in a row: all of a ViT, those of one stage of Swin.

    Attributes:
        tokens: what each layer gives [L, B, T, D], class token and registers first.
        attention: weights [L, n, A, T, T], the rows of which sum to one, from a query
            (the last axis but one) to keys. n is B, or in Swin B times the windows of
            an image, which T then counts the tokens of.
    """

    tokens: Float[Array, "L B T D"]
    attention: Float[Array, "L n A t t"]


def look(encoder: Any, params: Any, image: Float[Array, "B H W C"]) -> list[Stage]:
    """The stages of an encoder at work on normalised images, from first to last.

    To be called under jit, which drops what is not used of it. An encoder without
    attention, such as the dVAE, has none.
    """
    _, kept = encoder.apply(
        {"params": params}, image, method="features", mutable=["intermediates"]
    )
    found = kept.get("intermediates", {})
    # "blocks" alone, or "stages_0", "stages_1" and so on: of one length, so they sort.
    stages = [found[name]["layers"] for name in sorted(found)]
    return [Stage(s["tokens"][0], s["attn"]["attention"][0]) for s in stages]


def layers_of(stages: list[Stage]) -> list[tuple[jax.Array, jax.Array]]:
    """(tokens, attention) of every layer, through all stages."""
    return [pair for stage in stages for pair in zip(*stage, strict=True)]
