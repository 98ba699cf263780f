"""BEiT v2 and its tokenizer against the official implementation and by hand."""

import dataclasses
import pathlib

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import tiny
from flax import linen as nn

from mimjax import config, frozen, masking, origins, sharding
from mimjax.backbones import vit
from mimjax.objectives import beit2, classify, vqkd
from mimjax.tokenizers import codebook

OUTPUT, LOSS, GRADIENT, FLOOR = 3e-6, 1e-6, 1e-5, 1e-7


def encoder_of(sizes, **fields):
    return vit.Encoder(
        image_size=(sizes["img_size"],) * 2,
        patch_size=(sizes["patch_size"],) * 2,
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        qkv_bias="qv",
        norm_eps=sizes["layer_norm_eps"],
        **fields,
    )


def tokenizer():
    """The official tokenizer: file, objective, parameters and codes."""
    golden = official.load("beit2_vqkd")
    sizes = golden.config
    teacher = vit.Encoder(width=sizes["decoder_out_dim"], heads=1, depth=1)
    objective = vqkd.Objective(
        encoder_of(sizes, position="learned", start="beit_normal"),
        teacher=frozen.Model(classify.Objective(teacher), (0.5,), (0.5,)),
        num_codes=sizes["n_code"],
        code_width=sizes["code_dim"],
        decay=sizes["decay"],
        commitment=sizes["beta"],
        decoder_width=sizes["dec_embed_dim"],
        decoder_depth=sizes["dec_depth"],
        decoder_heads=sizes["dec_num_heads"],
    )
    heads = sizes["num_heads"], sizes["dec_num_heads"]
    params = official.vqkd(golden.weights, *heads)
    codes = golden.weights["quantize.embedding.weight"]
    # Counts for a report, of which no output depends.
    assert golden.weights.unread == {
        "quantize.cluster_size",
        "quantize.embedding.cluster_size",
        "quantize.embedding.embed_avg",
        "quantize.embedding.initted",
    }
    return golden, objective, params, jnp.asarray(codes)


def test_the_tokenizer_is_the_official_one():
    golden, objective, params, codes = tokenizer()
    golden.compares(objective.encoder)
    output = golden.output
    # What is made of the pixels: data.normalise="inception".
    image = (official.nhwc(golden.input["image"]) - 0.5) / 0.5
    np.testing.assert_allclose(image, official.nhwc(output["pre_processed"]), atol=1e-6)
    wanted = jnp.asarray(golden.input["teacher_target"])

    def loss_of(params):
        moving = {"codes": codes, "started": jnp.ones((), jnp.int32)}
        bound = objective.bind({"params": params, "moving": moving})
        vectors = bound.vectors(image)
        ids = codebook.nearest(vectors, codes)
        loss, metrics = bound.loss(wanted, vectors, codes[ids])
        return loss, (vectors, ids, bound.tokens(image), metrics)

    run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, (vectors, ids, tokens, metrics)), grads = run(params)
    np.testing.assert_array_equal(ids, output["ids_train"])
    np.testing.assert_array_equal(tokens, output["ids_eval"])
    features = jnp.asarray(output["to_quantizer_features"])
    assert closeness.difference(vectors, codebook.unit(features)) < OUTPUT
    closeness.same_loss(loss, output["loss"], LOSS)
    np.testing.assert_allclose(loss, golden.loss64, rtol=LOSS)
    commitment, cosine = metrics["commitment"], metrics["cosine"]
    np.testing.assert_allclose(commitment, output["commitment_loss"], rtol=LOSS)
    np.testing.assert_allclose(1 - cosine, output["rec_loss"], rtol=LOSS)
    read = official.vqkd(golden.grads, 3, 2)
    closeness.same_gradients(grads, read, GRADIENT, FLOOR)
    assert not golden.grads.unread
    after = codebook.moved(vectors, ids, codes, objective.decay)
    assert closeness.difference(after, output["codebook_after_train_step"]) < OUTPUT
    unused = np.setdiff1d(np.arange(len(codes)), np.asarray(ids))
    np.testing.assert_allclose(after[unused], codes[unused], atol=1e-7)


def test_groups_are_those_of_the_official_kmeans():
    golden = official.load("beit2_vqkd")
    samples = jnp.asarray(golden.input["kmeans_samples"])
    means = golden.output["kmeans_means"]
    found = codebook.kmeans(samples, samples[: len(means)])
    assert closeness.difference(found, means) < OUTPUT
    bins = np.bincount(codebook.nearest(samples, found), minlength=len(means))
    np.testing.assert_array_equal(bins, golden.output["kmeans_bins"])


def test_a_group_without_members_stays():
    vectors = codebook.unit(jnp.asarray([[1.0, 0.1], [1.0, -0.1]]))
    far = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(codebook.kmeans(vectors, far), far, atol=1e-6)


