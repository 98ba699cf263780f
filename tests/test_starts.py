"""How weights start: the deviation and the bounds of each official initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mimjax.objectives import simmim

KEY = jax.random.key(0)
NORMS = ("norm/", "norm1/", "norm2/")
WIDTH, MLP, VALUES = 64, 256, 48


def statistics(encoder):
    """Fresh parameters by name, those of layers by the name inside the layer."""

    def run(module):
        return module(module.embed(jnp.zeros((1, 16, 16, 3))))

    params = jax.jit(lambda key: encoder.init(key, method=run))(KEY)["params"]
    flat = flatten_dict(params, sep="/")
    return {
        name.removeprefix("blocks/layers/"): np.asarray(x) for name, x in flat.items()
    }


def uniform_within(x, bound):
    """A uniform draw: never beyond the bound, nearly to it, deviation bound/sqrt(3)."""
    assert 0.98 * bound < np.abs(x).max() <= bound
    assert x.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def same_everywhere(weights, names, value):
    for name in names:
        assert (weights[name] == value).all(), name


@pytest.mark.parametrize(("name", "share"), [("mae", 1.5), ("aim", 3.0)])
def test_start_of_mae_and_aim(encoder, name, share):
    """Fused query, key, value: bound sqrt(1.5/D); as three matrices: sqrt(3/D)."""
    weights = statistics(encoder(width=WIDTH, start=name, position="learned"))
    uniform_within(weights["attn/qkv/kernel"], (share / WIDTH) ** 0.5)
    uniform_within(weights["attn/out/kernel"], (3 / WIDTH) ** 0.5)
    uniform_within(weights["mlp/up/kernel"], (6 / (WIDTH + MLP)) ** 0.5)
    uniform_within(weights["mlp/down/kernel"], (6 / (WIDTH + MLP)) ** 0.5)
    uniform_within(weights["patch/kernel"], (6 / (WIDTH + VALUES)) ** 0.5)
    bias = weights["patch/bias"]
    assert 0.8 * VALUES**-0.5 < np.abs(bias).max() <= VALUES**-0.5
    assert weights["cls_token"].std() == pytest.approx(0.02, rel=0.3)
    assert weights["pos_embed"].std() == pytest.approx(0.02, rel=0.1)
    assert np.abs(weights["pos_embed"]).max() > 0.04  # not cut off
    biases = ("attn/qkv/bias", "attn/out/bias", "mlp/up/bias", "mlp/down/bias")
    same_everywhere(weights, biases, 0)
    same_everywhere(weights, [f"{norm}bias" for norm in NORMS], 0)
    same_everywhere(weights, [f"{norm}scale" for norm in NORMS], 1)
    kernel = weights["attn/qkv/kernel"]
    assert (kernel[0] != kernel[1]).mean() > 0.99  # layers are drawn apart


def test_start_of_registers(encoder):
    weights = statistics(encoder(width=WIDTH, registers=8))
    assert weights["register_tokens"].shape == (1, 8, WIDTH)
    assert weights["register_tokens"].std() == pytest.approx(1e-6, rel=0.1)


def test_start_of_vit(encoder):
    weights = statistics(encoder(width=WIDTH, start="vit", position="learned"))
    uniform_within(weights["attn/qkv/kernel"], (3 / WIDTH) ** 0.5)
    uniform_within(weights["mlp/up/kernel"], (6 / (WIDTH + MLP)) ** 0.5)
    assert weights["patch/kernel"].std() == pytest.approx(VALUES**-0.5, rel=0.05)
    for name in ("mlp/up/bias", "mlp/down/bias"):
        assert weights[name].std() == pytest.approx(1e-6, rel=0.2)
    assert weights["pos_embed"].std() == pytest.approx(0.02, rel=0.1)
    zeros = ("cls_token", "patch/bias", "attn/qkv/bias", "attn/out/bias")
    same_everywhere(weights, zeros, 0)


def test_start_of_beit(encoder):
    """Cut off at one deviation, and ends of branches divided by sqrt(2 * layer)."""
    fields = {"position": "relative", "qkv_bias": "qv", "layer_scale": 0.1}
    weights = statistics(encoder(width=WIDTH, start="beit", depth=3, **fields))
    for name in ("attn/qkv/kernel", "mlp/up/kernel", "patch/kernel"):
        assert 0.0195 < np.abs(weights[name]).max() <= 0.02
        assert weights[name].std() == pytest.approx(0.0108, rel=0.02)
    assert np.abs(weights["cls_token"]).max() <= 0.02
    for name in ("attn/out/kernel", "mlp/down/kernel"):
        for number, kernel in enumerate(weights[name], start=1):
            bound = 0.02 / (2 * number) ** 0.5
            assert 0.95 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
            expected = 0.0108 / (2 * number) ** 0.5
            assert kernel.std() == pytest.approx(expected, rel=0.05)
    zeros = ("relative_table", "patch/bias", "attn/q_bias", "attn/v_bias")
    same_everywhere(weights, zeros, 0)
    same_everywhere(weights, ("scale1", "scale2"), np.float32(0.1))
    assert "attn/qkv/bias" not in weights


def test_start_of_the_head_of_simmim(encoder):
    """It starts as a PyTorch convolution does, its bias too."""
    keys = {"params": KEY, "mask": KEY}
    batch = {"image": jnp.zeros((2, 16, 16, 3))}
    objective = simmim.Objective(encoder(width=WIDTH, start="beit"), mask_cell=8)
    params = jax.jit(lambda: objective.init(keys, batch, train=False))()["params"]
    uniform_within(np.asarray(params["decoder"]["kernel"]), WIDTH**-0.5)
    assert 0.8 < np.abs(params["decoder"]["bias"]).max() * WIDTH**0.5 <= 1
    assert 0 < np.abs(params["mask_token"]).max() <= 0.02
