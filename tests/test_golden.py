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

from mimjax import frozen, masking, patches
from mimjax.backbones import hybrid, swin, vit
from mimjax.objectives import aim, attentive, beit, classify, dvae, mae, simmim
from mimjax.tokenizers import dvae as dvae_net

SWIN_BUFFERS = ("relative_position_index", "attn_mask")
OUTPUT, LOSS, GRADIENT, FLOOR = 3e-6, 1e-6, 1e-5, 1e-7


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden file with our objective, how to read its weights, and what is fed in."""

    golden: official.Golden
    objective: Any
    read: Callable[[official.Source], Any]
    image: jax.Array
    drawn: tuple[Any, ...]
    target: Any = None


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


def swin_encoder(golden: official.Golden) -> swin.Encoder:
    sizes = golden.config["kwargs"]
    return swin.Encoder(
        image_size=(sizes["img_size"],) * 2,
        patch_size=(sizes["patch_size"],) * 2,
        width=sizes["embed_dim"],
        depths=tuple(sizes["depths"]),
        heads=tuple(sizes["num_heads"]),
        window=sizes["window_size"],
        mlp_ratio=sizes["mlp_ratio"],
        norm_eps=golden.config["layer_norm_eps"],
    )


def simmim_swin_case() -> Case:
    golden = official.load("simmim_swin")
    encoder = swin_encoder(golden)
    assert encoder.cell == (golden.config["encoder_stride"],) * 2

    def read(source: official.Source) -> Any:
        return {
            "encoder": official.swin_encoder(source.below("encoder."), encoder.heads),
            "mask_token": source["encoder.mask_token"],
            "decoder": official.pixel_shuffle(source, "decoder.0", encoder.cell[0]),
        }

    objective = simmim.Objective(encoder, mask_cell=encoder.cell[0])
    # Every cell is hidden as a whole.
    fine = golden.input["mask"] == 1
    hidden = fine[:, ::2, ::2]
    np.testing.assert_array_equal(hidden.repeat(2, 1).repeat(2, 2), fine)
    image = official.nhwc(golden.input["images"])
    return Case(golden, objective, read, image, (jnp.asarray(hidden.reshape(2, -1)),))


def beit_case(name: str) -> Case:
    golden = official.load(name)
    sizes = golden.config["kwargs"]
    encoder = vit.Encoder(
        image_size=(sizes["img_size"],) * 2,
        patch_size=(sizes["patch_size"],) * 2,
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        position="learned" if sizes["use_abs_pos_emb"] else "relative",
        qkv_bias="qv",
        layer_scale=sizes["init_values"],
        norm_eps=golden.config["layer_norm_eps"],
        start="beit",
    )
    hidden = jnp.asarray(golden.input["bool_masked_pos"])
    tokens = jnp.asarray(golden.input["token_ids"], jnp.int32)

    def read(source: official.Source) -> Any:
        return official.beit(source, sizes["num_heads"])

    # As many places as the fullest sample has: the others fill up with visible ones.
    objective = beit.Objective(
        encoder,
        tokenizer=frozen.Model(
            dvae.Objective(dvae_net.Encoder(num_codes=sizes["vocab_size"])), (0,), (1,)
        ),
        num_hidden=int(hidden.sum(axis=1).max()),
    )
    image = official.nhwc(golden.input["images"])
    return Case(golden, objective, read, image, (hidden,), tokens)


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


def check(case: Case, predicted: Any, encoded: Any) -> Any:
    """Everything the official code says about a case; returns our prediction."""
    golden = case.golden
    golden.compares(case.objective.encoder)
    params = case.read(golden.weights)
    ours = closeness.ask(
        case.objective, params, case.image, *case.drawn, target=case.target
    )
    closeness.same_loss(ours.loss, golden.output["loss"], LOSS)
    assert closeness.difference(ours.predicted, predicted) < OUTPUT
    # The class token is not stored everywhere.
    tokens = ours.encoded[:, ours.encoded.shape[1] - encoded.shape[1] :]
    assert closeness.difference(tokens, encoded) < OUTPUT
    closeness.same_gradients(ours.grads, case.read(golden.grads), GRADIENT, FLOOR)
    assert not golden.grads.unread
    return ours.predicted


@pytest.mark.parametrize("name", ["mae_normpix", "mae_rawpix"])
def test_mae(name):
    case = mae_case(name)
    keep, drop = case.drawn
    output = case.golden.output
    hidden = masking.hidden_from_ids(drop, case.objective.encoder.num_tokens)
    np.testing.assert_array_equal(hidden, output["mask"] == 1)
    order = jnp.concatenate([keep, drop], axis=1)
    np.testing.assert_array_equal(jnp.argsort(order, axis=1), output["ids_restore"])
    predicted = masking.take(jnp.asarray(output["pred"]), order)
    ours = check(case, predicted, output["latent"])
    assert case.golden.weights.unread == {"pos_embed", "decoder_pos_embed"}
    restored = masking.put_back(ours, order)
    assert closeness.difference(restored, output["pred"]) < OUTPUT


def test_simmim():
    case = simmim_case()
    output, size = case.golden.output, case.objective.encoder.patch_size
    picture = official.nhwc(output["reconstruction"])
    tokens = official.nhwc(output["encoder"]).reshape(2, 16, -1)
    check(case, patches.patchify(picture, size), tokens)
    index = "encoder.rel_pos_bias.relative_position_index"
    assert case.golden.weights.unread == {index}


def test_simmim_on_swin():
    case = simmim_swin_case()
    output, cell = case.golden.output, case.objective.encoder.cell
    picture = official.nhwc(output["reconstruction"])
    tokens = official.nhwc(output["encoder"]).reshape(2, 64, -1)
    check(case, patches.patchify(picture, cell), tokens)
    assert all(n.endswith(SWIN_BUFFERS) for n in case.golden.weights.unread)


@pytest.mark.parametrize("name", ["swin_cls", "swin_cls_clamped_window"])
def test_swin(name):
    golden = official.load(name)
    encoder = swin_encoder(golden)

    def read(source: official.Source) -> Any:
        head = official.linear(source, "head")
        return {"encoder": official.swin_encoder(source, encoder.heads), "head": head}

    objective = classify.Objective(
        encoder, num_classes=golden.config["kwargs"]["num_classes"], pool="gap"
    )
    golden.compares(encoder)
    image = official.nhwc(golden.input["images"])
    label = jnp.asarray(golden.input["labels"], jnp.int32)
    params = read(golden.weights)
    ours = closeness.ask(objective, params, image, label)
    closeness.same_loss(ours.loss, golden.output["loss"], LOSS)
    assert closeness.difference(ours.predicted, golden.output["logits"]) < OUTPUT
    features = ours.encoded.mean(axis=1)
    assert closeness.difference(features, golden.output["features"]) < OUTPUT
    closeness.same_gradients(ours.grads, read(golden.grads), GRADIENT, FLOOR)
    assert not golden.grads.unread
    assert all(n.endswith(SWIN_BUFFERS) for n in golden.weights.unread)


@pytest.mark.parametrize("name", ["beit_pretrain_relbias", "beit_pretrain_abspos"])
def test_beit(name):
    case = beit_case(name)
    output, (hidden,) = case.golden.output, case.drawn
    ids = masking.first_ids(hidden, case.objective.num_hidden)
    every = masking.take(jnp.asarray(output["logits_all"]), ids)
    ours = check(case, every, output["hidden"])
    counted = jnp.take_along_axis(hidden, ids, axis=1)
    assert closeness.difference(ours[counted], output["logits"]) < OUTPUT
    index = "rel_pos_bias.relative_position_index"
    assert case.golden.weights.unread <= {index}


def test_dalle():
    golden = official.load("dalle_dvae")
    config, output = golden.config, golden.output
    objective = dvae.Objective(
        dvae_net.Encoder(
            image_size=(config["img_size"],) * 2,
            width=config["n_hid"],
            groups=config["group_count"],
            blocks=config["n_blk_per_group"],
            num_codes=config["vocab_size"],
        ),
        decoder_first=config["n_init"],
    )
    golden.compares(objective.encoder)
    variables = {"params": official.dalle(golden.weights)}
    assert not golden.weights.unread
    image = official.nhwc(golden.input["image"])

    @jax.jit
    def run(image):
        bound = objective.bind(variables)
        ids = bound.tokens(image)
        decoded = bound.decoder(jax.nn.one_hot(ids, config["vocab_size"]))
        return bound.encoder.logits(image), ids, decoded, bound.decode(ids)

    ours, ids, decoded, drawn = run(image)
    mapped = dvae_net.map_pixels(image)
    np.testing.assert_array_equal(mapped, official.nhwc(output["map_pixels"]))
    logits = official.nhwc(output["encoder_logits"])
    assert closeness.difference(ours.reshape(logits.shape), logits) < OUTPUT
    np.testing.assert_array_equal(ids, output["ids"].reshape(len(ids), -1))
    theirs = official.nhwc(output["decoder_output"])
    assert closeness.difference(decoded, theirs) < OUTPUT
    theirs = official.nhwc(output["reconstruction_unmap_pixels"])
    np.testing.assert_allclose(drawn, theirs, atol=1e-6)
    ramp = official.nhwc(golden.input["ramp"])
    unmapped = official.nhwc(output["unmap_pixels_of_ramp"])
    np.testing.assert_allclose(dvae_net.unmap_pixels(ramp), unmapped, atol=1e-7)


def test_aim():
    case = aim_case()
    (prefix,) = case.drawn
    objective, output = case.objective, case.golden.output
    attn_mask = masking.PrefixCausal(prefix).allowed(objective.encoder.num_tokens)
    np.testing.assert_array_equal(attn_mask, output["attention_mask"])
    hidden = masking.beyond_prefix(prefix, objective.encoder.num_tokens)
    np.testing.assert_array_equal(hidden, output["prediction_mask"])
    check(case, output["head_predictions"], output["trunk_normed"])
    frozen = {"preprocessor.pos_embed", "head.decoder_pos_embed"}
    assert case.golden.weights.unread == frozen

    raw = objective.clone(norm_pixels=False).bind({})
    np.testing.assert_array_equal(raw.targets(case.image), output["targets_raw"])
    targets = objective.bind({}).targets(case.image)
    assert closeness.difference(targets, output["targets_normalised"]) < OUTPUT
    predicted = jnp.asarray(output["head_predictions"])
    loss = raw.loss(case.image, predicted, prefix)
    np.testing.assert_allclose(loss, output["loss_without_norm_pix"], rtol=LOSS)


def check_layers(encoder, params, image, placed, layers, attn_mask=None) -> None:
    """Tokens with their positions and the output of every layer."""

    @jax.jit
    def run(params):
        bound = encoder.bind({"params": params})
        tokens = bound.embed(image)
        every = [
            bound.run(tokens, attn_mask=attn_mask, chosen=(layer,))[1]
            for layer in range(1, encoder.depth + 1)
        ]
        return bound.add_positions(tokens, None), every

    first, every = run(params)
    assert closeness.difference(first, placed) < OUTPUT
    assert len(every) == len(layers)
    for ours, theirs in zip(every, layers, strict=True):
        assert closeness.difference(ours, theirs) < OUTPUT


def test_layers_of_aim_with_a_prefix():
    case = aim_case()
    output = case.golden.output
    case.golden.compares(case.objective.encoder)
    params = case.read(case.golden.weights)["encoder"]
    layers = [output[f"block_{i}"] for i in range(2)]
    attn_mask = jnp.asarray(output["attention_mask"])
    placed = output["tokens_with_position"]
    encoder = case.objective.encoder
    check_layers(encoder, params, case.image, placed, layers, attn_mask)


def test_layers_of_aim_without_a_mask():
    golden = official.load("aim_v1_probe")
    heads, output = golden.config["num_heads"], golden.output
    params = official.aim_encoder(golden.weights, heads, official.ML_AIM)
    assert all(name.startswith("head.") for name in golden.weights.unread)
    layers = [output[f"block_{i}"] for i in range(3)]
    image, placed = official.nhwc(golden.input["image"]), output["tokens_with_position"]
    encoder = aim_encoder(golden.config)
    golden.compares(encoder)
    check_layers(encoder, params, image, placed, layers)
    norm = encoder.bind({"params": params}).norm
    last = output["post_trunk_norm_of_last_block"]
    assert closeness.difference(norm(jnp.asarray(layers[-1])), last) < OUTPUT


def attentive_case() -> tuple[official.Golden, attentive.Objective, Any, Any]:
    """The golden file, our objective, its variables and a batch."""
    golden = official.load("aim_v1_probe")
    config = golden.config
    objective = attentive.Objective(
        aim_encoder(config),
        num_classes=config["num_classes"],
        layers=tuple(layer + 1 for layer in config["probe_layers"]),
    )
    variables = official.attentive(golden.weights, config["num_heads"])
    assert golden.weights.unread == {"head.bn.num_batches_tracked"}
    image = official.nhwc(golden.input["image"])
    label = jnp.asarray(golden.input["label"], jnp.int32)
    return golden, objective, variables, {"image": image, "label": label}


def test_attentive_probe():
    """With running statistics: scores, loss and every gradient, the trunk's too."""
    golden, objective, variables, batch = attentive_case()
    golden.compares(objective.encoder)
    output, heads = golden.output, golden.config["num_heads"]

    @jax.jit
    def run(image):
        bound = objective.bind(variables)
        return bound.probed(image), bound.logits(image)

    probed, logits = run(batch["image"])
    assert closeness.difference(probed, output["averaged_features"]) < OUTPUT
    assert closeness.difference(logits, output["logits_eval"]) < OUTPUT

    @jax.jit
    @jax.value_and_grad
    def loss_of(params):
        whole = {**variables, "params": params}
        return objective.apply(whole, batch, train=False)[0]

    loss, grads = loss_of(variables["params"])
    np.testing.assert_allclose(loss, output["loss_eval"], rtol=LOSS)
    unused = jax.tree.leaves(grads["encoder"].pop("norm"))
    assert not any(x.any() for x in unused)
    source = golden.grads.below("eval_mode/")
    # The official code has no gradient of the norm that is not used.
    arrays = {n.removeprefix("eval_mode/"): x for n, x in source.arrays.items()}
    ends = {f"trunk.post_trunk_norm.{n}": np.zeros(32) for n in ("weight", "bias")}
    source = official.Source(arrays | ends)
    theirs = {
        "encoder": official.aim_encoder(source, heads, official.ML_AIM),
        **official.attentive_head(source, heads),
    }
    theirs["encoder"].pop("norm")
    closeness.same_gradients(grads, theirs, GRADIENT, FLOOR)
    assert all(name.startswith("train_mode/") for name in source.unread)


