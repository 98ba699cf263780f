"""Attention by other kernels: what they are asked for is what ours computes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import train
from mimjax.backbones import fused
from mimjax.backbones.attention import attend
from mimjax.masking import PrefixCausal
from mimjax.run import setup

SEEN = "loss", "grad_norm"


@pytest.fixture(autouse=True)
def by_xla(monkeypatch):
    """XLA's version of the function that is asked for cuDNN's."""
    theirs = jax.nn.dot_product_attention

    def instead(*arrays, implementation, **more):
        assert implementation == "cudnn"
        return theirs(*arrays, implementation="xla", **more)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)


@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("prefix", [None, (1, 4, 5)])
def test_it_is_asked_for_the_same_attention(length, prefix):
    """Outputs and gradients."""
    noise = np.random.default_rng(0)
    qkv = jnp.asarray(noise.standard_normal((3, length, 3, 2, 8)), jnp.float32)
    weight = jnp.asarray(noise.standard_normal((3, length, 2, 8)), jnp.float32)
    lengths = None if prefix is None else jnp.asarray(prefix, jnp.int32)
    allowed = None if lengths is None else PrefixCausal(lengths).allowed(length)

    def ours(qkv):
        return (attend(qkv, None, allowed) * weight).sum()

    def theirs(qkv):
        return (fused.attend(qkv, lengths) * weight).sum()

    for one, other in zip(
        jax.jit(jax.value_and_grad(ours))(qkv),
        jax.jit(jax.value_and_grad(theirs))(qkv),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_it_takes_what_cudnn_does():
    def qkv(head, dtype="bfloat16"):
        return jnp.zeros((1, 4, 3, 2, head), dtype)

    assert all(fused.takes(qkv(head)) for head in (8, 32, 64, 80, 128))
    assert not any(fused.takes(qkv(head)) for head in (4, 20, 256))
    assert not fused.takes(qkv(64, "float32"))


@pytest.mark.parametrize("model", ["mae", "aim", "beit"])
def test_every_layer_without_a_bias_of_pairs_asks_for_it(model, monkeypatch):
    """AIM's by the lengths of its prefixes; the loss is the same, rounded otherwise."""
    asked, attend = [], fused.attend

    def heard(qkv, prefix=None):
        asked.append(prefix is not None)
        return attend(qkv, prefix)

    monkeypatch.setattr(fused, "attend", heard)
    found = {}
    for attention in ("xla", "cudnn"):
        changes = {"encoder__attention": attention, "encoder__dtype": "bfloat16"}
        if model != "beit":
            changes["encoder__heads"] = 2
        given = tiny.resolve(model, **changes)
        run = tiny.Run(given)
        steps = [run.step() for _ in range(2)]
        found[attention] = [step[name] for step in steps for name in SEEN]
        assert bool(asked) == (attention == "cudnn" and model != "beit")
    assert set(asked) <= {model == "aim"}
    assert found["cudnn"] == pytest.approx(found["xla"], rel=2e-2)


def test_elsewhere_it_is_not_asked_for():
    given = tiny.resolve("mae", encoder__attention="cudnn")
    placed, _ = setup.place(given, jax.devices()[:1])
    assert placed.encoder.attention == "xla"
    assert placed.objective.encoder.attention == "xla"
    assert given.encoder.attention == "cudnn"


def test_it_runs_on_some_gpus():
    def device(platform, **more):
        return types.SimpleNamespace(platform=platform, **more)

    assert fused.runs_on(device("gpu", compute_capability="9.0"))
    assert not fused.runs_on(device("gpu", compute_capability="7.5"))
    assert not fused.runs_on(device("gpu", compute_capability="gfx90a"))
    assert not fused.runs_on(device("cpu"))
    assert not fused.runs_on(jax.devices()[0])


def test_its_products_are_counted():
    counts = []
    for attention in ("xla", "cudnn"):
        changes = {"encoder__attention": attention, "encoder__dtype": "bfloat16"}
        given = tiny.resolve("mae", **changes)
        plan, mesh = setup.make_plan(given, given.data.num_images), tiny.mesh_of()
        with jax.set_mesh(mesh):
            traced = train.trace_step(given, plan, mesh)
            counts.append(setup.step_flops(given, plan, mesh, traced))
    assert counts[0] == counts[1]
