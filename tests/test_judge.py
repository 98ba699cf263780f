"""What is looked at between updates, and how it is cut short."""

import numpy as np
import pytest
import tiny

from mimjax import evaluate, train
from mimjax.run.judge import Judge


def test_asked_to_stop_it_neither_judges_nor_draws_and_can_do_both_later(tmp_path):
    small = {"evaluate__train_images": 8, "evaluate__knn_k": 2}
    sizes = {"evaluate__test_images": 8, "evaluate__batch_size": 8}
    given = tiny.resolve("mae", **small, **sizes, evaluate__linear_iterations=1)
    plan = train.Plan(10, 0, np.zeros(3, np.float32), np.ones(3, np.float32))
    asked = True
    judge = Judge(given, plan, tiny.mesh_of(), tmp_path, lambda: asked)
    state = train.start_state(given, tiny.mesh_of())
    for look in (judge.evaluate, lambda state: judge.draw(state, 3)):
        with pytest.raises(evaluate.Interrupted):
            look(state)
    assert not judge.drawn(3)
    asked = False
    judge.draw(state, 3)
    assert judge.drawn(3)
    assert 0 < judge.evaluate(state)["eval/loss"] < 10
