"""What is measured inside an encoder, beside formulas in numpy."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_inside import ENCODERS

from mimjax.evaluate import health, inside


def rank_by_covariance(x):
    """Of the eigenvalues of x^T x, in float64."""
    x = x.astype(np.float64)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(x.T @ x), 0, None))
    share = values / values.sum() + 1e-7
    return np.exp(-(share * np.log(share)).sum())


def test_rankme_is_the_papers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 12)) * np.geomspace(1, 1e-3, 12)
    x = x.astype(np.float32)
    found = health.rankme(x)
    assert found == pytest.approx(rank_by_covariance(x), rel=1e-9)
    assert health.rankme(7 * x) == pytest.approx(found, rel=1e-6)
    assert 2 < found < 6
    orthogonal = np.linalg.qr(rng.normal(size=(90, 12)))[0].astype(np.float32)
    assert health.rankme(orthogonal) == pytest.approx(12, rel=1e-4)
    assert health.rankme(np.ones((90, 12), np.float32)) == pytest.approx(1, rel=1e-4)
    assert np.isnan(health.rankme(np.full((3, 2), np.inf, np.float32)))
    assert np.isfinite(health.rankme(np.zeros((3, 2), np.float32)))


def test_distances_are_those_of_centres():
    found = health.distances((2, 3), (4, 10))
    assert found.shape == (6, 6)
    centres = [(2 + 4 * row, 5 + 10 * column) for row in (0, 1) for column in (0, 1, 2)]
    for i, here in enumerate(centres):
        for j, there in enumerate(centres):
            assert found[i, j] == pytest.approx(np.hypot(*np.subtract(here, there)))


def test_attention_to_what_has_no_place_does_not_count():
    apart = health.distances((1, 2), (8, 8))
    weights = np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6]])
    # From the first patch half of what is left goes 8 pixels, from the second a
    # quarter.
    one_head = jnp.asarray(weights[None, None], jnp.float32)
    (found,) = health.attention_distance(one_head, 1, apart)
    assert found == pytest.approx((0.5 * 8 + 0.25 * 8) / 2, rel=1e-6)
    whole = jnp.zeros((1, 1, 3, 3)).at[..., 0].set(1.0)
    assert health.attention_distance(whole, 1, apart).tolist() == [0.0]


def measured(encoder):
    """Of two images: what was measured, and tokens and attention of each layer."""
    image = jax.random.normal(jax.random.key(1), (2, *encoder.image_size, 3))
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: encoder.init(key, image, method="features"))

    @jax.jit
    def look(variables):
        stages = inside.look(encoder, variables["params"], image)
        return health.measure(encoder, variables, image), inside.layers_of(stages)

    found, layers = jax.device_get(look(closeness.random_like(shapes, 0.5)))
    assert found.shape == (2, 2, len(encoder.layer_widths))
    return found, layers


def test_every_layer_of_a_transformer_is_measured():
    encoder = ENCODERS["vit"].clone(registers=2)
    found, layers = measured(encoder)
    rows, columns = encoder.grid
    for layer, (tokens, attention) in enumerate(layers):
        length = np.linalg.norm(tokens[:, 3:].astype(np.float64), axis=-1)
        np.testing.assert_allclose(found[:, 0, layer], length.mean(axis=1), rtol=1e-5)
        for i, image in enumerate(attention[:, :, 3:, 3:].astype(np.float64)):
            total = 0.0
            for head in image:
                for q, weights in enumerate(head):
                    far = [
                        8
                        * np.hypot(
                            q // columns - k // columns, q % columns - k % columns
                        )
                        for k in range(rows * columns)
                    ]
                    total += weights @ far / weights.sum()
            mean = total / (len(image) * rows * columns)
            np.testing.assert_allclose(found[i, 1, layer], mean, rtol=1e-5)


def test_swin_is_measured_by_the_places_that_tokens_come_from():
    encoder = ENCODERS["swin"]
    found, layers = measured(encoder)
    # 8 x 8 tokens of 4 pixels in windows of 4, the second layer shifted by 2; then
    # 4 x 4 tokens of 8 pixels in one window.
    for layer, (side, pixels, shift) in enumerate(
        [(8, 4, 0), (8, 4, 2), (4, 8, 0), (4, 8, 0)]
    ):
        tokens, attention = layers[layer]
        length = np.linalg.norm(tokens, axis=-1).mean(axis=1)
        np.testing.assert_allclose(found[:, 0, layer], length, rtol=1e-5)
        # Which tokens a window holds, row by row.
        ids = np.arange(side * side).reshape(side, side)
        ids = np.roll(ids, (-shift, -shift), (0, 1)).reshape(side // 4, 4, -1, 4)
        windows = ids.swapaxes(1, 2).reshape(-1, 16)
        apart = health.distances((side, side), (pixels, pixels))
        near = np.stack([apart[np.ix_(window, window)] for window in windows])
        weights = attention.reshape(2, len(windows), 2, 16, 16)
        mean = (weights * near[:, None]).sum(axis=-1).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(found[:, 1, layer], mean, rtol=1e-5)


def test_measures_have_names_that_sort_by_layer():
    found = health.named(np.arange(2 * 2 * 11.0).reshape(2, 2, 11))
    assert [*found][:2] == ["health/norm_01", "health/norm_02"]
    assert found["health/norm_01"] == 11.0
    assert found["health/attention_distance_11"] == 32.0
