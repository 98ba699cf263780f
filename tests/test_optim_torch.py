"""Optimisers beside PyTorch's, a rate for each parameter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from mimjax import optim, updates
from mimjax.backbones import vit


def test_layer_decay_is_that_of_torch_with_a_group_for_each_layer():
    """Step by step through a schedule; a scanned stack is taken to its layers there."""
    encoder = vit.Encoder((8, 8), (4, 4), width=8, depth=3, heads=2)
    settings = optim.Optim(
        weight_decay=0.3, layer_decay=0.5, b2=0.99, min_lr=1e-3, decay_also=()
    )
    draw = np.random.default_rng(2).standard_normal
    shapes = {
        "encoder/patch/kernel": (12, 8),
        "encoder/cls_token": (1, 1, 8),
        "encoder/blocks/layers/mlp/up/kernel": (3, 8, 5),
        "encoder/blocks/layers/mlp/up/bias": (3, 5),
        "encoder/norm/scale": (8,),
        "head/kernel": (8, 2),
    }
    # By hand: head and norm 1, the layers a half each more, what embeds behind them.
    scales = {name: [1 / 16] for name in shapes}
    scales |= {name: [1 / 8, 1 / 4, 1 / 2] for name in shapes if "layers" in name}
    scales |= {"encoder/norm/scale": [1], "head/kernel": [1]}

    def tree(arrays):
        named = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
        return unflatten_dict(named, sep="/")

    def parts(name, x):
        return list(x) if "layers" in name else [x]

    start = {name: draw(shape) for name, shape in shapes.items()}
    theirs = {
        name: [torch.nn.Parameter(torch.tensor(part)) for part in parts(name, x)]
        for name, x in start.items()
    }
    groups = [
        {"params": [p], "scale": scale, "weight_decay": 0.3 * name.endswith("kernel")}
        for name in shapes
        for p, scale in zip(theirs[name], scales[name], strict=True)
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    update = jax.jit(functools.partial(updates.apply, settings, encoder))
    ours = tree(start)
    state = updates.chain(settings).init(ours)
    for step in range(6):
        rate = optim.schedule(settings, peak=0.1, warmup=2, steps=6, step=step)
        grads = {name: draw(shape) for name, shape in shapes.items()}
        ours, state, _ = update(rate, tree(grads), (ours, state, {}), True)
        for group in optimiser.param_groups:
            group["lr"] = float(rate) * group["scale"]
        for name, grad in grads.items():
            for p, part in zip(theirs[name], parts(name, grad), strict=True):
                p.grad = torch.tensor(part)
        optimiser.step()
        for name, x in flatten_dict(ours, sep="/").items():
            for p, part in zip(theirs[name], parts(name, x), strict=True):
                np.testing.assert_allclose(part, p.detach(), rtol=2e-5, atol=1e-6)


def test_sgd_is_that_of_torch():
    draw = np.random.default_rng(1).standard_normal
    params = {"kernel": draw((3, 4)), "bias": draw(4)}
    settings = optim.Optim(name="sgd", momentum=0.8, weight_decay=0.3)
    update = jax.jit(functools.partial(updates.apply, settings, None, 0.1))
    ours = jax.tree.map(jnp.asarray, params)
    state = updates.chain(settings).init(ours)
    theirs = {n: torch.nn.Parameter(torch.tensor(x)) for n, x in params.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.3},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.8)
    for _ in range(4):
        grads = {name: draw(x.shape) for name, x in params.items()}
        given = jax.tree.map(jnp.asarray, grads), (ours, state, {}), True
        ours, state, _ = update(*given)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name])
        optimiser.step()
    for name, x in ours.items():
        np.testing.assert_allclose(x, theirs[name].detach(), rtol=2e-5)