def test_attentive_probe_in_training():
    """By the statistics of the batch, which move the running ones."""
    golden, objective, variables, batch = attentive_case()
    golden.compares(objective.encoder)
    output, heads = golden.output, golden.config["num_heads"]
    features = jnp.asarray(output["averaged_features"])

    @jax.jit
    def logits_of(params):
        return objective.apply(
            {**variables, "params": params},
            features,
            train=True,
            method="classified",
            mutable=["moving"],
        )

    logits, moved = logits_of(variables["params"])
    assert closeness.difference(logits, output["logits_train"]) < OUTPUT
    for ours, theirs in (("mean", "mean"), ("variance", "var")):
        after = output[f"bn_running_{theirs}_after"]
        assert closeness.difference(moved["moving"][ours], after) < OUTPUT

    @jax.jit
    @jax.value_and_grad
    def loss_of(params):
        whole = {**variables, "params": params}
        return objective.apply(whole, batch, train=True)[0]

    loss, grads = loss_of(variables["params"])
    np.testing.assert_allclose(loss, output["loss_train"], rtol=LOSS)
    grads.pop("encoder")
    theirs = official.attentive_head(golden.grads.below("train_mode/"), heads)
    closeness.same_gradients(grads, theirs, GRADIENT, FLOOR)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attentive_probe_in_float64(mode, monkeypatch):
    """Positions rounded once, officially computed in float32, move it by 1e-8.

    An eps of 1e-5 for 1e-6 moves it by 5e-7 and more.
    """
    with jax.enable_x64(True):
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        golden, objective, variables, batch = attentive_case()
        encoder = objective.encoder.clone(dtype="float64")
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        batch["image"] = jnp.asarray(batch["image"], jnp.float64)
        loss, _ = jax.jit(
            lambda variables: objective.clone(encoder=encoder).apply(
                variables, batch, train=mode == "train"
            )
        )(wide)
        assert loss.dtype == np.float64
        wanted = golden.loss64[["eval", "train"].index(mode)]
        np.testing.assert_allclose(loss, wanted, rtol=2e-8)


