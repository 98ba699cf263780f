"""Outputs, losses and gradients of the official implementations (golden/README.md)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest

from mimjax import masking
from mimjax.backbones import vit
from mimjax.objectives import aim, classify, mae, simmim

OUTPUT, LOSS, GRADIENT, FLOOR = 1e-5, 3e-6, 3e-5, 1e-7


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden file with our objective, how to read its weights, and what is fed in."""

    golden: official.Golden
    objective: Any
    read: Callable[[official.Source], Any]
    image: jax.Array
    drawn: tuple[Any, ...]

    def params(self) -> Any:
        return self.read(self.golden.weights)


def mae_case(name: str) -> Case:
    golden = official.load(name)
    sizes = golden.config["kwargs"]
    encoder = vit.Encoder(
        image_size=(sizes["img_size"],) * 2,
        patch_size=(sizes["patch_size"],) * 2,
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        norm_eps=golden.config["layer_norm_eps"],
    )
    objective = mae.Objective(
        encoder,
        mask_ratio=golden.config["mask_ratio"],
        decoder_width=sizes["decoder_embed_dim"],
        decoder_depth=sizes["decoder_depth"],
        decoder_heads=sizes["decoder_num_heads"],
        norm_pixels=sizes["norm_pix_loss"],
    )
    assert objective.num_kept == golden.config["len_keep"]
    order = jnp.argsort(golden.input["noise"], axis=1)
    drawn = (order[:, : objective.num_kept], order[:, objective.num_kept :])

    def read(source: official.Source) -> Any:
        return official.mae(source, sizes["num_heads"], sizes["decoder_num_heads"])

    return Case(golden, objective, read, official.nhwc(golden.input["images"]), drawn)


def simmim_case() -> Case:
    golden = official.load("simmim_vit")
    sizes = golden.config["kwargs"]
    encoder = vit.Encoder(
        image_size=(sizes["img_size"],) * 2,
        patch_size=(sizes["patch_size"],) * 2,
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        position="relative",
        qkv_bias="qv",
        layer_scale=sizes["init_values"],
        norm_eps=golden.config["layer_norm_eps"],
        start="beit",
    )
    hidden = jnp.asarray(golden.input["mask"].reshape(2, -1) == 1)

    def read(source: official.Source) -> Any:
        return official.simmim(source, sizes["num_heads"], sizes["patch_size"])

    objective = simmim.Objective(encoder, mask_cell=sizes["patch_size"])
    return Case(
        golden, objective, read, official.nhwc(golden.input["images"]), (hidden,)
    )


def aim_encoder(config: dict[str, Any]) -> vit.Encoder:
    return vit.Encoder(
        image_size=(config["img_size"],) * 2,
        patch_size=(config["patch_size"],) * 2,
        width=config["embed_dim"],
        depth=config["num_blocks"],
        heads=config["num_heads"],
        cls=False,
        qkv_bias="none",
        bias=False,
        patch_norm=True,
        norm_eps=config["layer_norm_eps"],
        start="aim",
    )


def aim_case() -> Case:
    golden = official.load("aim_v1_pretrain_eps1e-5")
    config = golden.config
    objective = aim.Objective(
        aim_encoder(config),
        head_width=config["head_embed_dim"],
        head_depth=config["head_num_blocks"],
    )
    image = official.nhwc(golden.input["image"])
    prefix = jnp.asarray(golden.input["prefix_length"], jnp.int32)
    assert {1, objective.encoder.num_tokens - 1} <= set(prefix.tolist())

    def read(source: official.Source) -> Any:
        return official.aim(source, config["num_heads"])

    return Case(golden, objective, read, image, (prefix,))


