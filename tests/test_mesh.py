"""The same run on any mesh, and parameters cut where the rules say."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from mimjax import objectives, sharding, train

MESHES = {"8 data": (8, 1, 1), "8 fsdp": (1, 8, 1), "2 x 2 x 2": (2, 2, 2)}
DRAWING = [n for n in objectives.names() if hasattr(objectives.load(n), "draw")]


@pytest.fixture(scope="module")
def unbroken():
    """Ten steps of an objective on one device, done once."""
    known = {}

    def make(objective):
        if objective not in known:
            known[objective] = tiny.Run(tiny.resolve(objective)).steps(10)
        return known[objective]

    return make


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("objective", objectives.names())
def test_losses_agree_on_every_mesh(objective, mesh, unbroken):
    run = tiny.Run(tiny.resolve(objective), tiny.mesh_of(*MESHES[mesh]))
    found, wanted = run.steps(10), unbroken(objective)
    for name in ("loss", "grad_norm", "lr"):
        ours, theirs = ([values[name] for values in part] for part in (found, wanted))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert len({values["loss"] for values in found}) == 10
