"""What must not be seen is not seen, and each test fails where it is."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimjax import frozen, masking, objectives, patches
from mimjax.backbones import swin
from mimjax.objectives import aim, attentive, beit, beit2, dvae, mae, mpp, simmim, vqkd
from mimjax.tokenizers import dvae as dvae_net

# The objectives that hide patches of which a test below tells that they are not seen.
TESTED = {"aim", "beit", "beit2", "mae", "mpp", "simmim"}
BATCH = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
OTHER = jax.random.normal(jax.random.key(9), (2, 16, 16, 3))


def swap(image, hidden):
    """`image` with the patches `hidden` [B, N] taken from another image."""
    rows, others = patches.patchify(image, (4, 4)), patches.patchify(OTHER, (4, 4))
    mixed = jnp.where(hidden[:, :, None], others, rows)
    return patches.unpatchify(mixed, (16, 16), (4, 4))


def test_all_that_hide_patches_are_tested():
    """A new one needs a test here."""
    hiding = {n for n in objectives.names() if hasattr(objectives.load(n), "draw")}
    assert hiding == TESTED


@pytest.mark.parametrize("target", mpp.TARGETS)
def test_mpp_does_not_see_what_it_masks(encoder, target):
    """Masked patches move no prediction but the loss; kept ones are seen."""
    objective = mpp.Objective(encoder(depth=1, position="learned"), target=target)
    params = closeness.random_params(
        objective, {**BATCH, "pixels": BATCH["image"]}, train=False
    )
    ids = masking.random_order(jax.random.key(3), 2, 16)[:, :8]
    # Four are masked, two are replaced by visible ones, two stay.
    kind = jnp.tile(jnp.asarray([0.1, 0.2, 0.3, 0.7, 0.85, 0.85, 0.95, 0.95]), (2, 1))
    seen = masking.random_order(jax.random.key(3), 2, 16)[:, 8:]
    bound = objective.bind({"params": params})

    @jax.jit
    def run(image):
        predicted = bound.predict(image, ids, kind, seen)
        return predicted, bound.loss(jax.nn.sigmoid(image), predicted, ids)

    before = run(BATCH["image"])
    unseen = masking.hidden_from_ids(ids[:, :6], 16)
    after = run(swap(BATCH["image"], unseen))
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] != after[1]
    for shown in (ids[:, 6:7], seen[:, 4:5], seen[:, 7:]):
        moved = run(swap(BATCH["image"], masking.hidden_from_ids(shown, 16)))
        assert (moved[0] != before[0]).any()


@pytest.mark.parametrize("mask_in_encoder", [False, True])
def test_mae_does_not_see_hidden_patches(encoder, mask_in_encoder):
    objective = mae.Objective(
        encoder(depth=1),
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        mask_in_encoder=mask_in_encoder,
    )
    params = closeness.random_params(objective, BATCH, train=False)
    keep, drop = masking.random_ids(jax.random.key(3), 2, 16, 4)
    hidden = masking.hidden_from_ids(drop, 16)

    @jax.jit
    def run(image):
        bound = objective.bind({"params": params})
        latent = bound.encoder(bound.encoder.embed(image, keep), keep)
        predicted = bound.predict(image, keep, drop)
        return latent, predicted, bound.loss(image, predicted, drop)

    before, after = run(BATCH["image"]), run(swap(BATCH["image"], hidden))
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] != after[2]
    seen = run(swap(BATCH["image"], ~hidden))
    assert (seen[0] != before[0]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("position", ["relative", "relative_layers"])
def test_simmim_does_not_see_hidden_patches(encoder, position):
    beit = encoder(depth=1, position=position, qkv_bias="qv")
    check_simmim(simmim.Objective(beit, mask_cell=8))


def test_simmim_on_swin_does_not_see_hidden_patches():
    small = swin.Encoder((16, 16), (2, 2), 3, 8, (2, 1), (2, 2), window=4)
    check_simmim(simmim.Objective(small, mask_cell=8))


def check_simmim(objective):
    """Hidden patches move the loss but no prediction; visible ones move them all."""
    params = closeness.random_params(objective, BATCH, train=False)
    hidden = masking.random_cells(jax.random.key(3), 2, (4, 4), 2, 0.6)

    @jax.jit
    def run(image):
        bound = objective.bind({"params": params})
        predicted = bound.predict(image, hidden)
        return predicted, bound.loss(image, predicted, hidden)

    before, after = run(BATCH["image"]), run(swap(BATCH["image"], hidden))
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] != after[1]
    seen = run(swap(BATCH["image"], ~hidden))
    assert (seen[0] != before[0]).any(axis=-1).all()


def beits(encoder):
    """BEiT and BEiT v2, small."""
    kind = {"position": "relative", "qkv_bias": "qv", "start": "beit"}
    hiding = {"num_hidden": 7, "min_block": 2}
    net = dvae_net.Encoder(width=8, groups=3, blocks=1, num_codes=9)
    small = frozen.Model(dvae.Objective(net), (0.0,), (1.0,))
    yield beit.Objective(encoder(depth=1, **kind), tokenizer=small, **hiding)
    small = frozen.Model(vqkd.Objective(encoder(), num_codes=9), (0.5,), (0.5,))
    branch = {"early_layer": 1, "branch_depth": 1}
    yield beit2.Objective(encoder(**kind), tokenizer=small, **hiding, **branch)


@pytest.mark.parametrize("version", [1, 2])
def test_beit_does_not_see_hidden_patches(encoder, version):
    """Hidden patches move neither scores nor, seen from them alone, the gradient."""
    objective = list(beits(encoder))[version - 1]
    batch = {**BATCH, "pixels": BATCH["image"]}
    params = closeness.random_params(objective, batch, train=False)
    hidden = masking.block_wise(jax.random.key(3), 2, (4, 4), 7, 2)
    tokens = jnp.arange(32).reshape(2, 16) % 9

    @jax.jit
    def run(image, tokens):
        bound = objective.bind({"params": params})
        if version == 1:
            predicted = bound.predict(image, hidden)
            return predicted, bound.loss(tokens, predicted, hidden)
        both = bound.predict_twice(image, hidden)
        losses = [bound.loss(tokens, logits, hidden) for logits in both]
        return jnp.concatenate(both, axis=1), losses[0] + losses[1]

    before = run(BATCH["image"], tokens)
    np.testing.assert_array_equal(
        before[0], run(swap(BATCH["image"], hidden), tokens)[0]
    )
    seen = run(swap(BATCH["image"], ~hidden), tokens)
    assert (seen[0] != before[0]).any(axis=-1).all()
    # Tokens of visible patches are no targets, those of hidden ones are.
    assert run(BATCH["image"], jnp.where(hidden, tokens, 0))[1] == before[1]
    assert run(BATCH["image"], jnp.where(hidden, 0, tokens))[1] != before[1]


# The paper's, and what else it compares.
AIMS = {
    "aim": {},
    "spiral": {"order": "spiral"},
    "checkerboard": {"order": "checkerboard", "head": "none"},
    "random": {"order": "random", "head": "transformer"},
    "transformer": {"head": "transformer"},
}


@pytest.fixture(scope="module", params=AIMS)
def aim_run(request):
    """(image, prefix) -> outputs of the trunk, predictions, losses of targets 1..15.

    And the patch at each place.
    """
    from mimjax.backbones import vit

    encoder = vit.Encoder(
        (16, 16),
        (4, 4),
        width=16,
        depth=2,
        heads=2,
        cls=False,
        qkv_bias="none",
        bias=False,
        patch_norm=True,
        start="aim",
    )
    objective = aim.Objective(
        encoder, head_width=16, head_depth=2, head_heads=2, **AIMS[request.param]
    )
    places = objective.places()
    ids = jnp.broadcast_to(places, (2, 16))
    params = closeness.random_params(objective, BATCH, train=False)

    @jax.jit
    def run(image, prefix):
        bound = objective.bind({"params": params})
        prefix = jnp.full(2, prefix, jnp.int32)
        attn_mask = masking.PrefixCausal(prefix).allowed(16)
        tokens = bound.encoder.embed(image, ids)
        trunk = bound.encoder(tokens, ids, attn_mask=attn_mask)
        predicted = bound.predict(image, prefix)
        errors = predicted[:, :-1] - bound.targets(image)[:, 1:]
        return trunk, predicted, jnp.square(errors).mean(axis=-1)

    return run, places


def changed(before, after):
    """Which places of [B, N, ...] differ, in any sample."""
    differs = before != after
    return np.asarray(differs.any(axis=tuple(i for i in range(differs.ndim) if i != 1)))


@pytest.mark.parametrize("prefix", [1, 5, 15])
def test_aim_does_not_see_what_comes(aim_run, prefix):
    """The patch at place t beyond the prefix changes what is at place t and after."""
    run, places = aim_run
    before = run(BATCH["image"], prefix)
    for t in range(prefix, 16):
        image = swap(BATCH["image"], jnp.tile(jnp.arange(16) == places[t], (2, 1)))
        after = run(image, prefix)
        for i in (0, 1):
            moved = changed(before[i], after[i])
            assert not moved[:t].any()
            assert moved[t:].all()
        # Target n stands in row n - 1: those up to t stay, t itself is another patch.
        targets = changed(before[2], after[2])
        assert not targets[: t - 1].any()
        assert targets[t - 1 :].all()


def test_aim_sees_the_whole_prefix(aim_run):
    """A patch within the prefix changes every output, also those before it."""
    run, places = aim_run
    image = swap(BATCH["image"], jnp.tile(jnp.arange(16) == places[4], (2, 1)))
    before = run(BATCH["image"], 5)
    assert changed(before[0], run(image, 5)[0]).all()


def test_full_attention_leaks(aim_run):
    """A prefix of all patches lets every place see every other: the tests can fail."""
    run, places = aim_run
    image = swap(BATCH["image"], jnp.tile(jnp.arange(16) == places[15], (2, 1)))
    before = run(BATCH["image"], 16)
    assert changed(before[0], run(image, 16)[0]).all()


def test_the_attentive_probe_sees_all_patches_and_no_class_token(encoder):
    """With full attention, of an encoder that learned to look back alone as well."""
    objective = attentive.Objective(encoder(depth=2), layers=(1, 2), num_classes=5)
    image = jnp.zeros((2, 16, 16, 3))
    batch = {"image": image, "label": jnp.zeros(2, jnp.int32)}
    params = closeness.random_params(objective, batch, train=False)
    moving = {"mean": jnp.zeros(32), "variance": jnp.ones(32)}
    bound = objective.bind({"params": params, "moving": moving})
    probed = jax.jit(bound.probed)
    before = probed(image)
    assert before.shape == (2, 16, 32), "no class token"
    after = probed(swap(image, jnp.tile(jnp.arange(16) == 15, (2, 1))))
    assert changed(before, after).all()


def test_aim_never_predicts_the_prefix(encoder):
    """No gradient reaches patches before the prefix length as targets."""
    objective = aim.Objective(encoder(cls=False)).bind({})
    prefix = jnp.asarray([1, 6])
    predicted = jax.random.normal(jax.random.key(4), (2, 16, 48))
    pull = jax.jit(jax.grad(lambda x: objective.loss(x, predicted, prefix)))
    reach = patches.patchify(pull(BATCH["image"]), (4, 4)).any(axis=-1)
    np.testing.assert_array_equal(reach, masking.beyond_prefix(prefix, 16))
    assert not reach[:, 0].any()