def check(case: Case, result: tuple[Any, Any, Any, Any], predicted: Any) -> None:
    """Loss, prediction and all gradients of a case; `predicted` is the official one."""
    loss, ours, grads, _ = result
    expected = case.golden.output["loss"]
    np.testing.assert_allclose(loss, expected, rtol=LOSS)
    assert closeness.difference(ours, predicted) < OUTPUT
    closeness.same_gradients(grads, case.read(case.golden.grads), GRADIENT, FLOOR)
    assert not case.golden.grads.unread


@pytest.mark.parametrize("name", ["mae_normpix", "mae_rawpix"])
def test_mae(name):
    case = mae_case(name)
    keep, drop = case.drawn

    def latent(bound):
        return bound.encoder(bound.encoder.embed(case.image, keep), keep)

    result = closeness.loss_and_gradients(
        case.objective, case.params(), case.image, keep, drop, also=latent
    )
    assert case.golden.weights.unread == {"pos_embed", "decoder_pos_embed"}
    output = case.golden.output
    hidden = masking.hidden_from_ids(drop, case.objective.encoder.num_tokens)
    np.testing.assert_array_equal(hidden, output["mask"] == 1)
    order = jnp.concatenate([keep, drop], axis=1)
    check(case, result, masking.take(jnp.asarray(output["pred"]), order))
    assert closeness.difference(result[3], output["latent"]) < OUTPUT
    restored = masking.put_back(result[1], order)
    assert closeness.difference(restored, output["pred"]) < OUTPUT


def test_simmim():
    case = simmim_case()

    def features(bound):
        encoder, hidden = bound.encoder, case.drawn[0][:, :, None]
        tokens = jnp.where(hidden, bound.mask_token, encoder.embed(case.image))
        return encoder.patch_tokens(encoder(tokens))

    result = closeness.loss_and_gradients(
        case.objective, case.params(), case.image, *case.drawn, also=features
    )
    index = "encoder.rel_pos_bias.relative_position_index"
    assert case.golden.weights.unread == {index}
    output = case.golden.output
    image = official.nhwc(output["reconstruction"])
    side = case.objective.encoder.patch_size[0]
    rows = image.reshape(2, 4, side, 4, side, 3).transpose(0, 1, 3, 2, 4, 5)
    check(case, result, rows.reshape(2, 16, -1))
    tokens = official.nhwc(output["encoder"]).reshape(2, 16, -1)
    assert closeness.difference(result[3], tokens) < OUTPUT


def trunk(encoder, image, attn_mask=None):
    """Tokens with positions, the output of every layer, and the normed last one."""
    tokens = encoder.embed(image)
    _, layers = encoder.run(tokens, attn_mask=attn_mask, collect=True)
    placed = encoder.add_positions(tokens, None)
    return placed, layers, encoder(tokens, attn_mask=attn_mask)


def test_aim():
    case = aim_case()
    (prefix,) = case.drawn
    output, num_tokens = case.golden.output, case.objective.encoder.num_tokens
    attn_mask = masking.prefix_causal(prefix, num_tokens)
    np.testing.assert_array_equal(attn_mask, output["attention_mask"])
    hidden = masking.beyond_prefix(prefix, num_tokens)
    np.testing.assert_array_equal(hidden, output["prediction_mask"])

    def more(bound):
        raw = bound.clone(norm_pixels=False)
        targets = (bound.targets(case.image), raw.targets(case.image))
        predicted = jnp.asarray(output["head_predictions"])
        raw_loss = raw.loss(case.image, predicted, prefix)
        return *trunk(bound.encoder, case.image, attn_mask), *targets, raw_loss

    result = closeness.loss_and_gradients(
        case.objective, case.params(), case.image, prefix, also=more
    )
    frozen = {"preprocessor.pos_embed", "head.decoder_pos_embed"}
    assert case.golden.weights.unread == frozen
    check(case, result, output["head_predictions"])
    placed, layers, normed, targets, raw, raw_loss = result[3]
    assert closeness.difference(placed, output["tokens_with_position"]) < OUTPUT
    for i, layer in enumerate(layers):
        assert closeness.difference(layer, output[f"block_{i}"]) < OUTPUT
    assert closeness.difference(normed, output["trunk_normed"]) < OUTPUT
    assert closeness.difference(targets, output["targets_normalised"]) < OUTPUT
    np.testing.assert_array_equal(raw, output["targets_raw"])
    np.testing.assert_allclose(raw_loss, output["loss_without_norm_pix"], rtol=LOSS)


