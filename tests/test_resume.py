"""A run that is killed and stopped again and again is the run that was not."""

import re
import resource
import signal
import time

import pytest
from program import CONFIG, ROOT, Program

from mimjax.run import stop

# Steps long enough to be hit; evaluation on, which the run to compare with has off.
SLOW = ["--config.encoder.image_size=(32,32)", "--config.batch_size=16"]
LOOKING = [
    "--config.eval_every=15",
    "--config.picture_every=15",
    "--config.evaluate.batch_size=16",
    "--config.evaluate.linear_iterations=2",
    "--config.evaluate.train_images=64",
    "--config.evaluate.test_images=64",
    "--config.evaluate.shots=(1,2)",
]

LOUD = "reading the config"


def told(program):
    """What the program said for itself."""
    return [line for line in program.stderr().splitlines() if line != LOUD]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The tiny config, which says when it is read."""
    path = tmp_path_factory.mktemp("config") / "loud.py"
    path.write_text(
        "import runpy, sys\n"
        f'print("{LOUD}", file=sys.stderr, flush=True)\n'
        f'get_config = runpy.run_path({CONFIG!r})["get_config"]\n'
    )
    return f"--config={path}"


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """What is around the runs: no TensorFlow, and the compiler as users have it."""
    hidden = tmp_path_factory.mktemp("hidden")
    for name in ("tensorflow", "sklearn"):
        (hidden / f"{name}.py").write_text("raise ImportError('not installed')\n")
    plain = {"JAX_DISABLE_MOST_OPTIMIZATIONS": None, "XLA_FLAGS": None}
    return {"PYTHONPATH": f"{hidden}:{ROOT}", **plain}


@pytest.fixture(scope="module")
def unbroken(config, around, tmp_path_factory):
    """The same run from end to end, without evaluation and pictures."""
    program = Program(
        tmp_path_factory.mktemp("runs") / "whole", config, *SLOW, **around
    )
    assert program.status() == 0, program.stderr()
    assert program.steps() == list(range(1, 31))
    return program


@pytest.mark.timeout(900)
def test_killed_and_stopped_anywhere_the_run_is_the_same(
    config, around, unbroken, tmp_path
):
    def start():
        return Program(tmp_path / "run", config, *SLOW, *LOOKING, **around)

    def reached(step):
        return lambda: step in program.steps()

    def saving(step):
        """Whether it has begun; what comes after it is the evaluation of the step."""
        checkpoints = tmp_path / "run" / "checkpoints"
        return lambda: [*checkpoints.glob(f"{step}*")]

    program = start().until_it_says(LOUD)
    assert program.send(signal.SIGTERM) == 75
    assert program.stderr().endswith("stopped before the first step\n")

    program = start().until_it_says("parameters: ")
    assert program.send(signal.SIGTERM) == 75, "while it compiles"
    assert program.stderr().endswith("stopped before the first step\n")
    assert program.saved() == []

    program = start()
    program.until(reached(7))
    assert program.evaluated() == [0]
    assert program.send(signal.SIGKILL) == -9, "in a step"

    program = start().until(saving(15))
    assert program.send(signal.SIGTERM) == 75, "in evaluation"
    assert program.evaluated() == [0]
    assert (program.steps()[-1], program.saved()[-1]) == (15, 15)

    program = start().until(lambda: 15 in program.evaluated())
    sheet = program.workdir / "pictures" / "step_00000015.png"
    assert not sheet.exists()
    assert program.send(signal.SIGTERM) == 75, "while it draws"
    assert sheet.exists()
    assert (program.steps()[-1], program.saved()[-1]) == (15, 15)

    program = start()
    program.until(reached(18))
    assert program.send(signal.SIGINT) == 75, "in a step"
    last = program.steps()[-1]
    assert f"stopped after step {last} and saved" in program.stderr()
    assert program.stderr().count("stopping; a second signal ends") == 1
    assert program.saved()[-1] == last, "nothing is lost"

    program = start()
    program.until(lambda: saving("25.*-tmp")() or 27 in program.steps())
    assert f"resumed at step {last}" in program.stderr()
    assert program.send(signal.SIGKILL) == -9, "while it saves"

    program = start().until(saving(30))
    assert program.send(signal.SIGTERM) == 75, "in the last evaluation"
    assert program.evaluated() == [0, 15]

    program = start()
    assert program.status() == 0, program.stderr()
    assert "resumed at step 30" in program.stderr()
    assert program.evaluated() == [0, 15, 30]
    assert program.curve() == unbroken.curve()
    assert program.fingerprints() == unbroken.fingerprints()
    pictures = program.workdir / "pictures"
    assert (pictures / "step_00000030.png").exists()
    assert (pictures / "encoder_00000030" / "losses.png").exists()


def test_a_second_process_and_another_config_are_refused(
    config, around, unbroken, tmp_path
):
    program = Program(tmp_path / "run", config, *SLOW, **around)
    program.until_it_says("parameters: ")
    second = Program(tmp_path / "run", config, *SLOW, **around)
    assert second.status() == 78
    (line,) = told(second)
    assert line.startswith("--workdir: another process is at work in")
    program.send(signal.SIGKILL)

    before = {p: p.stat().st_mtime_ns for p in unbroken.workdir.rglob("*")}
    other = [*SLOW, "--config.optim.base_lr=0.002", "--config.log_every=2"]
    program = Program(unbroken.workdir, config, *other, **around)
    assert program.status() == 78
    field, hint = told(program)
    assert field.startswith("config.optim.base_lr: 0.002 here, 0.001 in ")
    assert "resume it with its own values, or choose another --workdir" in hint
    assert {p: p.stat().st_mtime_ns for p in unbroken.workdir.rglob("*")} == before


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(config, around, tmp_path):
    flags = [config, "--config.optim.base_lr=1e30", "--config.checkpoint_every=1"]
    program = Program(tmp_path / "run", *flags, **around)
    assert program.status() == 77, program.stderr()
    (last,) = [line for line in program.stderr().splitlines() if "stopped" in line]
    assert "was not finite 5 times in a row" in last
    good = program.saved()[-1]
    assert f"checkpoint {good} is the last good one" in last
    bad = [r for r in program.records() if r["skipped"]]
    assert len(bad) == 4, "the fifth ends the run"
    assert good + 1 < bad[0]["step"], "it gave an update that was finite"
    later = [int(path.name) for path in (program.workdir / "bad_checkpoints").iterdir()]
    assert later == [good + 1], "what that made of it did not"


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    config, around, unbroken, tmp_path
):
    def start():
        return Program(tmp_path / "run", config, *SLOW, **around)

    program = start()
    program.until(lambda: 5 in program.saved())
    full = (20_000, resource.RLIM_INFINITY)
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, full)
    assert program.status() == 74
    known = ("synthetic: ", "parameters: ", "compiled in", "step ")
    (line,) = [line for line in told(program) if not line.startswith(known)]
    assert re.match(r"cannot save step (10|15|20|25): ", line), line
    assert "File too large" in line
    last = program.saved()[-1]
    assert last < 30
    program = start()
    assert program.status() == 0, program.stderr()
    assert f"resumed at step {last}" in program.stderr()
    assert program.saved()[-1] == 30
    assert program.curve() == unbroken.curve()
    assert program.fingerprints() == unbroken.fingerprints()


def test_the_first_signal_asks_its_echo_is_ignored_and_a_later_one_ends(
    monkeypatch, capsys
):
    left = []
    monkeypatch.setattr(stop.os, "_exit", left.append)
    monkeypatch.setattr(stop, "ECHO", 0.2)
    before = signal.getsignal(signal.SIGTERM)
    signals = stop.Stop()
    signals.ready()
    assert not signals.agreed()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert signals.asked()
    assert signals.agreed()
    time.sleep(0.4)
    assert left == []
    answer = "stopping; a second signal ends the run at once, unsaved\n"
    assert capsys.readouterr().err == answer, "once, for the echo too"
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.2)
    assert left == [75]
    assert capsys.readouterr().err == "stopped again: not saved\n"
    signals.close()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_when_a_run_has_ended_is_none_before_its_first_step():
    """The console's own handler does not come back: it would say so, and exit 75."""
    before = signal.signal(signal.SIGTERM, stop.leave)
    try:
        stop.Stop().close()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
