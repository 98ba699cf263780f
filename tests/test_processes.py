"""Two processes are one run: joined over the loopback, stopped, resumed, compared."""

import signal
import socket

import numpy as np
import pytest
from program import CONFIG, Program

FLAGS = [
    f"--config={CONFIG}:mae",
    # The signal is agreed on within a second: the run must be longer.
    "--config.steps=60",
    "--config.checkpoint_every=20",
    "--config.encoder.image_size=(32,32)",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
    "--config.eval_every=60",
    "--config.picture_every=60",
    "--config.evaluate.batch_size=32",
    "--config.evaluate.linear_iterations=2",
    "--config.evaluate.train_images=32",
    "--config.evaluate.test_images=32",
]


def pair(workdir):
    """Two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        Program(
            workdir,
            *FLAGS,
            f"--distributed={address},2,{i}",
            JAX_NUM_CPU_DEVICES="2",
            JAX_COMPILATION_CACHE_DIR=None,
        )
        for i in range(2)
    ]


@pytest.mark.timeout(600)
def test_two_processes_equal_one_also_when_stopped_and_resumed(tmp_path):
    alone = Program(tmp_path / "one", *FLAGS, JAX_NUM_CPU_DEVICES="4")
    assert alone.status() == 0, alone.stderr()

    first, second = pair(tmp_path / "two")
    first.until(lambda: 3 in first.steps())
    for program in (first, second):
        program.process.send_signal(signal.SIGTERM)
    assert [first.status(), second.status()] == [75, 75], first.stderr()
    (last,) = first.saved()[-1:]
    assert last == first.steps()[-1] < 60
    assert f"stopped after step {last} and saved" in first.stderr()

    first, second = pair(tmp_path / "two")
    assert [first.status(), second.status()] == [0, 0], first.stderr()
    assert f"resumed at step {last}" in first.stderr()
    assert "step" not in second.stderr(), "the first speaks for all"
    assert len([*first.workdir.glob("compiled/jit_step-*")]) == 1, (
        "kept where both look"
    )
    assert first.steps() == list(range(1, 61)), "the first process alone writes"
    assert first.evaluated() == alone.evaluated() == [0, 60]
    # Before the first update the features are the same, and so are their neighbours.
    judged = ("knn", "knn_10", "linear", "rankme", "health/norm_02")
    ours, theirs = (
        [
            next(r for r in program.records() if "eval/loss" in r)[f"eval/{n}"]
            for n in judged
        ]
        for program in (first, alone)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name in ("loss", "eval/loss"):
        ours, theirs = (
            [record[name] for record in program.records() if name in record]
            for program in (first, alone)
        )
        # Sums over processes are taken in another order, and AdamW makes a little more
        # of every difference. A lost step or another mask shows in the third digit.
        for count, relative in ((10, 1e-6), (60, 1e-5)):
            np.testing.assert_allclose(ours[:count], theirs[:count], rtol=relative)
