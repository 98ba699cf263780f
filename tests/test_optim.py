"""Schedules, decayed sets and optimisers against the official code's own numbers."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mimjax import optim, updates
from mimjax.backbones import hybrid, swin, vit

MAE = optim.Optim(warmup_epochs=40)
BEIT = optim.Optim(schedule="cosine_beit", min_lr=1e-5)
SIMMIM = optim.Optim(schedule="cosine_simmim", min_lr=1e-5, warmup_lr=5e-7)


def rates(settings, *, peak, warmup, steps, at=None):
    """The rate of the steps `at` (default: all), in one jitted call."""
    at = np.arange(steps) if at is None else np.asarray(at)
    one = jax.vmap(
        lambda step: optim.schedule(
            settings, peak=peak, warmup=warmup, steps=steps, step=step
        )
    )
    return np.asarray(jax.jit(one)(jnp.asarray(at, jnp.int32)))


def test_cosine_is_the_official_mae_schedule():
    golden = official.load("schedules")
    at = np.round(golden.input["mae_pretrain_epochs"] * 1000)
    ours = rates(MAE, peak=2.4e-3, warmup=40_000, steps=800_000, at=at)
    expected = golden.output["mae_pretrain_lr"]
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_values_of_the_mae_schedule():
    at = [0, 5, 10, 200, 400, 2000, 4200, 7999]
    ours = rates(MAE, peak=2.4e-3, warmup=400, steps=8000, at=at)
    expected = [0, 3e-5, 6e-5, 1.2e-3, 2.4e-3, 2.146969e-3, 1.2e-3, 1.03e-10]
    np.testing.assert_allclose(ours, expected, rtol=5e-3)
    np.testing.assert_allclose(ours[:-1], expected[:-1], rtol=3e-7)


def test_values_of_the_mae_fine_tuning_schedule():
    settings = optim.Optim(min_lr=1e-6)
    at = [0, 10, 50, 500, 999]
    ours = rates(settings, peak=2e-3, warmup=50, steps=1000, at=at)
    expected = [0, 4e-4, 2e-3, 1.083038e-3, 1.0055e-6]
    np.testing.assert_allclose(ours, expected, rtol=5e-5)


@pytest.mark.parametrize(("name", "warmup"), [("beit_small", 14), ("beit_steps", 10)])
def test_cosine_beit_is_the_official_schedule(name, warmup):
    expected = official.load("schedules").output[name]
    ours = rates(BEIT, peak=1.5e-3, warmup=warmup, steps=42)
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_values_of_the_beit_schedule():
    at = [0, 1, 6249, 6250, 250_000, 499_999]
    ours = rates(BEIT, peak=1.5e-3, warmup=6250, steps=500_000, at=at)
    expected = [0, 2.400384e-7, 1.5e-3, 1.5e-3, 7.698122e-4, 1.0000000015e-5]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_cosine_simmim_is_the_official_schedule():
    expected = official.load("schedules").output["simmim_cosine_lr_used_by_step"]
    ours = rates(SIMMIM, peak=8e-4, warmup=10, steps=50)
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_values_of_the_simmim_schedule():
    """The rate falls where the warm-up ends; step s uses the value of s - 1."""
    settings = dataclasses.replace(SIMMIM, warmup_lr=4e-6, min_lr=4e-5)
    at = np.array([0, 1, 6249, 6250, 31_250, 62_499]) + 1
    ours = rates(settings, peak=8e-4, warmup=6250, steps=62_500, at=at)
    expected = [4e-6, 4.12736e-6, 7.998726e-4, 7.814015e-4, 4.2e-4, 4.0e-5]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_values_of_the_simmim_fine_tuning_schedule():
    settings = dataclasses.replace(SIMMIM, warmup_lr=2.5e-7, min_lr=1e-6)
    at = np.array([12_499, 12_500, 31_250]) + 1
    ours = rates(settings, peak=5e-3, warmup=12_500, steps=62_500, at=at)
    np.testing.assert_allclose(ours, [4.9996e-3, 4.522638e-3, 2.5005e-3], rtol=1e-6)


def test_multistep_simmim_is_the_official_schedule():
    settings = optim.Optim(schedule="multistep_simmim", warmup_lr=5e-7, drop_at=0.7)
    expected = official.load("schedules").output["simmim_multistep_lr_used_by_step"]
    ours = rates(settings, peak=8e-4, warmup=10, steps=50)
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_cosine_with_a_warm_up_from_above_zero():
    """Swin's schedule has this shape, and AIM's."""
    settings = optim.Optim(warmup_lr=5e-7, min_lr=1e-5)
    expected = official.load("schedules").output["swin_cosine_prefix_value_at_t"]
    ours = rates(settings, peak=1e-3, warmup=10, steps=50)
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_linear_goes_down_in_a_straight_line():
    settings = optim.Optim(schedule="linear", min_lr=0.1)
    ours = rates(settings, peak=1.0, warmup=2, steps=6)
    np.testing.assert_allclose(ours, [0, 0.5, 1, 0.775, 0.55, 0.325], rtol=1e-6)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_schedule_without_warm_up_starts_at_the_peak(name):
    settings = optim.Optim(schedule=name)
    ours = rates(settings, peak=0.5, warmup=0, steps=7)
    assert ours[0] == pytest.approx(0.5, rel=1e-6)
    assert np.isfinite(ours).all()
    assert (np.diff(ours) <= 1e-9).all()


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_no_rate_is_above_a_low_peak(name):
    """As of a small batch, whose peak is below the rates that do not follow it."""
    settings = optim.Optim(schedule=name, warmup_lr=3e-3, min_lr=2e-3)
    ours = rates(settings, peak=1e-3, warmup=3, steps=9)
    assert ours.max() == np.float32(1e-3)
    assert (np.diff(ours) <= 0).all()


def test_peak_rate_follows_the_batch():
    assert MAE.peak_lr(4096) == pytest.approx(2.4e-3)
    assert optim.Optim(base_lr=1e-3, lr_batch=0).peak_lr(4096) == 1e-3


def decayed(tree, settings):
    """Which leaves are decayed, by name of the leaf."""
    flat = flatten_dict(
        jax.tree_util.tree_map_with_path(lambda p, _: optim.decays(settings, p), tree)
    )
    return {"/".join(path): bool(value) for path, value in flat.items()}


def marked(golden, rule):
    """The golden weights with 1 where the official rule decays and 0 elsewhere."""
    return official.Source(
        {
            name: np.full(value.shape, float(rule(name, value.ndim)))
            for name, value in golden.weights.arrays.items()
        }
    )


def same_sets(tree, settings):
    ours = decayed(tree, settings)
    theirs = {"/".join(path): leaf for path, leaf in flatten_dict(tree).items()}
    for name, leaf in theirs.items():
        assert np.unique(leaf).tolist() == [float(ours[name])], name
    assert {False, True} == set(ours.values())


def test_mae_decays_what_the_official_run_does():
    """Everything but one-dimensional weights and biases; the tokens have three axes."""
    golden = official.load("mae_normpix")
    source = marked(golden, lambda name, ndim: ndim > 1 and not name.endswith(".bias"))
    same_sets(official.mae(source, 4, 3), MAE)


def test_simmim_decays_what_the_official_run_does():
    text = str(official.load("schedules").output["param_groups_json"])
    groups = json.loads(text)["simmim_vit_pretrain"]
    index = "relative_position_index"

    def rule(name, _):
        return not name.endswith(index) and groups[name]["weight_decay"] > 0

    source = marked(official.load("simmim_vit"), rule)
    settings = optim.Optim(decay_also=("mask_token", "relative_table"))
    same_sets(official.simmim(source, 4, 8), settings)


def test_a_table_of_each_layer_is_decayed_as_a_shared_one():
    keys = ("encoder", "blocks", "layers", "relative_table")
    path = tuple(map(jax.tree_util.DictKey, keys))
    assert not optim.decays(MAE, path)
    assert optim.decays(optim.Optim(decay_also=("relative_table",)), path)


def test_aim_decays_what_the_official_run_does():
    spared = ("bias", "pos_embed", "norm", "gamma")
    golden = official.load("aim_v1_pretrain_eps1e-5")
    source = marked(golden, lambda name, _: not any(word in name for word in spared))
    same_sets(official.aim(source, 4), optim.Optim(decay_also=()))


@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [("adamw", 0.0), ("adamw", 0.05), ("lars", 0.0), ("lars", 1e-3)],
)
def test_updates_are_the_official_ones(name, weight_decay):
    """Three steps; a rate of its own for each tensor scales AdamW's decay too."""
    golden = official.load({"adamw": "adamw_layer_scale"}.get(name, name))
    config = golden.config
    names = {
        "weight": "a/kernel",
        "weight_4d": "b/kernel",
        "zero_weight": "c/kernel",
        "bias": "a/bias",
        "scale": "a/scale",
    }

    def tree(arrays):
        named = {ours: jnp.asarray(arrays[name]) for name, ours in names.items()}
        return unflatten_dict(named, sep="/")

    settings = optim.Optim(name=name, weight_decay=weight_decay)
    if name == "adamw":
        b1, b2 = config["betas"]
        settings = dataclasses.replace(settings, b1=b1, b2=b2, eps=config["eps"])
    params = tree(golden.weights.arrays)
    scale = tree(config.get("lr_scale", dict.fromkeys(names, 1.0)))
    chain = updates.chain(settings)
    state = chain.init(params)
    grads = {name: golden.input[f"grad/{name}"] for name in names}

    @jax.jit
    def update(grads, state, params):
        _, state = chain.update(grads, state, params)
        return updates.direction(settings, None, state, params), state

    for step, lr in enumerate(config["lr_per_step"]):
        now = tree({name: grad[step] for name, grad in grads.items()})
        found, state = update(now, state, params)
        params = jax.tree.map(lambda p, u, s, r=lr: p - r * s * u, params, found, scale)
        for name, ours in names.items():
            key = f"wd_{weight_decay:g}/step_{step + 1}/{name}"
            np.testing.assert_allclose(
                flatten_dict(params, sep="/")[ours],
                golden.output[key],
                rtol=1e-6,
                atol=1e-7,
            )


