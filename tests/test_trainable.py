"""What is not trained: whole parts of a model, and the first layers of a stack."""

import functools

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import checkpoint, optim, train, trainable
from mimjax.backbones import blocks, layers
from mimjax.run import setup

TREE = {
    "encoder": {"patch": {"kernel": 1, "bias": 2}, "norm": {"scale": 3}},
    "encoder_2": {"kernel": 4},
    "query": 5,
}


@pytest.mark.parametrize(
    ("frozen", "left"),
    [
        ((), TREE),
        (("encoder",), {"encoder_2": {"kernel": 4}, "query": 5}),
        (("encoder_2", "query"), {"encoder": TREE["encoder"]}),
        (
            ("encoder/patch", "encoder_2"),
            {"encoder": {"norm": {"scale": 3}}, "query": 5},
        ),
        (
            ("encoder/patch/bias", "encoder/norm"),
            {**TREE, "encoder": {"patch": {"kernel": 1}}},
        ),
    ],
)
def test_what_is_frozen_is_left_out_and_comes_back(frozen, left):
    settings = optim.Optim(frozen=frozen)
    found = trainable.trained(settings, TREE)
    assert found == left
    assert trainable.problems(settings, TREE) == []
    moved = trainable.restored(jax.tree.map(lambda x: -x, found), TREE)
    assert jax.tree.structure(moved) == jax.tree.structure(TREE)
    changed = jax.tree.map(lambda new, old: old if new == -old else 0, moved, TREE)
    assert sum(jax.tree.leaves(changed)) == sum(jax.tree.leaves(left))
    assert set(map(abs, jax.tree.leaves(moved))) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("frozen", "told"),
    [
        (("encodr",), "'encodr' is none of encoder, encoder_2, query)"),
        (("encoder", "encoder/path"), "'path' is none of patch, norm)"),
        (("query/kernel",), "'kernel' is none of nothing)"),
        (("encoder", "encoder_2", "query"), " leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(frozen, told):
    (line,) = trainable.problems(optim.Optim(frozen=frozen), TREE)
    assert line.startswith("frozen: ") and line.endswith(told)


def test_what_is_decayed_has_to_be_there():
    named = optim.Optim(decay_also=("relative_table", "query"))
    assert trainable.problems(named, TREE) == []
    (line,) = trainable.problems(optim.Optim(decay_also=("relative_tabel",)), TREE)
    assert line.startswith("decay_also: 'relative_tabel' is the name of no parameter (")


STACK = {
    "encoder": {
        "patch": {"kernel": np.ones((4, 2))},
        "blocks": {"layers": {"up": np.arange(8).reshape(4, 2), "bias": np.arange(4)}},
    },
    "head": np.zeros(3),
}


@pytest.mark.parametrize(
    ("frozen", "left", "still"),
    [
        (("encoder/blocks[:3]",), {"up": [[6, 7]], "bias": [3]}, 3),
        (("encoder/blocks[:-1]", "encoder/patch"), {"up": [[6, 7]], "bias": [3]}, 3),
        (("encoder/blocks/layers/up[:3]",), {"up": [[6, 7]], "bias": [0, 1, 2, 3]}, 0),
        (("encoder/blocks[:2]", "encoder/blocks/layers/up"), {"bias": [2, 3]}, 2),
    ],
)
def test_the_last_layers_of_a_stack(frozen, left, still):
    """No more layers stay as they are than those that nothing is trained of."""
    settings = optim.Optim(frozen=frozen)
    assert trainable.problems(settings, STACK) == []
    found = trainable.trained(settings, STACK)
    there = found["encoder"]["blocks"]["layers"]
    assert {name: x.tolist() for name, x in there.items()} == left
    assert ("patch" in found["encoder"]) == ("encoder/patch" not in frozen)
    given = trainable.variables(found, STACK)
    jax.tree.map(np.testing.assert_array_equal, given["params"], STACK)
    assert given["still"] == {"encoder": {"blocks": {"count": still}}}


@pytest.mark.parametrize(
    ("frozen", "told"),
    [
        (("encoder/blocks[:4]",), "must be some of the 4 layers (or 'encoder/blocks')"),
        (("encoder/blocks[:0]",), "must be some of the 4 layers (or 'encoder/blocks')"),
        (
            ("encoder/blocks[:-4]",),
            "must be some of the 4 layers (or 'encoder/blocks')",
        ),
        (("encoder/block[:2]",), "('block' is none of patch, blocks)"),
        (
            ("encoder/blocks[1:]",),
            "the first layers can be named, as 'encoder/blocks[:2]'",
        ),
        (("encoder/patch[:2]",), "is no stack of layers (as 'encoder/blocks' is)"),
        (("encoder[:2]",), "is no stack of layers (as 'encoder/blocks' is)"),
        (
            ("encoder/blocks[:2]", "encoder"),
            "twice in ('encoder/blocks[:2]', 'encoder')",
        ),
        (("encoder/blocks[:1]", "encoder/blocks[:2]"), "'encoder/blocks[:2]')"),
    ],
)
def test_layers_that_cannot_be_frozen_are_one_line(frozen, told):
    (line,) = trainable.problems(optim.Optim(frozen=frozen), STACK)
    assert line.startswith("frozen: ") and line.endswith(told)


def test_a_stack_in_two_parts_is_the_same_stack():
    """Its output, its mean, and every gradient but those of what stays."""
    spec = layers.Spec(width=8, heads=2, mlp_width=16)
    stack = blocks.Blocks(spec, depth=3)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    params = closeness.random_params(stack, x)

    def loss(params, x, still):
        given = {"params": params, "still": {"count": still}}
        y, mean = stack.apply(given, x, chosen=(1, 3))
        return jnp.sin(y).sum() + (y * mean).sum()

    find = jax.value_and_grad(loss, argnums=(0, 1))
    ours, (grads, of_x) = jax.jit(find, static_argnums=2)(params, x, 2)
    whole, (all_grads, all_of_x) = jax.jit(find, static_argnums=2)(params, x, 0)
    np.testing.assert_allclose(ours, whole, rtol=1e-6)
    np.testing.assert_allclose(of_x, all_of_x, rtol=1e-5, atol=1e-5)
    for g, w in zip(jax.tree.leaves(grads), jax.tree.leaves(all_grads), strict=True):
        assert not g[:2].any()
        assert w[:2].any()
        np.testing.assert_allclose(g[2:], w[2:], rtol=1e-5, atol=1e-5)


def test_layers_behind_those_that_stay_drop_other_samples():
    spec = layers.Spec(width=8, heads=2, mlp_width=16)
    stack = blocks.Blocks(spec, depth=2, drop_path=(0.4, 0.4))
    x = jax.random.normal(jax.random.key(0), (1000, 1, 8))
    params = closeness.random_params(stack, x)

    @jax.jit
    def outputs(params):
        given = {"params": params, "still": {"count": 1}}
        rngs = {"drop": jax.random.key(1)}
        call = functools.partial(stack.apply, given, x, train=True, rngs=rngs)
        return [call(chosen=(layer,))[1] for layer in (1, 2)]

    first, second = outputs(params)
    dropped = (first == x).all((1, 2)), (second == first).all((1, 2))
    for share in map(jnp.mean, dropped):
        assert 0.1 < share < 0.22, "both branches, 0.4 ** 2"
    assert jnp.mean(dropped[0] & dropped[1]) < 0.06, "0.16 ** 2, not 0.16"


LAST = ("encoder/patch", "encoder/cls_token", "encoder/blocks[:2]")


def test_no_gradient_is_computed_of_what_is_frozen():
    """The products of the encoder are those of its forward pass alone."""
    flops = {}
    for frozen in (("encoder",), ("query",)):
        given = tiny.resolve("attentive", optim__frozen=frozen, encoder__depth=12)
        plan = setup.make_plan(given, 100)
        flops[frozen] = setup.step_flops(given, plan, tiny.mesh_of())
    assert flops["encoder",] < 0.4 * flops["query",]


def test_no_way_back_leads_through_layers_that_stay():
    """A layer trained costs two layers more, what is before it nothing."""
    flops = []
    for frozen in ((*LAST[:2], "encoder/blocks"), LAST, ("encoder/blocks[:2]",), ()):
        given = tiny.resolve("classify", optim__frozen=frozen, encoder__depth=3)
        plan = setup.make_plan(given, 100)
        flops.append(setup.step_flops(given, plan, tiny.mesh_of()))
    none, last, stem, everything = flops
    # Width 64, MLP 256, 17 tokens of 8 samples: kernels, then scores and their sums.
    tokens = 2 * 8 * 17
    kernels, scores = tokens * 12 * 64**2, tokens * 2 * 17 * 64
    assert last - none == 2 * (kernels + scores)
    patch = 2 * 8 * 16 * 48 * 64
    assert stem - last == 2 * (kernels + 2 * scores) + patch
    assert everything - stem == 2 * kernels, "gradients of parameters"


def test_partial_fine_tuning(tmp_path):
    """The last of three layers, the last norm and the head; the rest to the bit."""
    changes = {
        "encoder__depth": 3,
        "optim__frozen": LAST,
        "optim__layer_decay": 0.5,
        "optim__weight_decay": 0.0,
        "optim__warmup_steps": 0,
        "optim__ema": 0.9,
        "optim__accumulate": 2,
    }
    given, mesh = tiny.resolve("classify", **changes), tiny.mesh_of(fsdp=2)
    run = tiny.Run(given, mesh)
    # A copy: the update is given the arrays themselves.
    before = jax.tree.map(np.array, run.state)
    encoder, head = before.params["encoder"], before.params["head"]
    learned = train.count((head, encoder["norm"])) + train.count(encoder["blocks"]) // 3
    assert train.count(run.state.opt) == 1 + 2 * learned
    assert setup.sizes(given, run.state).endswith(f", trained {learned:,}")
    run.step()

    def still(params):
        encoder = params["encoder"]
        stack = jax.tree.map(lambda x: x[:2], encoder["blocks"])
        return tiny.bits((encoder["patch"], encoder["cls_token"], stack))

    after = jax.device_get(run.state)
    assert still(after.params) == still(before.params)
    assert still(after.ema) == still(before.ema)
    # The first update of Adam is the rate, if the gradient is not near zero.
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), after.params, before.params)
    layer = moved["encoder"]["blocks"]["layers"]
    rate = given.optim.base_lr
    for found in (moved["head"]["kernel"], moved["encoder"]["norm"]["scale"]):
        assert found == pytest.approx(rate, rel=1e-3)
    for found in (layer["mlp"]["up"]["kernel"], layer["attn"]["out"]["bias"]):
        assert found == pytest.approx(rate / 2, rel=1e-3)

    checkpoints = checkpoint.Checkpoints(tmp_path, 1, 0)
    checkpoints.save(run.state, 1)
    checkpoints.close()
    abstract = train.abstract_state(given, mesh)
    found, remarks = checkpoint.Checkpoints(tmp_path, 1, 0).restore(abstract)
    assert found is not None and remarks == []
    assert tiny.bits(found) == tiny.bits(run.state)
