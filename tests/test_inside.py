"""What is read of an encoder at work, beside its features and a formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimjax.backbones import hybrid, swin, vit
from mimjax.evaluate import inside

VIT = {"image_size": (16, 24), "patch_size": (8, 8), "width": 16, "heads": 2}
ENCODERS = {
    "vit": vit.Encoder(**VIT, depth=3),
    "relative": vit.Encoder(**VIT, depth=3, position="relative_layers", remat="full"),
    "hybrid": hybrid.Encoder(
        image_size=(32, 32), patch_size=(8, 8), width=16, depth=3, heads=2, stages=(1,)
    ),
    "swin": swin.Encoder(
        image_size=(32, 32), width=8, depths=(2, 2), heads=(2, 2), window=4
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_last_tokens_are_those_of_the_features(name):
    encoder = ENCODERS[name]
    image = jax.random.normal(jax.random.key(1), (2, *encoder.image_size, 3))

    @jax.jit
    def run():
        variables = encoder.init(jax.random.key(0), image, method="features")
        stages = inside.look(encoder, variables["params"], image)
        pairs = inside.layers_of(stages)
        assert len(pairs) == len(encoder.layer_widths)
        how = {"pool": "mean", "method": "features"}
        # Of those between the pooled features are others'.
        pairs = [pairs[0], pairs[-1]]
        chosen = [(1,), (len(encoder.layer_widths),)]
        return pairs, [encoder.apply(variables, image, chosen=c, **how) for c in chosen]

    for (tokens, attention), feature in zip(*run(), strict=True):
        mean = encoder.patch_tokens(tokens).mean(axis=1)
        np.testing.assert_allclose(mean, feature, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)


def test_attention_is_the_softmax_of_the_products():
    encoder = ENCODERS["vit"].clone(depth=1, position="none")
    image = jax.random.normal(jax.random.key(1), (2, *encoder.image_size, 3))

    @jax.jit
    def run():
        variables = encoder.init(jax.random.key(0), image, method="features")
        params = variables["params"]
        embedded = encoder.apply(variables, image, method="embed")
        return params, inside.look(encoder, params, image), embedded

    params, (stage,), x = run()
    layer = jax.tree.map(lambda x: np.asarray(x[0]), params["blocks"]["layers"])
    cls = jnp.broadcast_to(params["cls_token"], (2, 1, 16))
    x = np.concatenate([cls, x], axis=1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * layer["norm1"]["scale"] + layer["norm1"]["bias"]
    q, k, _ = np.moveaxis(
        np.einsum("btd,dsah->btsah", x, layer["attn"]["qkv"]["kernel"]), 2, 0
    )
    scores = np.exp(np.einsum("bqah,bkah->baqk", q, k) / np.sqrt(8))
    found = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(stage.attention[0], found, rtol=1e-5)
