"""MAE as its paper's ablations vary it; the published one is in test_golden."""

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import masking, posembed, train
from mimjax.objectives import mae
from mimjax.run import setup

BATCH = {"image": jax.random.normal(jax.random.key(0), (2, 16, 16, 3))}
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.mark.parametrize("sampling", mae.SAMPLING)
def test_patches_are_drawn_as_named(encoder, sampling):
    objective = mae.Objective(encoder(), sampling=sampling, **SMALL)
    assert objective.problems() == []
    params = closeness.random_params(objective, BATCH, train=False)
    rngs = {"mask": jax.random.key(1)}

    @jax.jit
    def run():
        ids = objective.apply({"params": params}, 2, method="draw", rngs=rngs)
        key = closeness.key_of(objective, {"params": params}, rngs, "mask")
        # A block is of 16 of 196 patches or more: of 16 patches, of one.
        wanted = {
            "random": masking.random_ids(key, 2, 16, 4),
            "block": masking.block_ids(key, 2, (4, 4), 4, 1),
            "grid": masking.grid_ids(2, (4, 4)),
        }
        answer = objective.apply({"params": params}, BATCH, train=True, rngs=rngs)
        return ids, wanted[sampling], answer

    (keep, drop), wanted, (loss, _) = run()
    assert (keep.shape, drop.shape) == ((2, 4), (2, 12))
    for ids, those in zip((keep, drop), wanted, strict=True):
        np.testing.assert_array_equal(ids, those)
    if sampling == "grid":
        assert np.asarray(keep).tolist() == [[0, 2, 8, 10]] * 2
    assert np.isfinite(loss)


def test_mask_tokens_in_the_encoder_by_hand(encoder):
    """The slower variant is the encoder on all patches, some of them one token."""
    objective = mae.Objective(encoder(), mask_in_encoder=True, **SMALL)
    params = closeness.random_params(objective, BATCH, train=False)
    assert params["mask_token"].shape == (1, 1, 32), "as wide as the encoder"
    keep, drop = masking.random_ids(jax.random.key(3), 2, 16, 4)

    @jax.jit
    def run():
        bound = objective.bind({"params": params})
        every = bound.encoder.embed(BATCH["image"])
        hidden = masking.hidden_from_ids(drop, 16)
        every = jnp.where(hidden[:, :, None], params["mask_token"], every)
        x = bound.decoder_embed(bound.encoder(every))
        table = jnp.asarray(posembed.sincos_2d((4, 4), 16))
        x = jnp.concatenate([x[:, :1], x[:, 1:] + table], axis=1)
        x, _ = bound.decoder(x)
        wanted = bound.decoder_pred(bound.decoder_norm(x))[:, 1:]
        return bound.predict(BATCH["image"], keep, drop), wanted

    predicted, wanted = run()
    order = jnp.concatenate([keep, drop], axis=1)
    assert closeness.difference(masking.put_back(predicted, order), wanted) < 1e-5


@pytest.mark.parametrize("mask_in_encoder", [False, True])
def test_registers_end_before_the_decoder(encoder, mask_in_encoder):
    """They are heard in the encoder, and the decoder has no token for them."""
    objective = mae.Objective(
        encoder(registers=3), mask_in_encoder=mask_in_encoder, **SMALL
    )
    assert objective.problems() == []
    params = closeness.random_params(objective, BATCH, train=False)
    keep, drop = masking.random_ids(jax.random.key(3), 2, 16, 4)

    @jax.jit
    def run(registers):
        variables = {
            "params": {**params, "encoder": {**params["encoder"], **registers}}
        }
        return objective.apply(
            variables,
            BATCH["image"],
            keep,
            drop,
            method="predict",
            capture_intermediates=lambda module, _: module.name == "decoder_norm",
        )

    registers = {"register_tokens": params["encoder"]["register_tokens"]}
    predicted, seen = run(registers)
    assert predicted.shape == (2, 16, 48)
    (decoded,) = seen["intermediates"]["decoder_norm"]["__call__"]
    assert decoded.shape == (2, 1 + 16, 16)
    other, _ = run(jax.tree.map(jnp.negative, registers))
    assert (other != predicted).any(axis=-1).all()


def test_tokens_as_targets_by_hand():
    """Cross-entropy of the tokenizer's tokens at hidden patches, and their share."""
    given = tiny.resolve("mae", objective__tokenizer=tiny.workdir_of("dvae"))
    objective, state = given.objective, tiny.start(given, tiny.mesh_of())
    variables = {"params": state.params, **state.frozen}
    sizes = {"image": (16, 16), "view": objective.view_size}
    pixels = {
        name: jax.random.uniform(jax.random.key(n), (4, *size, 3))
        for n, (name, size) in enumerate(sizes.items())
    }
    given = {"image": pixels["image"] * 2 - 1, "view": pixels["view"]}
    rngs = {"mask": jax.random.key(1), "drop": jax.random.key(2)}

    @jax.jit
    def run():
        bound = objective.bind(variables, rngs=rngs)
        keep, drop = bound.draw(4)
        teacher = state.frozen["frozen"]["tokenizer"]
        net = objective.teacher.objective
        return {
            "answer": objective.apply(variables, given, train=False, rngs=rngs),
            "panels": objective.apply(
                variables,
                {**given, "pixels": pixels["image"]},
                method="panels",
                rngs=rngs,
            ),
            "tokens": net.apply(teacher, given["view"], method="tokens"),
            "scores": bound.predict(given["image"], keep, drop),
            "drop": drop,
        }

    found = run()
    (loss, metrics), tokens, drop = found["answer"], found["tokens"], found["drop"]
    scores = np.asarray(found["scores"][:, -drop.shape[1] :], np.float64)
    assert scores.shape == (4, 12, 16), "a score for every code"
    losses, right = [], []
    for b in range(4):
        for m, n in enumerate(np.asarray(drop[b])):
            chance = np.exp(scores[b, m]) / np.exp(scores[b, m]).sum()
            losses.append(-np.log(chance[tokens[b, n]]))
            right.append(scores[b, m].argmax() == tokens[b, n])
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right), rtol=1e-6)
    panels = found["panels"]
    assert set(panels) == {"original", "masked", "tokens", "predicted"}
    assert {panel.shape for panel in panels.values()} == {(4, 16, 16, 3)}


def test_a_step_sorts_once_and_scatters_nothing():
    """Patches are never put back in order, and are gathered as pixels."""
    given = tiny.resolve("mae")
    given, mesh = setup.place(given, jax.devices()[:1])
    step = jax.jit(train.make_step(given, setup.make_plan(given, 100), mesh))
    with jax.set_mesh(mesh):
        state, batch = (
            train.abstract_state(given, mesh),
            train.abstract_batch(given, mesh),
        )
        text = step.lower(state, batch, np.uint32(0)).as_text()
    assert text.count("stablehlo.sort") == 1
    assert "stablehlo.scatter" not in text