def grown(settings, params, grads, lr=0.1):
    """What parameters become by an update with each of the gradients."""
    update = jax.jit(functools.partial(updates.apply, settings, None, lr))
    state = updates.chain(settings).init(params)
    for grad in grads:
        params, state, _ = update(grad, (params, state, {}), True)
    return params


def test_a_stack_under_lars_is_as_its_layers_alone():
    """Norms are those of a layer, here one all zero; scanned biases have two axes."""
    draw = np.random.default_rng(0).standard_normal
    layers = [{"kernel": draw((3, 4)), "bias": draw(4)} for _ in range(3)]
    layers[1]["kernel"][:] = 0
    grads = [[{"kernel": draw((3, 4)), "bias": draw(4)} for _ in range(3)]] * 2
    settings = optim.Optim(name="lars", trust=0.02, weight_decay=0.1)

    def stack(trees):
        stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float32), *trees)
        return {"blocks": {"layers": stacked}}

    ours = grown(settings, stack(layers), [stack(trees) for trees in grads])
    alone = [
        grown(settings, layer, [trees[i] for trees in grads])
        for i, layer in enumerate(layers)
    ]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), ours, stack(alone)
    )


def layers_of(encoder):
    """The layers of the parameters of an encoder by path, those below a stack once."""
    image = jax.ShapeDtypeStruct((1, *encoder.image_size, encoder.channels), "float32")
    init = functools.partial(encoder.init, method="features")
    shapes = jax.eval_shape(init, jax.random.key(0), image)["params"]
    found = {}
    for path in flatten_dict(shapes):
        name = "/".join(path[: path.index("layers")] if "layers" in path else path[:1])
        layer = np.asarray(encoder.layer_of(path)).tolist()
        assert found.setdefault(name, layer) == layer, path
    return found


