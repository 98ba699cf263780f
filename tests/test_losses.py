"""Masks, targets and losses by formulas in plain numpy, on noise and photographs."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from mimjax import masking, orders, patches
from mimjax.objectives import aim, classify, mae, mpp, simmim

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PATCH, GRID = 8, (3, 5)
NUM_TOKENS = GRID[0] * GRID[1]


def photographs() -> np.ndarray:
    """Two crops of 24 x 40 pixels of each of the two sample images, uint8."""
    crops = []
    for photo in load_sample_images().images:
        for top, left in ((100, 200), (300, 20)):
            crops.append(photo[top : top + 24, left : left + 40])
    return np.stack(crops)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 24, 40, 3), np.uint8)


@pytest.fixture(params=[noise, photographs])
def pixels(request) -> np.ndarray:
    return request.param()


def formula_image(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255.0 - MEAN) / STD


def cut(image: np.ndarray, n: int) -> np.ndarray:
    """The pixels of patch n of one image, [8, 8, 3]."""
    top, left = n // GRID[1] * PATCH, n % GRID[1] * PATCH
    return image[top : top + PATCH, left : left + PATCH]


def standard(patch: np.ndarray) -> np.ndarray:
    """All numbers of a patch together; the variance over one less than their number."""
    values = patch.reshape(-1)
    mean = values.sum() / len(values)
    variance = ((values - mean) ** 2).sum() / (len(values) - 1)
    return (values - mean) / np.sqrt(variance + 1e-6)


def guess(seed: int = 1) -> np.ndarray:
    """A prediction for every patch."""
    return np.random.default_rng(seed).normal(size=(4, NUM_TOKENS, PATCH * PATCH * 3))


def bind(objective, token: int = 0):
    """An objective that can draw masks and take losses, with no other parameters."""
    params = {"mask_token": jnp.zeros((1, 1, token))} if token else {}
    return objective.bind({"params": params}, rngs={"mask": jax.random.key(5)})


@pytest.fixture
def wide(encoder):
    """An encoder of images of 24 x 40 pixels, cut into 3 x 5 patches."""

    def make(**fields):
        return encoder(image_size=(24, 40), patch_size=(PATCH, PATCH), **fields)

    return make


def ours(pixels: np.ndarray) -> jax.Array:
    return patches.normalise(jnp.asarray(pixels), MEAN, STD)


def test_normalised_images(pixels):
    np.testing.assert_allclose(ours(pixels), formula_image(pixels), atol=1e-6)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae(pixels, wide, norm_pixels):
    objective = bind(mae.Objective(wide(cls=False), norm_pixels=norm_pixels), 512)
    keep, drop = (np.asarray(ids) for ids in objective.draw(4))
    assert keep.shape == (4, 3)  # a quarter of 15, rounded down
    assert drop.shape == (4, 12)
    image, predicted = formula_image(pixels), guess()
    terms = []
    for b in range(4):
        assert sorted([*keep[b], *drop[b]]) == list(range(NUM_TOKENS))
        for place, n in enumerate(drop[b]):
            patch = cut(image[b], n)
            target = standard(patch) if norm_pixels else patch.reshape(-1)
            # Predictions come in the order kept, then hidden.
            terms.append(((predicted[b, 3 + place] - target) ** 2).mean())
    loss = objective.loss(ours(pixels), jnp.asarray(predicted), jnp.asarray(drop))
    np.testing.assert_allclose(loss, np.mean(terms), rtol=2e-6)


def test_simmim(pixels, wide):
    """The official formula on whole images: a mask of pixels, sums, three channels."""
    objective = bind(simmim.Objective(wide(), mask_cell=PATCH), 32)
    hidden = np.asarray(objective.draw(4))
    np.testing.assert_array_equal(hidden.sum(axis=1), 9)
    image, predicted = formula_image(pixels), guess()
    mask, drawn = np.zeros((4, 24, 40, 1)), np.zeros((4, 24, 40, 3))
    for b in range(4):
        for n in range(NUM_TOKENS):
            cut(mask[b], n)[:] = hidden[b, n]
            cut(drawn[b], n)[:] = predicted[b, n].reshape(PATCH, PATCH, 3)
    expected = (np.abs(image - drawn) * mask).sum() / (mask.sum() + 1e-5) / 3
    loss = objective.loss(ours(pixels), jnp.asarray(predicted), jnp.asarray(hidden))
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_aim(pixels, wide, norm_pixels):
    objective = bind(aim.Objective(wide(cls=False), norm_pixels=norm_pixels))
    image, predicted = formula_image(pixels), guess()
    prefix = np.asarray([1, 4, 9, NUM_TOKENS - 1])
    total, count = 0.0, 0
    for b in range(4):
        for n in range(prefix[b], NUM_TOKENS):
            patch = cut(image[b], n)
            target = standard(patch) if norm_pixels else patch.reshape(-1)
            # Patch n is predicted where patch n - 1 is.
            total += ((predicted[b, n - 1] - target) ** 2).mean()
            count += 1
    assert count == 14 + 11 + 6 + 1
    loss = objective.loss(ours(pixels), jnp.asarray(predicted), jnp.asarray(prefix))
    np.testing.assert_allclose(loss, total / count, rtol=2e-6)


@pytest.mark.parametrize("order", orders.ORDERS)
def test_aim_predicts_in_any_order(pixels, wide, order):
    objective = bind(aim.Objective(wide(cls=False), order=order))
    places = objective.places()
    assert sorted(places) == list(range(NUM_TOKENS))
    image, predicted = formula_image(pixels), guess()
    prefix = np.asarray([1, 4, 9, NUM_TOKENS - 1])
    each = [
        ((predicted[b, n - 1] - standard(cut(image[b], places[n]))) ** 2).mean()
        for b in range(4)
        for n in range(prefix[b], NUM_TOKENS)
    ]
    loss = objective.loss(ours(pixels), jnp.asarray(predicted), jnp.asarray(prefix))
    np.testing.assert_allclose(loss, np.mean(each), rtol=2e-6)


def test_aim_without_a_prefix_is_given_the_first_patch_alone(wide):
    objective = bind(aim.Objective(wide(cls=False), prefix=False))
    np.testing.assert_array_equal(objective.draw(5), [1] * 5)


def test_a_head_of_aim_that_attends_has_no_biases(encoder):
    """Though the encoder has: those of norms are all that is left."""
    small = {"head_width": 16, "head_depth": 1, "head_heads": 2}
    objective = aim.Objective(encoder(cls=False), head="transformer", **small)
    batch = {"image": jnp.zeros((1, 16, 16, 3))}
    rngs = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    shapes = jax.eval_shape(lambda: objective.init(rngs, batch, train=False))["params"]
    assert set(shapes["head_blocks"]["layers"]["attn"]["qkv"]) == {"kernel"}
    assert set(shapes["encoder"]["blocks"]["layers"]["attn"]["qkv"]) > {"kernel"}


def test_aim_draws_a_prefix_for_every_sample(wide):
    prefix = np.asarray(bind(aim.Objective(wide(cls=False))).draw(64))
    assert prefix.min() >= 1
    assert prefix.max() < NUM_TOKENS
    assert len(set(prefix)) > 5


def colour(pixels: np.ndarray) -> int:
    """The class of the mean of [rows, columns, 3] pixels from 0 to 1."""
    red, green, blue = (min(int(8 * pixels[..., c].mean()), 7) for c in range(3))
    return 64 * red + 8 * green + blue


@pytest.mark.parametrize("target", mpp.TARGETS)
def test_masked_patch_prediction(pixels, wide, target):
    objective = mpp.Objective(wide(position="learned"), target=target)
    assert (objective.problems(), objective.num_corrupted) == ([], round(7.5))
    unit = pixels / 255.0
    unit[0, :8, :8] = 1.0  # a mean of one is in the last level
    ids = np.asarray([[0, 3, 14], [5, 2, 9], [7, 8, 1], [4, 11, 13]])
    fields = 16 if target == "colours" else 1
    scores = np.random.default_rng(1).normal(size=(4, 3, fields, 512))
    values = np.random.default_rng(2).normal(size=(4, 3, PATCH * PATCH * 3))
    losses = []
    for b in range(4):
        for m, n in enumerate(ids[b]):
            patch = cut(unit[b], n)
            if target == "pixels":
                losses.append(((values[b, m] - patch.reshape(-1)) ** 2).mean())
                continue
            for f in range(fields):
                part = patch
                if fields == 16:
                    row, column = f // 4 * 2, f % 4 * 2
                    part = patch[row : row + 2, column : column + 2]
                chance = np.exp(scores[b, m, f]) / np.exp(scores[b, m, f]).sum()
                losses.append(-np.log(chance[colour(part)]))
    predicted = values if target == "pixels" else scores
    loss = bind(objective, 32).loss(
        jnp.asarray(unit, jnp.float32), jnp.asarray(predicted), jnp.asarray(ids)
    )
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_what_is_corrupted_and_how(encoder):
    """Half of the patches; 80, 10 and 10 in a hundred; another one is another one."""
    objective = mpp.Objective(encoder(image_size=(32, 32), position="learned"))
    rngs = {"mask": jax.random.key(5)}
    params = {"mask_token": jnp.zeros((1, 1, 32))}
    ids, kind, other = objective.bind({"params": params}, rngs=rngs).draw(512)
    assert ids.shape == (512, 32)
    assert all(len(set(row)) == 32 for row in np.asarray(ids)[:20])
    shares = np.histogram(kind, [0, 0.8, 0.9, 1.0])[0] / kind.size
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    assert (ids != other).all()
    counts = np.bincount(np.asarray((other - ids) % 64).ravel(), minlength=64)[1:]
    assert counts.min() > 0.8 * counts.mean()


def test_draws_of_a_module_are_those_of_masking(wide):
    """The stream "mask" alone decides; samples differ."""
    objective = simmim.Objective(wide(), mask_cell=PATCH)
    params = {"params": {"mask_token": jnp.zeros((1, 1, 32))}}

    def drawn(mask, drop):
        rngs = {"mask": jax.random.key(mask), "drop": jax.random.key(drop)}
        key = closeness.key_of(objective, params, rngs, "mask")
        rows = objective.apply(params, 8, rngs=rngs, method="draw")
        np.testing.assert_array_equal(rows, masking.random_cells(key, 8, GRID, 1, 0.6))
        return np.asarray(rows)

    rows = drawn(5, 0)
    np.testing.assert_array_equal(drawn(5, 1), rows)
    assert (drawn(6, 0) != rows).any()
    assert len({tuple(row) for row in rows}) > 4
    assert masking.num_cells_hidden(15, 0.6) == rows[0].sum()


def test_classification_by_hand(encoder):
    """Cross-entropy and accuracy of logits that are set."""
    objective = classify.Objective(encoder(cls=False), num_classes=3, pool="gap")
    batch = {"image": jnp.zeros((2, 16, 16, 3)), "label": jnp.asarray([2, 0])}
    params = closeness.random_params(objective, batch, train=False)
    scores = jnp.asarray([0.0, 1.0, 3.0])
    params["head"] = {"kernel": jnp.zeros((32, 3)), "bias": scores}
    run = jax.jit(
        lambda params: objective.apply({"params": params}, batch, train=False)
    )
    loss, metrics = run(params)
    chance = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(loss, -np.log(chance[[2, 0]]).mean(), rtol=1e-6)
    assert metrics["accuracy"] == 0.5
