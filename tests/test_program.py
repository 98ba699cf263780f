"""The command line, from the shipped quickstart to every exit status."""

import json
import re
import shutil
import subprocess
import sys
import time
import unittest.mock

import jax
import pytest
from program import CONFIG, ROOT, Program

from mimjax import main
from mimjax.checkpoint import StorageError
from mimjax.data import BadDataError
from mimjax.run import setup, workdir
from mimjax.schema import ConfigError

SHRUNK = [
    f"--config={ROOT / 'configs' / 'quickstart.py'}",
    "--config.steps=6",
    "--config.batch_size=8",
    "--config.log_every=2",
    "--config.checkpoint_every=3",
    "--config.eval_every=3",
    "--config.picture_every=3",
    "--config.data.num_images=64",
    "--config.encoder.width=32",
    "--config.encoder.depth=1",
    "--config.objective.decoder_width=32",
    "--config.optim.warmup_steps=2",
    "--config.evaluate.train_images=64",
    "--config.evaluate.test_images=32",
    "--config.evaluate.batch_size=32",
    "--config.evaluate.shots=(1,2)",
]


def python(*command):
    """Runs Python apart from the tests; what it says and how long it took."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout, time.perf_counter() - start


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The shipped quickstart, made small, from end to end."""
    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    program = Program(workdir, *SHRUNK, JAX_DUMP_IR_TO=str(workdir.with_name("dumped")))
    assert program.status() == 0, program.stderr()
    return program


def test_the_quickstart_says_how_it_goes_and_nothing_else(quickstart):
    lines = quickstart.stderr().splitlines()
    assert lines[0] == "digits: 64 training images in 10 classes, 6 steps of 8"
    assert lines[-1].startswith("done in 0:0")
    assert lines[-1].endswith(f"; see {quickstart.workdir / 'report.html'}")
    before = "evaluating the encoder before training: at most 32 held-out images "
    assert lines.count(before + "and 64 to learn from") == 1
    known = ("parameters: encoder", "compiled in", before, "step ")
    assert [line for line in lines[1:-1] if not line.startswith(known)] == []
    told = [line for line in lines if "held out: " in line]
    shown = r"step \d held out: loss [\d.]+  knn [\d.]+  linear [\d.]+  "
    shown += r"few_1 [\d.]+  few_2 [\d.]+  \([\d.]+ s\)"
    assert len(told) == 3
    assert all(re.fullmatch(shown, line) for line in told), told
    (last,) = (line for line in lines if line.startswith("step 6/6"))
    for shown in ("loss", "lr", "img/s", "data wait", "ETA"):
        assert shown in last


def test_the_quickstart_compiles_its_step_once_and_nothing_twice(quickstart):
    programs = sorted(quickstart.workdir.with_name("dumped").iterdir())
    assert [p.name for p in programs if "jit_step" in p.name] == [
        "jax_ir0001_jit_step_compile.mlir"
    ], "after the first state, and never again"
    assert len({p.read_bytes() for p in programs}) == len(programs)


def test_the_quickstart_leaves_what_is_promised(quickstart):
    records = quickstart.records()
    logged = [r for r in records if "loss" in r]
    assert [r["step"] for r in logged] == [2, 4, 6]
    for record in logged:
        assert {"step", "loss", "lr", "images_per_sec", "data_wait"} <= set(record)
    assert quickstart.evaluated() == [0, 3, 6]
    for record in records:
        if "eval/loss" in record:
            assert 0 <= record["eval/knn"] <= 1
            assert 0 <= record["eval/linear"] <= 1
            assert 0 <= record["eval/few_2"] <= 1
            assert record["eval/seconds"] > 0
    assert quickstart.saved() == [3, 6]
    folder = quickstart.workdir
    sheets = sorted(p.name for p in (folder / "pictures").iterdir())
    steps = [f"step_{step:08d}.png" for step in (0, 3, 6)]
    assert sheets == ["encoder_00000006", *steps]
    for name in ("loss", "health"):
        assert (folder / f"{name}.png").stat().st_size > 1000
    assert len([*(folder / "tensorboard").glob("events.out.tfevents.*")]) == 1
    assert not (folder / "data_errors.jsonl").exists()
    page = (folder / "report.html").read_text()
    parts = ("kNN", "linear", "2 images a class", "RankMe", "objective.mask_ratio")
    for part in (*parts, "untrained", "What the encoder sees"):
        assert part in page