def test_codes_start_from_vectors_none_twice_if_there_are_enough():
    vectors = jax.random.normal(jax.random.key(0), (9, 4))
    found = np.asarray(codebook.first(jax.random.key(1), vectors, 6))
    assert len(np.unique(found, axis=0)) == 6
    few = np.asarray(codebook.first(jax.random.key(1), vectors, 20))
    known = {row.tobytes() for row in np.asarray(vectors)}
    for rows in (found, few):
        assert {row.tobytes() for row in rows} <= known


def test_the_pretraining_is_the_official_one():
    golden = official.load("beit2_pretrain_cls")
    sizes, output = golden.config, golden.output
    encoder = encoder_of(sizes, position="relative", layer_scale=0.1, start="beit")
    golden.compares(encoder)
    hidden = jnp.asarray(golden.input["mask"])
    tokenizer = vqkd.Objective(vit.Encoder(), num_codes=sizes["vocab_size"])
    objective = beit2.Objective(
        encoder,
        tokenizer=frozen.Model(tokenizer, (0.5,), (0.5,)),
        num_hidden=int(hidden.sum(axis=1).max()),
        early_layer=sizes["early_layers"],
        branch_depth=sizes["head_layers"],
    )
    image = official.nhwc(golden.input["image"])
    tokens = jnp.asarray(golden.input["ids"], jnp.int32)
    params = official.beit2(golden.weights, sizes["num_heads"])
    assert golden.weights.unread == {"rel_pos_bias.relative_position_index"}

    def loss_of(params):
        bound = objective.bind({"params": params})
        both = bound.predict_twice(image, hidden)
        losses = [bound.loss(tokens, logits, hidden) for logits in both]
        return losses[0] + losses[1], (losses, both)

    run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    (loss, (losses, both)), grads = run(params)
    ids = masking.first_ids(hidden, objective.num_hidden)
    for name, ours, part in zip(("main", "cls_branch"), both, losses, strict=True):
        every = jnp.asarray(output[f"logits_{name}_all_tokens"])
        assert closeness.difference(ours, masking.take(every, ids)) < OUTPUT
        np.testing.assert_allclose(part, output[f"loss_{name}"], rtol=LOSS)
    closeness.same_loss(loss, output["loss"], LOSS)
    np.testing.assert_allclose(loss, golden.loss64, rtol=LOSS)
    read = official.beit2(golden.grads, sizes["num_heads"])
    closeness.same_gradients(grads, read, GRADIENT, FLOOR)
    assert not golden.grads.unread


def drawn(given, count, wanted):
    """Which patches are hidden of so many images: those that `wanted` makes of it."""
    params = {"params": tiny.start(given, tiny.mesh_of()).params}
    rngs = {"mask": jax.random.key(0)}

    @jax.jit
    def run():
        key = closeness.key_of(given.objective, params, rngs, "mask")
        hidden = given.objective.apply(params, count, method="draw", rngs=rngs)
        return hidden, wanted(key)

    hidden, those = run()
    np.testing.assert_array_equal(hidden, those)
    return np.asarray(hidden)


def test_blocks_are_hidden_in_beit():
    given = tiny.resolve("beit")
    drawn(given, 64, lambda key: masking.block_wise(key, 64, (4, 4), 7, 2))


def test_always_as_many_patches_are_hidden_in_beit2():
    def wanted(key):
        ids = masking.block_ids(key, 64, (4, 4), 9, 2)[1]
        return masking.hidden_from_ids(ids, 16)

    hidden = drawn(tiny.resolve("beit2"), 64, wanted)
    assert (hidden.sum(axis=1) == 7).all()


@pytest.mark.parametrize("version", ["beit", "beit2"])
def test_hidden_patches_are_anywhere_where_no_blocks_are_wanted(version):
    given = tiny.resolve(version, objective__sampling="random")
    hidden = drawn(given, 2000, lambda key: masking.random_order(key, 2000, 16) < 7)
    grid = hidden.reshape(2000, 4, 4)
    assert (grid.sum(axis=(1, 2)) == 7).all()
    assert abs(grid.mean(axis=0) - 7 / 16).max() < 5 * np.sqrt(0.25 / 2000)
    pairs = (grid[:, :, 1:] & grid[:, :, :-1]).mean()
    assert abs(pairs - 7 * 6 / (16 * 15)) < 0.01