VIT = {"image_size": (32, 32), "width": 32, "depth": 3, "heads": 2}
SWIN = {"image_size": (32, 32), "width": 32, "depths": (2, 3, 2), "heads": (2, 2, 2)}


@pytest.mark.parametrize(
    ("encoder", "layers"),
    [
        (
            vit.Encoder(**VIT, position="learned", registers=2, patch_norm=True),
            {
                "patch": 0,
                "patch_scale": 0,
                "cls_token": 0,
                "register_tokens": 0,
                "pos_embed": 0,
                "blocks": [1, 2, 3],
                "norm": 4,
            },
        ),
        (
            vit.Encoder(**VIT, position="relative"),
            {
                "patch": 0,
                "cls_token": 0,
                "blocks": [1, 2, 3],
                "relative_table": 4,
                "norm": 4,
            },
        ),
        (
            hybrid.Encoder(**VIT, stages=(1,), stem_width=32, cls=False),
            {"stem": 0, "patch": 0, "blocks": [1, 2, 3], "norm": 4},
        ),
        (
            swin.Encoder(**SWIN, window=2),
            {
                "patch": 0,
                "patch_scale": 0,
                "stages_0": [1, 2],
                "merges_0": 2,
                "stages_1": [3, 4, 5],
                "merges_1": 5,
                "stages_2": [6, 7],
                "norm": 8,
            },
        ),
    ],
)
def test_layers_of_parameters(encoder, layers):
    assert layers_of(encoder) == layers


