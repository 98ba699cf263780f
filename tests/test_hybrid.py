"""The hybrid encoder: its sizes and limits; numbers: test_golden and test_timm."""

import jax
import jax.numpy as jnp
import pytest
import tiny

from mimjax import config
from mimjax.backbones import hybrid
from mimjax.objectives import classify

# Image, millions of parameters with 1,000 classes, as timm lists them.
PUBLISHED = {
    "R26+S/32": (224, 36.43),
    "R50+B/16": (384, 98.95),
    "R50+L/32": (224, 328.99),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_as_large_as_published(size):
    side, millions = PUBLISHED[size]
    fields = {**hybrid.SIZES[size], "image_size": (side, side)}
    assert hybrid.problems({**vars(hybrid.Encoder()), **fields}) == []
    objective = classify.Objective(hybrid.Encoder(**fields, position="learned"))
    batch = {"image": jnp.zeros((1, side, side, 3)), "label": jnp.zeros(1, jnp.int32)}
    shapes = jax.eval_shape(
        lambda: objective.init(jax.random.key(0), batch, train=False)
    )
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert round(count / 1e6, 2) == millions


def test_patches_start_by_what_they_are_made_of():
    """Here 2 x 4 places of 32 channels, not the pixels behind them."""
    fields = {"stages": (), "stem_width": 32, "patch_size": (8, 16)}
    encoder = hybrid.Encoder(image_size=(16, 32), width=512, depth=1, **fields)
    image = jnp.zeros((1, 16, 32, 3))
    init = jax.jit(lambda: encoder.init(jax.random.key(0), image, method="embed"))
    patch = init()["params"]["patch"]
    assert patch["kernel"].shape == (encoder.patch_values, 512) == (256, 512)
    assert 0.95 / 16 < jnp.abs(patch["bias"]).max() <= 1 / 16


def test_what_cannot_be():
    usual = vars(hybrid.Encoder())
    (line,) = hybrid.problems({**usual, "stages": (3, 0)})
    assert line.startswith("stages: (3, 0) must be at most 6 numbers")
    (line,) = hybrid.problems({**usual, "stem_width": 48})
    assert line == "stem_width: 48 must be a multiple of 32"
    (line,) = hybrid.problems({**usual, "patch_size": (16, 16)})
    assert line.startswith("patch_size: (16, 16) must be multiples of 32, the stride")


def test_nothing_can_be_hidden_from_it():
    with pytest.raises(config.ConfigError) as caught:
        tiny.resolve("simmim", encoder__name="hybrid")
    line = caught.value.problems[0]
    assert line.startswith("config.encoder.name: 'hybrid' does not go with objective")
    assert line.endswith("see hidden pixels through overlapping convolutions)")


def test_it_trains():
    """In bfloat16 too, in which no parameter is."""
    given = tiny.resolve(
        "classify",
        encoder__name="hybrid",
        encoder__stages="(1, 1)",
        encoder__stem_width=32,
        encoder__patch_size="(8, 8)",
        encoder__position="learned",
        encoder__dtype="bfloat16",
    )
    run = tiny.Run(given)
    before = jax.device_get(run.state.params)
    steps = [run.step() for _ in range(4)]
    assert all(0 < values["grad_norm"] < 100 for values in steps)
    changed = jax.tree.map(lambda a, b: (a != b).any(), before, run.state.params)
    assert all(jax.tree.leaves(changed))
    kinds = {x.dtype for x in jax.tree.leaves(run.state.params)}
    assert kinds == {jnp.dtype("float32")}