def test_layers_of_the_branch_have_tables_where_those_of_the_encoder_do():
    fields = {"width": 8, "depth": 3, "heads": 2, "position": "relative_layers"}
    encoder = vit.Encoder((16, 16), (4, 4), **fields)
    teacher = frozen.Model(vqkd.Objective(encoder, num_codes=9), (0.5,), (0.5,))
    objective = beit2.Objective(
        encoder, tokenizer=teacher, num_hidden=7, min_block=2, early_layer=1
    )
    image = jnp.zeros((1, 16, 16, 3))
    rngs = {name: jax.random.key(0) for name in ("params", "mask", "drop")}
    batch = {"image": image, "pixels": image}
    shapes = jax.eval_shape(lambda: objective.init(rngs, batch, train=False))["params"]
    for stack, layers in ((shapes["encoder"]["blocks"], 3), (shapes["branch"], 2)):
        assert stack["layers"]["relative_table"].shape == (layers, 7**2 + 3, 2)


def test_the_branch_goes_on_where_the_early_layers_end():
    """Starts and rates are by number; kernels are uniform as PyTorch's are."""
    encoder = vit.Encoder(
        image_size=(16, 16),
        patch_size=(4, 4),
        width=64,
        depth=6,
        heads=4,
        qkv_bias="qv",
        position="relative",
        layer_scale=0.1,
        drop_path=0.5,
        start="beit",
    )
    teacher = frozen.Model(vqkd.Objective(encoder, num_codes=9), (0.5,), (0.5,))
    objective = beit2.Objective(
        encoder, tokenizer=teacher, num_hidden=7, min_block=2, early_layer=3
    )
    image = jnp.zeros((1, 16, 16, 3))
    rngs = {name: jax.random.key(0) for name in ("params", "mask", "drop")}
    batch = {"image": image, "pixels": image}
    params = jax.jit(lambda: objective.init(rngs, batch, train=False))()
    layers = params["params"]["branch"]["layers"]
    for name, kernel, number_counts in (
        ("up", layers["mlp"]["up"]["kernel"], False),
        ("down", layers["mlp"]["down"]["kernel"], True),
        ("out", layers["attn"]["out"]["kernel"], True),
        ("qkv", layers["attn"]["qkv"]["kernel"], False),
    ):
        fan_in = 256 if name == "down" else 64
        for row, number in zip(kernel, (4, 5), strict=True):
            bound = fan_in**-0.5 / (np.sqrt(2 * number) if number_counts else 1)
            assert 0.97 * bound < np.abs(row).max() <= bound * (1 + 1e-6), name
    for bias in (layers["mlp"]["up"]["bias"], layers["attn"]["out"]["bias"]):
        assert 0.8 * 64**-0.5 < np.abs(bias).max() <= 64**-0.5
    assert np.abs(layers["mlp"]["down"]["bias"]).max() <= 256**-0.5
    assert not layers["attn"]["q_bias"].any()
    bound = objective.bind(params)
    assert bound.branch.first == 4
    # 6 layers from 0 to 0.5: the fourth and the fifth.
    np.testing.assert_allclose(bound.branch.drop_path, (0.3, 0.4))


@pytest.fixture(scope="module")
def compiled():
    """A run, and a copy of its first state on the host."""
    run = tiny.Run(tiny.resolve("vqkd"))
    return run, jax.device_get(run.state)


@pytest.fixture
def run(compiled):
    """The run at its first step."""
    run, first = compiled
    run.state = jax.device_put(first, sharding.shardings(first, run.mesh))
    return run


def vectors_of(run):
    """(state, batch) -> what is near one code or another, of a batch of pixels."""

    @jax.jit
    def vectors(state, batch):
        image = (batch["image"] / 255.0 - run.plan.mean) / run.plan.std
        variables = {"params": state.params, **state.frozen}
        image = jnp.asarray(image, jnp.float32)
        return run.config.objective.apply(variables, image, method="vectors")

    return vectors


def test_codes_begin_as_groups_and_then_follow_their_vectors(run):
    """By hand, from the vectors of each update and what the codes were before."""
    teacher, vectors_in = tiny.bits(run.state.frozen["frozen"]), vectors_of(run)
    for step in range(3):
        # A copy on the host: the state is given up to the update.
        before = jax.device_get(run.state)
        vectors = np.asarray(vectors_in(before, run.batch(step))).reshape(-1, 8)
        values = run.step()
        after = np.asarray(run.state.frozen["moving"]["codes"])
        codes = before.frozen["moving"]["codes"]
        if step == 0:
            assert before.frozen["moving"]["started"] == 0
            # As near as groups are: 0.56 with any directions, 0.85 with k-means.
            assert (vectors @ after.T).max(axis=1).mean() > 0.75
            continue
        ids = (vectors @ codes.T).argmax(axis=1)
        wanted = codes.copy()
        for code in np.unique(ids):
            mean = vectors[ids == code].mean(axis=0)
            mixed = 0.99 * codes[code] + 0.01 * mean / np.linalg.norm(mean)
            wanted[code] = mixed / np.linalg.norm(mixed)
        np.testing.assert_allclose(after, wanted, atol=1e-6)
        shares = np.bincount(ids, minlength=16) / len(ids)
        np.testing.assert_allclose(values["codes_used"], (shares > 0).mean())
        entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
        np.testing.assert_allclose(values["perplexity"], np.exp(entropy), rtol=1e-5)
    assert tiny.bits(run.state.frozen["frozen"]) == teacher, "it never changes"