@pytest.mark.parametrize(
    ("recipe", "encoder"),
    [
        ("mae_finetune", vit.Encoder()),
        ("beit_finetune", vit.Encoder(position="relative_layers")),
        ("beit_finetune_shared_rel_abs", vit.Encoder(position="relative")),
        ("simmim_vit_finetune", vit.Encoder(position="relative_layers")),
        ("simmim_swin_finetune", swin.Encoder(depths=(2, 3, 2))),
    ],
)
def test_scales_of_layers_are_the_official_ones(recipe, encoder):
    text = str(official.load("schedules").output["param_groups_json"])
    settings = optim.Optim(layer_decay=0.65)
    # Swin has no table of positions here.
    renamed = {
        r"layers\.(\d+)\.blocks\.(\d+)\..*": r"stages_\1/layers/kernel \2",
        r"layers\.(\d+)\.downsample\..*": r"merges_\1/norm/scale",
        r"blocks\.(\d+)\..*": r"blocks/layers/kernel \1",
        r"patch_embed\.norm\..*": "patch_scale/scale",
        r"patch_embed\..*": "patch/kernel",
        r"rel_pos_bias\..*": "relative_table",
        r"norm\..*": "norm/scale",
        r"cls_token": "cls_token",
        r"pos_embed": "pos_embed",
        r"(fc_norm|head)\..*": r"/\1",
    }
    groups = json.loads(text)[recipe]
    groups.pop("absolute_pos_embed", None)
    for name, group in groups.items():
        rules = ((k, v) for k, v in renamed.items() if re.fullmatch(k, name))
        place, _, number = re.sub(*next(rules), name).partition(" ")
        names = ("encoder", *place.split("/")) if place[0] != "/" else (place[1:],)
        path = tuple(map(jax.tree_util.DictKey, names))
        scale = updates.rate_scale(settings, encoder, path, (12, 2, 2))
        found = scale[int(number), 0, 0] if number else scale
        assert found == pytest.approx(group["lr_scale"], rel=1e-6), name


def test_clipping_scales_the_whole_gradient():
    """Adam forgets the scale of one gradient, so the second step tells."""
    params = {"kernel": jnp.zeros(3)}
    first = {"kernel": jnp.asarray([3.0, 4.0, 0.0])}
    second = {"kernel": jnp.asarray([0.1, 0.0, 0.2])}
    plain = optim.Optim(weight_decay=0.0)
    fifth = jax.tree.map(lambda g: g / 5, first)
    ours = grown(dataclasses.replace(plain, clip=1.0), params, [first, second])
    theirs = grown(plain, params, [fifth, second])
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "adam"}, "name: 'adam' is none of adamw, sgd, lars"),
        ({"momentum": 1.0}, "momentum: 1.0 must be in [0, 1)"),
        ({"trust": 0.0}, "trust: 0.0 must be above 0"),
        ({"layer_decay": 0.0}, "layer_decay: 0.0 must be in (0, 1]"),
        ({"schedule": "cosin"}, "schedule: 'cosin' is none of cosine,"),
        ({"base_lr": 0.0}, "base_lr: 0.0 must be above 0"),
        ({"rates": (0.1, 0.1)}, "rates: (0.1, 0.1) must be above 0, and no two alike"),
        ({"rates": (0.1, 0.0)}, "rates: (0.1, 0.0) must be above 0, and no two alike"),
        # In float32 the one is 0, the others are the same.
        ({"rates": (0.1, 1e-50)}, "rates: (0.1, 1e-50) must be above 0"),
        ({"rates": (1.0, 1 + 1e-9)}, "rates: (1.0, 1.000000001) must be above 0"),
        ({"b2": 1.0}, "b2: 1.0 must be in [0, 1)"),
        ({"clip": -1.0}, "clip: -1.0 must not be negative"),
        ({"accumulate": 0}, "accumulate: 0 must be at least 1"),
    ],
)
def test_numbers_that_cannot_work(change, line):
    (found,) = optim.problems(dataclasses.replace(MAE, **change))
    assert found.startswith(line)
    assert optim.problems(MAE) == []


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_an_update_makes_no_copy_of_what_it_is_given(name):
    """Parameters, moments and averages change in place: no memory and no time."""
    settings = optim.Optim(name=name, ema=0.9, clip=1.0)
    params = {"kernel": jnp.ones((64, 48)), "mask_token": jnp.ones((1, 1, 96))}

    def update(before, grads, lr, good):
        return updates.apply(settings, None, lr, grads, before, good)

    before = params, updates.chain(settings).init(params), params
    lowered = jax.jit(update, donate_argnums=0).lower(before, params, 0.1, True)
    text = lowered.compile({"xla_backend_optimization_level": 3}).as_text()
    assert "f32[64,48]" in text
    assert not re.findall(r"= f32\[(?:64,48|1,1,96)\]\S* copy\(.*", text)
