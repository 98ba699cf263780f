"""Optimisers beside PyTorch's, a rate for each parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mimjax import optim


def test_sgd_is_that_of_torch():
    draw = np.random.default_rng(1).standard_normal
    params = {"kernel": draw((3, 4)), "bias": draw(4)}
    settings = optim.Optim(name="sgd", momentum=0.8, weight_decay=0.3)
    transform = optim.transform(settings)
    ours = jax.tree.map(jnp.asarray, params)
    state, update = transform.init(ours), jax.jit(transform.update)
    theirs = {n: torch.nn.Parameter(torch.tensor(x)) for n, x in params.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.3},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.8)
    for _ in range(4):
        grads = {name: draw(x.shape) for name, x in params.items()}
        updates, state = update(jax.tree.map(jnp.asarray, grads), state, ours)
        ours = jax.tree.map(lambda p, u: p - 0.1 * u, ours, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name])
        optimiser.step()
    for name, x in ours.items():
        np.testing.assert_allclose(x, theirs[name].detach(), rtol=2e-5)