def test_a_finished_run_says_so_and_is_left_alone(quickstart):
    before = {p: p.stat().st_mtime_ns for p in quickstart.workdir.rglob("*")}
    again = Program(quickstart.workdir, *SHRUNK, "--config.evaluate.linear_l2=0.5")
    assert again.status() == 0, again.stderr()
    (_, resumed, last) = again.stderr().splitlines()
    assert resumed == "resumed at step 6"
    told = "finished before, as its config.json says"
    assert last == f"{told}; see {quickstart.workdir / 'report.html'}"
    after = {p: p.stat().st_mtime_ns for p in quickstart.workdir.rglob("*")}
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed <= {"quickstart", ".lock"}, changed


def test_a_run_writes_down_what_it_was(quickstart):
    config = json.loads((quickstart.workdir / "config.json").read_text())
    assert config["steps"] == 6
    assert config["encoder"]["width"] == 32
    assert config["objective"]["name"] == "mae"
    run = json.loads((quickstart.workdir / "run.json").read_text())
    assert (run["status"], run["step"], run["seed"]) == (0, 6, 0)
    assert run["data"]["source"] == "digits"
    assert run["host"] == workdir.host()
    assert run["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}
    assert {"jax", "flax", "orbax-checkpoint", "python"} <= set(run["versions"])
    assert run["parameters"]["encoder"] < run["parameters"]["total"]
    flags = [f"--workdir={quickstart.workdir}", *SHRUNK]
    assert run["command"] == [sys.executable, "-m", "mimjax.main", *flags]


def test_real_images_go_on_where_a_killed_run_left_them(quickstart, tmp_path):
    """A copy without its last checkpoint is what a kill after step 3 leaves.

    Nothing can take the place of its report: the run fails at its very end, and the
    same command brings it there.
    """
    shutil.copytree(quickstart.workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    (tmp_path / "run" / "pictures" / "step_00000006.png").unlink()
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    traced = "--config.profile.steps=(5,6)"
    program = Program(tmp_path / "run", *SHRUNK, traced)
    assert program.status() == 74, program.stderr()
    assert "resumed at step 3" in program.stderr()
    assert "updates 5 to 6 are traced: see " in program.stderr()
    assert (program.workdir / "profile" / "operations.txt").exists()

    def ended():
        run = json.loads((program.workdir / "run.json").read_text())
        return run["status"], run.get("step"), run.get("reason", "").count("report")

    assert ended() == (74, 6, 2), "from one name to another"
    (program.workdir / "report.html").rmdir()
    again = Program(program.workdir, *SHRUNK, traced)
    assert again.status() == 0, again.stderr()
    assert ended() == (0, 6, 0)
    assert again.evaluated() == [0, 3, 6]

    def took(program):
        return [r["eval/seconds"] for r in program.records() if "eval/loss" in r]

    assert took(again)[:2] == took(quickstart)[:2]
    assert took(again)[2] != took(quickstart)[2], "what came later was dropped"
    assert again.curve() == quickstart.curve()
    assert again.fingerprints() == quickstart.fingerprints()


def test_a_damaged_file_of_the_workdir_is_one_line(quickstart, tmp_path, capsys):
    shutil.copytree(quickstart.workdir, tmp_path / "run")
    for name in ("run", "config"):
        path = tmp_path / "run" / f"{name}.json"
        path.write_text("")
        assert main.main([f"--workdir={tmp_path / 'run'}", *SHRUNK]) == 78
        (line,) = capsys.readouterr().err.splitlines()
        told = f"--workdir: {path} cannot be read: Expecting value"
        assert line.startswith(told)


def test_a_run_that_its_images_refuse_leaves_the_record_as_it_was(
    quickstart, tmp_path, capsys
):
    shutil.copytree(quickstart.workdir, tmp_path / "run")
    config, run = (tmp_path / "run" / f"{name}.json" for name in ("config", "run"))
    known = json.loads(run.read_text())
    known["data"]["content"] = "others"
    run.write_text(json.dumps(known))
    before = config.read_text(), run.read_text()
    flags = [*SHRUNK, "--config.log_every=3"]
    assert main.main([f"--workdir={tmp_path / 'run'}", *flags]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("config.data.source: digits had 64 images when the run")
    assert (config.read_text(), run.read_text()) == before


def test_help_is_there_at_once():
    told, seconds = python("-m", "mimjax.main", "--help")
    assert "--config.GROUP.FIELD=VALUE" in told
    assert seconds < 5, "0.2 s on an idle machine"


def test_the_flags_are_read_without_the_libraries():
    told, _ = python(
        "-c", "import sys, mimjax.main; print({'jax', 'tensorflow'} & set(sys.modules))"
    )
    assert told == "set()\n"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError(["config.a: b", "config.c: d"]), 78, "config.a: b\nconfig.c: d\n"),
        (BadDataError("step 3: too many"), 78, "step 3: too many\n"),
        (StorageError("cannot save step 4: full"), 74, "cannot save step 4: full\n"),
        (OSError(28, "No space left"), 74, "[Errno 28] No space left\n"),
        (
            RuntimeError("cuDNN is not detected."),
            78,
            "config.encoder.attention: cudnn is not installed; xla needs none\n",
        ),
        (
            MemoryError("Unable to allocate 3.6 TiB"),
            78,
            "this machine has not enough memory: Unable to allocate 3.6 TiB\n",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nUsed"),
            78,
            "config.batch_size: a device has not enough memory (Out of memory); try a "
            "smaller batch (config.evaluate.batch_size where it was evaluating), "
            "config.optim.accumulate, config.encoder.remat=full or more devices on "
            "config.mesh.fsdp\n",
        ),
    ],
)
def test_what_goes_wrong_is_told_in_lines(monkeypatch, capsys, error, status, told):
    def run(*_):
        raise error

    monkeypatch.setattr("mimjax.run.loop.run", run)
    assert main.main([f"--config={CONFIG}", "--workdir=none"]) == status
    assert capsys.readouterr().err == told


