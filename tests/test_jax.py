"""The jax underneath: a computation that one release got wrong on CPU."""

import subprocess
import sys

BROKEN_IN_0_10_2 = """
import jax, jax.numpy as jnp, numpy as np
rows = np.random.default_rng(0).normal(size=(32_769, 3)).astype(np.float32)
f = jax.jit(jax.vmap(lambda r: jnp.sum((jnp.eye(3) @ r) ** 2)))
np.testing.assert_allclose(f(rows), (rows.astype(float) ** 2).sum(axis=1), rtol=1e-5)
"""


def test_sums_of_squares_of_many_small_products():
    """Compiled as a run would be, not as quickly as the rest of the tests."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    run = subprocess.run(
        [sys.executable, "-c", BROKEN_IN_0_10_2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
