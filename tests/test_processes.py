"""Two processes are one run: joined over the loopback, stopped, resumed, compared."""

import pathlib
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image
from program import CONFIG, Program

FLAGS = [
    f"--config={CONFIG}:mae",
    "--config.steps=16",
    "--config.checkpoint_every=2",
    "--config.encoder.image_size=(32,32)",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
    "--config.eval_every=16",
    "--config.picture_every=16",
    "--config.evaluate.batch_size=32",
    "--config.evaluate.linear_iterations=2",
    "--config.evaluate.train_images=32",
    "--config.evaluate.test_images=32",
]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Images of four classes: of the thousand of noise hardly one is there twice."""
    top, draw = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for number in range(4):
        (top / str(number)).mkdir()
        for name in range(20):
            pixels = draw.integers(0, 64 + 48 * number, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(top / str(number) / f"{name}.png")
    held_out = "--config.data.holdout_fraction=0.4"
    return [f"--config.evaluate.source=folder:{top}", held_out]


def pair(workdir, flags):
    """Two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        Program(
            workdir,
            *FLAGS,
            *flags,
            f"--distributed={address},2,{i}",
            JAX_NUM_CPU_DEVICES="2",
            JAX_COMPILATION_CACHE_DIR=None,
        )
        for i in range(2)
    ]


@pytest.mark.timeout(600)
def test_two_processes_equal_one_also_when_stopped_and_resumed(tmp_path, colours):
    flags = [*FLAGS, *colours, "--config.picture_every=0"]  # pictures are not compared
    alone = Program(tmp_path / "one", *flags, JAX_NUM_CPU_DEVICES="4")
    assert alone.status() == 0, alone.stderr()

    first, second = pair(tmp_path / "two", colours)
    first.until(lambda: 3 in first.steps())
    # A signal is agreed on within a second, and the run has to be longer than that.
    second.process.send_signal(signal.SIGSTOP)
    for program in (first, second):
        program.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    second.process.send_signal(signal.SIGCONT)
    assert [first.status(), second.status()] == [75, 75], first.stderr()
    *_, before, last = first.saved()
    assert last == first.steps()[-1] < 16
    assert f"stopped after step {last} and saved" in first.stderr()

    # Of a damaged checkpoint neither takes anything.
    files = (first.workdir / "checkpoints" / str(last)).rglob("*")
    largest = max(filter(pathlib.Path.is_file, files), key=lambda x: x.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    first, second = pair(tmp_path / "two", colours)
    assert [first.status(), second.status()] == [0, 0], first.stderr()
    assert f"checkpoint {last} is not usable: " in first.stderr()
    assert f"resumed at step {before}" in first.stderr()
    assert "step" not in second.stderr(), "the first speaks for all"
    assert len([*first.workdir.glob("compiled/jit_step-*")]) == 1, (
        "kept where both look"
    )
    assert first.steps() == list(range(1, 17)), "the first process alone writes"
    assert first.evaluated() == alone.evaluated() == [0, 16]
    # Before the first update the features are the same, and so are their neighbours.
    judged = ("knn", "knn_10", "linear", "rankme", "health/norm_02")
    ours, theirs = (
        [
            next(r for r in program.records() if "eval/loss" in r)[f"eval/{n}"]
            for n in judged
        ]
        for program in (first, alone)
    )
    assert all(value > 0 for value in theirs), theirs
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name in ("loss", "eval/loss"):
        ours, theirs = (
            [record[name] for record in program.records() if name in record]
            for program in (first, alone)
        )
        # Sums over processes are taken in another order, and AdamW makes a little more
        # of every difference. A lost step or another mask shows in the third digit.
        for count, relative in ((10, 1e-6), (16, 1e-5)):
            np.testing.assert_allclose(ours[:count], theirs[:count], rtol=relative)
