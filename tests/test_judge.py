"""What is looked at between updates, and how it is cut short."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import evaluate, patches, train
from mimjax.run.drawing import Drawing
from mimjax.run.judge import Judge

PLAN = train.Plan(10, 0, np.zeros(3, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize(("layers", "counted"), [((-2,), (1,)), ((1, -1), (1, 2))])
def test_features_are_of_the_layers_asked_for(tmp_path, layers, counted):
    given = tiny.resolve("mae", evaluate__layers=layers, evaluate__pool="max")
    judge = Judge(given, PLAN, tiny.mesh_of(), tmp_path, lambda: False)
    params = tiny.start(given, tiny.mesh_of()).params
    image = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)

    def first(module, image):
        return module.run(module.embed(image), chosen=counted)[1][:, 1:].max(axis=1)

    wanted = given.encoder.apply(
        {"params": params["encoder"]}, patches.unit(jnp.asarray(image)), method=first
    )
    found = judge.embed(params, judge.put(image))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_asked_to_stop_it_neither_judges_nor_draws_and_can_do_both_later(tmp_path):
    small = {"evaluate__train_images": 8, "evaluate__knn_k": 2}
    sizes = {"evaluate__test_images": 8, "evaluate__batch_size": 8}
    given = tiny.resolve("mae", **small, **sizes, evaluate__linear_iterations=1)
    asked = True
    how = given, PLAN, tiny.mesh_of(), tmp_path, lambda: asked
    judge = Judge(*how)
    drawing = Drawing(*how, lambda: judge.test)
    state = train.start_state(given, tiny.mesh_of())
    for look in (judge.evaluate, lambda state: drawing.draw(state, 3)):
        with pytest.raises(evaluate.Interrupted):
            look(state)
    assert not drawing.drawn(3)
    asked = False
    drawing.draw(state, 3)
    assert drawing.drawn(3)
    assert 0 < judge.evaluate(state)["eval/loss"] < 10