def test_our_own_mistakes_end_with_70_and_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr("mimjax.run.loop.run", lambda *_: [][1])
    assert main.main([f"--config={CONFIG}", "--workdir=none"]) == 70
    assert "IndexError" in capsys.readouterr().err


def test_the_step_compiles_for_devices_that_are_not_there(tmp_path):
    program = Program(
        tmp_path / "unused",
        f"--config={CONFIG}:classify",
        "--compile=cpu:8",
        "--config.mesh.fsdp=8",
        "--config.data.source=folder:nowhere",
    )
    assert program.status() == 0
    parameters, compiled = program.stderr().splitlines()
    assert parameters.startswith("parameters: encoder 103,296, in all ")
    assert "for 8 cpu device(s) (data 1 x fsdp 8 x tensor 1); memory per" in compiled
    assert not program.workdir.exists()


@pytest.mark.parametrize(
    "spec",
    [
        "cpu:0",
        "cpu:many",
        "cpu:\u00b2",
        "cpu:999999",
        "h100:0",
        "gtx:8",
        "v5e:0x4",
        "",
        "v5e:1x1x1x1",
    ],
)
def test_devices_that_cannot_be_are_one_line(spec, tmp_path, capsys):
    if spec != "v5e:1x1x1x1":
        assert main.main([f"--config={CONFIG}", f"--compile={spec}"]) == 78
        (line,) = capsys.readouterr().err.splitlines()
        known = spec.startswith(("cpu", "h100"))
        why = "must be" if known else "is neither cpu:COUNT, a slice"
        assert line.startswith(f"--compile: {spec!r} {why}")
        return
    program = Program(tmp_path, f"--config={CONFIG}", f"--compile={spec}")
    assert program.status() == 78
    assert f"--compile: {spec!r}: " in program.stderr().splitlines()[-1]


def test_what_the_environment_says_of_devices_is_not_what_is_compiled_for(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    program = Program(tmp_path, f"--config={CONFIG}:classify", "--compile=cpu:1")
    assert program.status() == 0, program.stderr()


def test_float32_is_float32_in_products_where_it_is_not_by_itself(monkeypatch):
    """On the devices of the run, and on those that it is compiled for."""
    monkeypatch.setattr(setup.heap, "keep", lambda: None)
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    with unittest.mock.patch.object(jax.config, "update") as update:
        setup.settle()
        said = dict(call.args for call in update.call_args_list)
        assert said == {"jax_cpu_enable_async_dispatch": False}
        setup.settle("tpu")
        update.assert_called_with("jax_default_matmul_precision", "float32")


def test_no_device_is_touched_for_a_wrong_field(tmp_path):
    """Where there is none of that kind, the field is what is told."""
    changes = ["--config.optim.clipp=1", f"--config={CONFIG}"]
    program = Program(tmp_path / "run", *changes, JAX_PLATFORMS="cuda")
    assert program.status() == 78
    assert program.stderr() == (
        "config.optim.clipp: no such field; did you mean clip?\n"
    )


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    flags = tmp_path / "run", f"--config={CONFIG}"
    program = Program(*flags, JAX_PLATFORMS="nothing_like_it")
    assert program.status() == 78
    (line,) = program.stderr().splitlines()
    assert line.startswith("JAX cannot start (JAX_PLATFORMS='nothing_like_it'): ")
    assert not program.workdir.exists()


def test_a_signal_after_the_end_does_not_change_the_status():
    code = (
        "import atexit, os, signal; from mimjax import main; main.main = lambda: 0\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM)); main.console()"
    )
    python("-c", code)  # which fails with any status but 0
