"""What is done otherwise for a GPU, as far as that is seen without one."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental import topologies
from program import CONFIG

from mimjax import main, sharding
from mimjax.backbones import attention, primitives
from mimjax.run import aot, setup


@pytest.fixture
def gpu(monkeypatch):
    """Layers are traced as for a GPU, and run here."""
    for module in (sharding, attention):
        monkeypatch.setattr(module, "on_gpu", lambda: True)


def normal(seed, *shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def test_the_mesh_in_force_says_so():
    assert not sharding.on_gpu()
    with jax.set_mesh(tiny.mesh_of()):
        assert not sharding.on_gpu()
    device = types.SimpleNamespace(platform="gpu")
    with pytest.MonkeyPatch.context() as patch:
        mesh = types.SimpleNamespace(abstract_device=device)
        patch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
        assert sharding.on_gpu()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_product_is_rounded_before_the_bias(dtype):
    x, bias = normal(0, 4, 6, 8, dtype=dtype), normal(2, 5, dtype="float32")
    kernel = normal(1, 8, 5, dtype="float32")
    found = jax.jit(primitives.linear)(x, kernel, bias)
    rounded = jnp.dot(
        x, kernel.astype(dtype), preferred_element_type=jnp.float32
    ).astype(dtype)
    known = (rounded.astype(jnp.float32) + bias).astype(dtype)
    np.testing.assert_allclose(
        found.astype(jnp.float32), known.astype(jnp.float32), rtol=1e-6, atol=1e-6
    )
    wide = jax.jit(lambda *x: primitives.linear(*x, 1, False))(x, kernel, bias)
    assert wide.dtype == jnp.float32
    if dtype == "bfloat16":  # what is not rounded is not
        assert not np.array_equal(wide, rounded.astype(jnp.float32) + bias)


def test_shares_are_stored_and_the_same(monkeypatch):
    qkv, bias = (
        normal(3, 4, 7, 3, 2, 4, dtype="float32"),
        normal(4, 2, 2, 7, 7, dtype="float32"),
    )

    def loss(qkv, bias):
        return (attention.attend(qkv, bias, None) ** 2).sum()

    known = jax.value_and_grad(loss, (0, 1))(qkv, bias)
    assert "optimization_barrier" not in str(jax.make_jaxpr(loss)(qkv, bias))
    monkeypatch.setattr(attention, "on_gpu", lambda: True)
    jax.clear_caches()
    assert "optimization_barrier" in str(jax.make_jaxpr(loss)(qkv, bias))
    found = jax.value_and_grad(loss, (0, 1))(qkv, bias)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, known)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("platform", "remat", "layers"),
    [
        ("cpu", "none", 1024),
        ("gpu", "none", 1024),
        ("gpu", "full", 1),
        ("tpu", "none", 1),
    ],
)
def test_layers_that_the_compiler_sees_at_once(platform, remat, layers, monkeypatch):
    monkeypatch.setattr(sharding, "make", lambda *_: None)
    device = types.SimpleNamespace(platform=platform)
    given = tiny.resolve("mae", encoder__unroll=0, encoder__remat=remat)
    assert setup.place(given, [device])[0].encoder.unroll == layers


def test_it_is_told_as_its_compiler_asks(monkeypatch, capsys):
    asked = []

    def none(**given):
        asked.append(given)
        raise RuntimeError("no\nsuch compiler")

    monkeypatch.setattr(topologies, "get_topology_desc", none)
    here = importlib.util.find_spec("jax_plugins") is not None
    why = "no such compiler" if here else "its compiler is not installed (`pip install"
    for spec in ("h100:8", "RTX4090:2x4"):
        assert main.main([f"--config={CONFIG}", f"--compile={spec}"]) == 78
        told = capsys.readouterr().err
        assert told.startswith(f"--compile: {spec!r}: {why}")
        assert told.count("\n") == 1
    assert [x["topology"] for x in asked] == ["1x1x8", "1x2x4"]
    assert {x["platform"] for x in asked} == {"cuda"}
    text = asked[0]["target_config"]
    assert "core_count: 132 " in text and "device_memory_size: 84932" in text
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert 'device_description_str: "NVIDIA RTX4090"' in asked[1]["target_config"]


def test_a_step_that_does_not_fit_is_one_line(monkeypatch, capsys):
    """Of a GPU's memory JAX takes three quarters; its compiler does not look."""
    found = types.SimpleNamespace(
        argument_size_in_bytes=2**30,
        output_size_in_bytes=0,
        alias_size_in_bytes=0,
        temp_size_in_bytes=0,
        peak_memory_in_bytes=30 * 2**30,
    )
    step = types.SimpleNamespace(memory_analysis=lambda: found)
    monkeypatch.setattr(aot, "devices_named", lambda _: jax.devices()[:1])
    monkeypatch.setattr(setup, "compile_step", lambda *_: (step, None))
    monkeypatch.setattr(setup, "settle", lambda *_: None)
    monkeypatch.setattr(aot.memory, "held", lambda *_: 30 * 2**30)
    assert main.main([f"--config={CONFIG}", "--compile=h100:1"]) == 0
    capsys.readouterr()
    assert main.main([f"--config={CONFIG}", "--compile=a100:1"]) == 78
    *_, line = capsys.readouterr().err.splitlines()
    start = (
        "config.batch_size: a device has not enough memory (30.00 of 29.55 GiB, 75% of"
    )
    assert line.startswith(start)
    assert line.endswith("; or XLA_CLIENT_MEM_FRACTION=.95")
    assert main.main([f"--config={CONFIG}", "--compile=l4:1"]) == 78
    assert not capsys.readouterr().err.strip().endswith("=.95")  # for it would not help
    monkeypatch.setenv(aot.SHARE, ".95")
    assert main.main([f"--config={CONFIG}", "--compile=a100:1"]) == 0


def test_what_a_step_holds_is_its_peak_or_all_of_it_but_what_it_gives_back():
    told = {"argument_size_in_bytes": 100, "output_size_in_bytes": 90}
    told |= {"alias_size_in_bytes": 80, "temp_size_in_bytes": 50}
    for platform, peak, wanted in (("cpu", 7, 160), ("gpu", 7, 7), ("gpu", 0, 160)):
        found = types.SimpleNamespace(**told, peak_memory_in_bytes=peak)
        step = types.SimpleNamespace(memory_analysis=lambda found=found: found)
        assert aot.memory.held(step, platform) == wanted
    step = jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.zeros(2**20)).compile()
    assert aot.memory.held(step, "cpu") == pytest.approx(4 * 2**20, rel=0.01)
    assert aot.memory.told(step, "cpu") == "0.00 GiB, 0.00 state and batch"


def test_a_share_that_is_none_is_told(monkeypatch, capsys):
    monkeypatch.setenv(aot.SHARE, "95")
    assert main.main([f"--config={CONFIG}", "--compile=h100:1"]) == 78
    told = capsys.readouterr().err
    assert told == "XLA_CLIENT_MEM_FRACTION: '95' must be above 0 and at most 1\n"