def test_what_is_not_finite_does_not_move_the_codes(run):
    run.step()
    broken = jax.tree.map(lambda x: x * np.nan, run.state.params)
    state = jax.device_get(dataclasses.replace(run.state, params=broken))
    before = state.frozen["moving"]
    state, values = run.update(jax.device_put(state, jax.devices()[0]), run.batch(7))
    assert not np.isfinite(values["loss"])
    assert tiny.bits(state.frozen["moving"]) == tiny.bits(before)


def test_the_parts_of_a_batch_move_the_codes_in_turn():
    """By hand, from the vectors of the rows 0, 2, ... and then of 1, 3, ..."""
    run = tiny.Run(tiny.resolve("vqkd", optim__accumulate=2))
    run.step()
    before = jax.device_get(run.state)
    vectors = vectors_of(run)(before, run.batch(1))
    run.step()
    codes = jnp.asarray(before.frozen["moving"]["codes"])
    for part in (vectors[0::2], vectors[1::2]):
        codes = codebook.moved(part, codebook.nearest(part, codes), codes, 0.99)
    found = run.state.frozen["moving"]["codes"]
    np.testing.assert_allclose(found, codes, atol=1e-6)


def test_a_run_goes_on_from_the_codes_of_another(run):
    """With everything of it, or a decoder would meet codes it does not know."""
    source = pathlib.Path(tiny.workdir_of("vqkd"))
    state = tiny.start(run.config, run.mesh)
    saved = origins.read_part(
        origins.newest(source)[0],
        {"frozen": {"moving": jax.tree.map(jnp.copy, state.frozen["moving"])}},
    )["frozen"]["moving"]
    kept = tiny.bits(state.frozen)
    for scope in ("encoder", "all"):
        found, report = tiny.warm_start(state, source, scope)
        same = tiny.bits(found.frozen["moving"]) == tiny.bits(saved)
        assert same == ("moving/codes" in report["matched"]) == (scope == "all")
        assert tiny.bits(found.frozen["frozen"]) == tiny.bits(state.frozen["frozen"])
    assert tiny.bits(state.frozen) == kept
    assert len(np.unique(saved["codes"])) > 100, "there were some"


def test_the_teacher_is_asked_in_full_precision():
    encoder = tiny.resolve("classify", encoder__dtype="bfloat16").encoder
    teacher = classify.Objective(encoder)
    start = nn.init(vqkd.patches_of, teacher)
    found = jax.eval_shape(
        lambda image: nn.apply(vqkd.patches_of, teacher)(
            start(jax.random.key(0), image), image
        ),
        jnp.ones((1, 16, 16, 3)),
    )
    assert found.dtype == jnp.float32


def test_a_teacher_that_does_not_fit_is_one_line():
    def lines(**changes):
        with pytest.raises(config.ConfigError) as caught:
            tiny.resolve("vqkd", **changes)
        return caught.value.problems

    (line,) = lines(objective__teacher="")
    assert line.startswith("config.objective.teacher: name the workdir")
    (line,) = lines(encoder__channels=1)
    assert "teacher: it takes channels 3, not the 1 of config.encoder" in line
    (line,) = lines(encoder__patch_size=(8, 8))
    assert "teacher: a token of it stands for (4, 4) pixels, not for the (8, 8)" in line


def test_beit2_says_which_layers_there_are():
    with pytest.raises(config.ConfigError) as caught:
        tiny.resolve("beit2", objective__early_layer=2, encoder__cls=False)
    problems = caught.value.problems
    assert any("early_layer: 2 must be from 1 to less than" in p for p in problems)
    assert any("beit2 learns what an image is through the class" in p for p in problems)


def test_the_tokenizers_own_teacher_is_left_behind():
    """The state of BEiT v2 holds the encoder and the codes of its tokenizer alone."""
    held = tiny.start(tiny.resolve("beit2"), tiny.mesh_of()).frozen["frozen"]
    assert set(held["tokenizer"]) == {"params", "moving"}
    assert np.abs(held["tokenizer"]["moving"]["codes"]).max() > 0, "it was filled"
    teacher = tiny.start(tiny.resolve("vqkd"), tiny.mesh_of()).frozen["frozen"]
    assert set(teacher["teacher"]) == {"params"}
    assert set(teacher["teacher"]["params"]) == {"encoder"}