def test_aim_trunk_without_a_mask():
    golden = official.load("aim_v1_probe")
    encoder = aim_encoder(golden.config)
    heads = golden.config["num_heads"]
    params = official.aim_encoder(golden.weights, heads, official.ML_AIM)
    assert all(name.startswith("head.") for name in golden.weights.unread)
    image = official.nhwc(golden.input["image"])
    placed, layers, normed = jax.jit(
        lambda params: trunk(encoder.bind({"params": params}), image)
    )(params)
    output = golden.output
    assert closeness.difference(placed, output["tokens_with_position"]) < OUTPUT
    for i, layer in enumerate(layers):
        assert closeness.difference(layer, output[f"block_{i}"]) < OUTPUT
    last = output["post_trunk_norm_of_last_block"]
    assert closeness.difference(normed, last) < OUTPUT


@pytest.mark.parametrize("name", ["vit_jax_token", "vit_jax_token_rep", "vit_jax_gap"])
def test_vit_jax(name):
    golden = official.load(name)
    config, output = golden.config, golden.output
    encoder = vit.Encoder(
        image_size=(config["img_size"],) * 2,
        patch_size=tuple(config["patch"]),
        width=config["hidden_size"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        cls=config["classifier"] == "token",
        position="learned",
        gelu_tanh=True,
        start="vit",
    )
    objective = classify.Objective(
        encoder,
        num_classes=config["num_classes"],
        pool=config["classifier"],
        representation=config["representation_size"] or 0,
    )
    image, label = (jnp.asarray(golden.input[key]) for key in ("image", "label"))

    @jax.jit
    def run(params):
        def loss(params):
            bound = objective.bind({"params": params})
            value, _ = bound({"image": image, "label": label}, train=False)
            return value, (bound.logits(image), *trunk(bound.encoder, image))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (logits, placed, layers, normed)), grads = run(
        official.vit_jax(golden.weights)
    )
    assert not golden.weights.unread
    np.testing.assert_allclose(loss, output["loss"], rtol=LOSS)
    assert closeness.difference(logits, output["logits"]) < OUTPUT
    theirs = "intermediate_Transformer"
    for ours, name in (
        (placed, ".posembed_input"),
        (layers[0], ".encoderblock_0"),
        (layers[1], ".encoderblock_1"),
        (normed, ".encoder_norm"),
    ):
        assert closeness.difference(ours, output[theirs + name]) < OUTPUT
    expected = official.vit_jax(golden.grads)
    closeness.same_gradients(grads, expected, GRADIENT, FLOOR)
    assert not golden.grads.unread


@pytest.mark.parametrize(
    "make",
    [lambda: mae_case("mae_normpix"), simmim_case, aim_case],
    ids=["mae", "simmim", "aim"],
)
def test_float64_meets_the_official_float64(make, monkeypatch):
    """Rounding hides an eps of 1e-12 for 1e-6; with everything in float64 it shows."""
    case = make()
    with jax.enable_x64(True):
        # The modules name float32 where design wants it whatever the dtype.
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        encoder = case.objective.encoder.clone(dtype="float64")
        objective = case.objective.clone(encoder=encoder)
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), case.params())
        image = jnp.asarray(case.image, jnp.float64)
        bound = objective.bind({"params": wide})
        loss = bound.loss(image, bound.predict(image, *case.drawn), case.drawn[-1])
        assert loss.dtype == np.float64
        np.testing.assert_allclose(loss, case.golden.loss64, rtol=5e-9)