def hybrid_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of the hybrid, whose patches are counted in pixels of the image here."""
    stages = tuple(config["resnet_num_layers"])
    stride = hybrid.stride_of(stages)
    return {
        "stages": stages,
        "stem_width": int(64 * config["width_factor"]),
        "patch_size": tuple(side * stride for side in config["patch"]),
        "mlp_ratio": config["mlp_dim"] / config["hidden_size"],
    }


@pytest.mark.parametrize(
    "name",
    [
        "vit_jax_token",
        "vit_jax_token_rep",
        "vit_jax_gap",
        "vit_jax_hybrid_stem_only",
        "vit_jax_hybrid_r11",
    ],
)
def test_vit_jax(name):
    golden = official.load(name)
    if name.endswith("r11"):
        # A file of its own holds the gradients.
        grads = official.load(f"{name}_grads").grads
        golden = dataclasses.replace(golden, grads=grads)
    config, output = golden.config, golden.output
    own, kind = {"patch_size": tuple(config["patch"])}, vit.Encoder
    if "hybrid" in name:
        own, kind = hybrid_fields(config), hybrid.Encoder
    encoder = kind(
        image_size=(config["img_size"],) * 2,
        **own,
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
    case = Case(golden, objective, official.vit_jax, image, (label,))
    check(case, output["logits"], output["intermediate_Transformer.encoder_norm"])
    assert not golden.weights.unread


@pytest.mark.parametrize(
    "make",
    [
        lambda: mae_case("mae_normpix"),
        simmim_case,
        simmim_swin_case,
        aim_case,
        lambda: beit_case("beit_pretrain_relbias"),
    ],
    ids=["mae", "simmim", "simmim_swin", "aim", "beit"],
)
def test_float64_meets_the_official_float64(make, monkeypatch):
    """Rounding hides an eps of 1e-12 for 1e-6; with everything in float64 it shows."""
    case = make()
    with jax.enable_x64(True):
        # The modules name float32 where design wants it whatever the dtype.
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        encoder = case.objective.encoder.clone(dtype="float64")
        objective = case.objective.clone(encoder=encoder)
        wide = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), case.read(case.golden.weights)
        )
        image = jnp.asarray(case.image, jnp.float64)

        @jax.jit
        def run(params):
            bound = objective.bind({"params": params})
            target = image if case.target is None else case.target
            return bound.loss(target, bound.predict(image, *case.drawn), case.drawn[-1])

        loss = run(wide)
        assert loss.dtype == np.float64
        np.testing.assert_allclose(loss, case.golden.loss64, rtol=2e-9)
