"""Many runs under one command: their order, what stops them, and what they show."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import matplotlib.figure
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import tiny
from program import CONFIG, PATIENCE, ROOT

from mimjax import config, cores, train
from mimjax.run import setup
from mimjax.schema import ConfigError
from mimjax.study import __main__ as study_main
from mimjax.study import fits, outcome, pages, plan, problems, results, runner, scaling

TINY = {
    "steps": 4,
    "log_every": 2,
    "evaluate.train_images": 32,
    "evaluate.test_images": 32,
    "evaluate.batch_size": 32,
    "evaluate.linear_iterations": 2,
}
MAE = f"{CONFIG}:mae"
RUNS = {
    "mae/pretrain": (MAE, {**TINY, "eval_every": 4}),
    # Refused once the labels are looked at.
    "bad/pretrain": (f"{CONFIG}:classify", {**TINY, "objective.num_classes": 5}),
    "bad/again": (MAE, {**TINY, "init_from": "@bad/pretrain"}),
    "mae/again": (MAE, {**TINY, "init_from": "@mae/pretrain"}),
}


def written(folder, runs, rest=""):
    """A study file with those runs."""
    path = folder / "study_file.py"
    path.write_text(f"def get_study():\n    return {runs!r}\n{rest}")
    return str(path)


def refused(capsys, *flags):
    """The lines that a study is refused with."""
    assert study_main.main([*flags]) == 78
    return capsys.readouterr().err.splitlines()


# A study in a process of its own.


class Started:
    """`python -m mimjax.study` at work; what it says goes to files."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mimjax.study", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def end(self):
        """Exit status, and the lines on standard output and error."""
        said, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said.splitlines(), errors.splitlines()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A study that was stopped in its first run, and made again to its end."""
    folder = tmp_path_factory.mktemp("study")
    table = 'TABLE = {"loss": ("pretrain", "eval/loss"), "again": ("again", "loss")}'
    rest = f'{table}\nSCALING = ("eval/loss", "eval/linear")'
    file, workdir = written(folder, RUNS, rest), folder / "runs"
    flags = [f"--config={file}", f"--workdir={workdir}"]
    log = workdir / "mae" / "pretrain" / outcome.LOG
    first, deadline = Started(*flags), time.monotonic() + PATIENCE
    while not log.exists() or "training images" not in log.read_text():
        assert first.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    first.process.send_signal(signal.SIGTERM)
    stopped = first.end()
    return flags, workdir, stopped, Started(*flags).end()


def test_a_signal_reaches_the_run_and_ends_the_study(ended):
    _, workdir, (status, said, _), _ = ended
    assert status == 75
    assert said[0] == "[1/4] mae/pretrain  stopped; the same command goes on"
    log = (workdir / "mae" / "pretrain" / outcome.LOG).read_text()
    assert "stopped before the first step" in log
    assert "done in" in log, "what comes later is added"


def test_the_same_command_makes_what_can_be_made(ended):
    _, workdir, _, (status, said, errors) = ended
    assert status == 78
    assert re.fullmatch(
        r"\[1/4\] mae/pretrain  done in 0:0\d:\d\d  loss \d\.\d+  knn .*", said[0]
    )
    assert said[1].startswith("[2/4] bad/pretrain  status 78: config.objective.num_cl")
    assert said[2] == "[3/4] bad/again  not started: it needs bad/pretrain"
    assert said[3].startswith("[4/4] mae/again  done in 0:0")
    assert [line.split(": ")[0] for line in errors] == ["bad/pretrain", "bad/again"]
    assert str(workdir / "bad" / "pretrain" / outcome.LOG) in errors[0]
    assert not (workdir / "bad" / "again").exists()
    log = (workdir / "mae" / "again" / outcome.LOG).read_text()
    assert f"started from {workdir / 'mae' / 'pretrain'}: " in log


def test_what_has_finished_is_not_made_again(ended, capsys):
    flags, workdir, *_ = ended
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("mae/*/*")}
    assert study_main.main([*flags, "--only=mae/again"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("[1/2] mae/pretrain  finished before  loss ")
    assert said[1].startswith("[2/2] mae/again  finished before  training loss ")
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("mae/*/*")} == before


def test_the_table_is_written_after_the_runs(ended):
    _, workdir, *_ = ended
    runs = {name: workdir / "mae" / name for name in ("pretrain", "again")}
    records = {
        name: [
            json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for name, folder in runs.items()
    }
    held_out = [r["eval/loss"] for r in records["pretrain"] if "eval/loss" in r]
    trained = [r["loss"] for r in records["again"]]
    text = (workdir / "results.md").read_text()
    assert f"| mae | {held_out[-1]:.4f} | {trained[-1]:.4f} |" in text
    assert "| bad | – | – |" in text
    known = json.loads((runs["pretrain"] / "run.json").read_text())
    assert f"jax {known['versions']['jax']}" in text
    assert "- runs: 2 of 4 finished" in text
    assert "| loss | eval/loss of pretrain | 4 | 8 | 0 |" in text
    page = (workdir / "report.html").read_text()
    assert '<a href="mae/again/report.html">mae/again</a>' in page
    assert f"<td>{held_out[-1]:.4f}</td>" in page and "bad/again" in page


def test_runs_tell_their_size(ended):
    """The one that was judged is a point, at what its step costs."""
    _, workdir, *_ = ended
    (point,) = json.loads((workdir / "scaling.json").read_text())["points"]
    given = tiny.resolve("mae")
    cost = setup.step_flops(given, setup.make_plan(given, 1), tiny.mesh_of())
    assert point["flops"] == TINY["steps"] * cost
    assert point["images"] == TINY["steps"] * given.run.batch_size
    params = train.shapes_of(given).params
    assert point["parameters"] == train.count(params["encoder"])
    assert point["names"] == ["mae/pretrain"]


def test_a_run_of_another_config_is_no_finished_one(ended, tmp_path, capsys):
    _, workdir, *_ = ended
    file, changes = RUNS["mae/pretrain"]
    changed = written(tmp_path, {"mae/pretrain": (file, {**changes, "seed": 3})})
    (line,) = refused(capsys, f"--config={changed}", f"--workdir={workdir}")
    assert line.startswith("mae/pretrain: config.seed: 3 here, 0 in ")


def test_the_commands_are_those_a_user_would_give(ended, capsys):
    flags, workdir, *_ = ended
    assert study_main.main([*flags, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RUNS)
    assert lines[0].startswith("# finished: python -m mimjax.main --config=")
    start = f"python -m mimjax.main --config={CONFIG}:mae --workdir={workdir}/bad/again"
    assert lines[2].startswith(start + " --config.steps=4 ")
    assert lines[2].endswith(f" --config.init_from={workdir}/bad/pretrain")


# What is refused before anything starts.


def test_the_runs_keep_their_order_and_only_takes_what_they_need(tmp_path):
    study = plan.load(written(tmp_path, RUNS), tmp_path)
    assert list(study.runs) == list(RUNS)
    assert list(study.only("mae/again").runs) == ["mae/pretrain", "mae/again"]
    assert list(study.only("").runs) == list(RUNS)
    with pytest.raises(ConfigError, match=r"no run begins with 'x'; .* mae, bad"):
        study.only("x")


def test_runs_are_made_at_once_but_after_those_they_need(tmp_path, monkeypatch):
    needs = {"init_from": "@a"}
    runs = {"a": (MAE, {}), "b": (MAE, needs), "c": (MAE, {}), "d": (MAE, needs)}
    both, began, ended = threading.Barrier(2, timeout=30), [], []

    def make(children, study, run):
        began.append(run.name)
        assert "a" in ended or not run.needs
        both.wait()
        ended.append(run.name)
        return int(run.name == "d"), 1.0

    monkeypatch.setattr(runner.Children, "make", make)
    study = plan.load(written(tmp_path, runs), tmp_path)
    assert runner.run(study, [], lambda: None, jobs=2) == 1, "that of d"
    assert (sorted(began[:2]), sorted(began[2:])) == (["a", "c"], ["b", "d"])


@pytest.fixture
def outlived():
    """A signal that comes when the runs have already ended ends no test."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_reaches_all_runs_and_each_has_its_share_of_the_cores(
    tmp_path, monkeypatch, outlived
):
    """Real processes, which tell what they may use and wait."""
    code = "from mimjax import cores; import time; print(cores.usable(), flush=True)"
    command = ["-c", f"{code}; time.sleep(60)"]
    monkeypatch.setattr(plan.Run, "command", lambda *_: command)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    study = plan.load(written(tmp_path, {n: (MAE, {}) for n in "abc"}), tmp_path)
    logs = [tmp_path / name / outcome.LOG for name in "ab"]

    def end():
        deadline = time.monotonic() + 50
        while not all(p.exists() and "]" in p.read_text() for p in logs):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    began, known = time.monotonic(), cores.usable()
    sender = threading.Thread(target=end)
    sender.start()
    try:
        assert runner.run(study, [], lambda: None, jobs=2) == 75
    finally:
        sender.join()
    assert time.monotonic() - began < 50, "nobody waited for their end"
    found = [json.loads(path.read_text()) for path in logs]
    shares = [cores.share(known, n, 2) for n in range(2)]
    assert sorted(found) == sorted(shares if len(known) > 1 else [known] * 2)
    assert cores.usable() == known
    assert not (tmp_path / "c").exists()


def test_a_run_that_a_signal_kills_says_so(tmp_path, monkeypatch, capsys):
    code = "import os; print('at work', flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(plan.Run, "command", lambda *_: ["-c", code])
    study = plan.load(written(tmp_path, {"a": (MAE, {})}), tmp_path)
    assert runner.run(study, [], lambda: None) == 128 + 9
    said = capsys.readouterr()
    assert said.out == "[1/1] a  killed by signal 9\n"
    log = tmp_path / "a" / outcome.LOG
    assert said.err == f"a: killed by signal 9 (see {log})\n"


@pytest.mark.parametrize(
    ("status", "ended", "said"),
    [(74, 74, "status 74: disk full"), (0, 0, "done in"), (-9, 75, "stopped;")],
)
def test_a_run_that_ends_in_its_own_way_after_a_signal_is_told_so(
    tmp_path, monkeypatch, capsys, outlived, status, ended, said
):
    """The study has stopped, for another run is left; that one is not begun."""
    end = f"sys.exit({status})" if status >= 0 else "os.kill(os.getpid(), 9)"
    code = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); "
    code += (
        f"os.kill(os.getppid(), 15); signal.sigwait([15]); print('disk full'); {end}"
    )
    monkeypatch.setattr(plan.Run, "command", lambda *_: ["-c", code])
    study = plan.load(written(tmp_path, {n: (MAE, {}) for n in "ab"}), tmp_path)
    assert runner.run(study, [], lambda: None) == 75
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"[1/2] a  {said}")
    ends = json.loads((tmp_path / runner.RECORD).read_text())["runs"]
    assert {n: x["status"] for n, x in ends.items()} == {"a": ended}
    assert runner.run(study.only("a"), [], lambda: None) == ended, "none is left"


def test_the_seconds_of_a_run_are_those_since_it_was_begun_anew(tmp_path):
    study = plan.load(written(tmp_path, {"a": (MAE, {})}), tmp_path)
    run, took = study.runs["a"], []
    run.folder.mkdir()
    for hour in (1, 1, 2):
        write_facts(run.folder, hour)
        runner.note(study, run, [], 75, 10.0, 20.0)
        record = json.loads((tmp_path / runner.RECORD).read_text())
        took.append(record["runs"]["a"]["seconds"])
    assert took == [10, 20, 10] and record["seconds"] == 60


def test_the_report_says_how_a_run_failed(tmp_path):
    study = plan.load(written(tmp_path, {n: (MAE, {}) for n in "abcd"}), tmp_path)
    for name, status in (("a", 74), ("b", -9), ("c", 75)):
        (tmp_path / name).mkdir()
        (tmp_path / name / outcome.LOG).write_text("at work\nno space <left>\n\n")
        runner.note(study, study.runs[name], [], status, 1.0, 1.0)
    tell(study)
    page = (tmp_path / "report.html").read_text()
    assert "<td>failed: status 74: no space &lt;left&gt;</td>" in page
    assert "<td>failed: killed by signal 9</td>" in page
    assert page.count("<td>to do</td>") == 2


def test_a_path_of_other_bytes_than_utf_8_is_written_and_told(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    rest = 'TABLE = {"loss": ("b", "loss")}'
    workdir = pathlib.Path(os.fsdecode(folder))
    file = written(workdir, {"a/b": (MAE, TINY)}, rest)
    flags = f"--config={file}", f"--workdir={workdir}", "--list"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mimjax.study", *flags]
    said = subprocess.run(command, capture_output=True, env=env, check=True)
    assert folder in said.stdout
    tell(plan.load(file, workdir))
    for name in ("report.html", "results.md"):
        assert r"/\udcff" in (workdir / name).read_text()


def test_the_figures_of_a_run_are_read_once(grid, monkeypatch):
    """However many parts of the report they are in."""
    seen = []
    monkeypatch.setattr(outcome, "read_metrics", lambda x: seen.append(x) or [])
    tell(grid)
    assert len(seen) == len(set(seen)) == len(grid.runs)


def test_two_commands_keep_what_each_other_wrote(tmp_path, monkeypatch):
    whole = plan.load(written(tmp_path, {n: (MAE, {}) for n in "ab"}), tmp_path)

    def make(children, study, run):
        runner.note(whole, whole.runs["b"], ["b"], 0, 1.0, 60.0)  # by the other one
        return 0, 2.0

    monkeypatch.setattr(runner.Children, "make", make)
    assert runner.run(whole.only("a"), ["a"], lambda: None) == 0
    record = json.loads((tmp_path / runner.RECORD).read_text())
    assert {n: x["seconds"] for n, x in record["runs"].items()} == {"a": 2, "b": 1}
    assert record["seconds"] >= 60


def test_what_goes_wrong_here_stops_the_runs(tmp_path, monkeypatch):
    """The first ends at once, and nothing can be written of it."""

    def command(run, _):
        return ["-c", f"import time; time.sleep({0 if run.name == 'a' else 60})"]

    monkeypatch.setattr(plan.Run, "command", command)
    study = plan.load(written(tmp_path, {n: (MAE, {}) for n in "ab"}), tmp_path)
    (tmp_path / runner.RECORD).mkdir()
    began = time.monotonic()
    with pytest.raises(OSError, match=runner.RECORD):
        runner.run(study, [], lambda: None, jobs=2)
    assert time.monotonic() - began < 50


def test_shares_keep_the_threads_of_a_core_together(monkeypatch):
    monkeypatch.setattr(cores, "first_thread", lambda core: core % 4)
    found = [cores.share([0, 1, 2, 3, 4, 5, 6, 7], n, 3) for n in range(3)]
    assert found == [[0, 4], [1, 5, 2], [6, 3, 7]]


def test_the_jobs_asked_for_are_made_and_more_than_cores_refused(
    tmp_path, monkeypatch, capsys
):
    flags = f"--config={written(tmp_path, RUNS)}", f"--workdir={tmp_path}"
    most, given = len(cores.usable()), []
    monkeypatch.setattr(runner, "run", lambda *a: given.append(a[-1]) or 0)
    assert study_main.main([*flags, f"--jobs={most}"]) == 0
    assert given == [most]
    capsys.readouterr()
    for jobs in (0, most + 1):
        (line,) = refused(capsys, *flags, f"--jobs={jobs}")
        assert line == f"--jobs: {jobs} must be 1 to {most}: so many cores may be used"


@pytest.mark.parametrize(
    ("runs", "rest", "expected"),
    [
        ([], "", "must return a dict of name: ("),
        ({"../a": (MAE, {})}, "", "../a: is not a name like"),
        ({"a": (MAE, {}), "a/b": (MAE, {})}, "", "a: would hold the workdir of a/b"),
        ({"a": "x"}, "", "a: 'x' is not a config file and changes: ("),
        (
            {"a": (MAE, {"seed": None})},
            "",
            "a: config.seed: None is no value of a field",
        ),
        (
            {"a": (MAE, {"init_from": "@b"}), "b": (MAE, {})},
            "",
            "a: config.init_from: @b comes no earlier in the study",
        ),
        (
            {"run": (MAE, {}), "b": (MAE, {"init_from": "@runs"})},
            "",
            "b: config.init_from: @runs is no run of it; did you mean @run?",
        ),
        (
            {"a": (MAE, {}), "b": (MAE, {"init_form": "@a"})},
            "",
            "b: config.init_form: no such field; did you mean init_from?",
        ),
        ({"a/b": (MAE, {})}, "TABLE = {'c': 'd'}", "TABLE: {'c': 'd'} is not a dict"),
        (
            {"a/b": (MAE, {})},
            "TABLE = {'c': ('d', 'loss')}",
            "TABLE: c: no run is called ROW/d; there are b",
        ),
        (
            {"a/b": (MAE, {})},
            "TABLE = {1: ('b', 'loss')}",
            "TABLE: {1: ('b', 'loss')} is not a dict of column: (",
        ),
        (
            {
                "a/pretrain": (MAE, {"eval_every": 4}),
                "a/probe": (f"{CONFIG}:classify", {"eval_every": 4}),
                "a/tuned": (f"{CONFIG}:simmim", {"eval_every": 0}),
            },
            "SCALING = ('eval/loss', 'eval/linear')",
            "SCALING: the losses of mae (a/pretrain) and classify (a/probe) make no "
            "law together; make two studies, or set eval_every=0 for",
        ),
        ({"a": (MAE, {})}, "SCALING = 'loss'", "SCALING: 'loss' is not the names of"),
        ({"a": ("none.py", {})}, "", "a: --config: there is no file none.py"),
    ],
)
def test_a_wrong_study_is_told_in_one_line(tmp_path, capsys, runs, rest, expected):
    flags = f"--config={written(tmp_path, runs, rest)}", f"--workdir={tmp_path / 'w'}"
    (line,) = refused(capsys, *flags)
    assert expected in line
    assert not (tmp_path / "w").exists()


def test_what_a_run_builds_on_is_looked_at_where_it_is_there(tmp_path, capsys):
    made = pathlib.Path(tiny.workdir_of("mae"))
    beit = f"{CONFIG}:beit", {"objective.tokenizer": f"@{made.name}"}
    file = written(tmp_path, {made.name: (MAE, {}), "beit": beit})
    (line,) = refused(capsys, f"--config={file}", f"--workdir={made.parent}")
    told = f"beit: config.objective.tokenizer: {made} is no run of a tokenizer"
    assert line == told
    problems.check(plan.load(file, tmp_path))  # nothing is there yet


def test_a_damaged_file_of_a_run_is_one_line(tmp_path, capsys):
    flags = f"--config={written(tmp_path, {'a': (MAE, TINY)})}", f"--workdir={tmp_path}"
    finished(tmp_path / "a", {"eval/loss": 1.0})
    for text, why in (("", "Expecting value"), ("[]", "it holds no object")):
        (tmp_path / "a" / "config.json").write_text(text)
        (line,) = refused(capsys, *flags)
        path = tmp_path / "a" / "config.json"
        assert line.startswith(f"a: --workdir: {path} cannot be read: {why}")


def begun(study, status=0):
    """Leaves every run as one that has ended so after its last step, of TINY."""
    for hour, run in enumerate(study.runs.values()):
        (run.folder / "checkpoints" / "4").mkdir(parents=True)
        how = run.file, run.texts(study.workdir), None
        given = config.resolve(*how, workdir=str(run.folder))
        (run.folder / "config.json").write_text(json.dumps(given.values))
        record = {"step": 4, "eval/loss": float(hour)}
        (run.folder / "metrics.jsonl").write_text(json.dumps(record))
        write_facts(run.folder, hour, status=status, step=4, steps=4)


def write_facts(folder, hour, **known):
    """run.json of a run that has started at that hour."""
    known |= {"started": f"2026-01-01T{hour:02}:00:00+00:00"}
    known |= {"devices": "cpu", "device_count": 1, "versions": {"mimjax": "0"}}
    (folder / "run.json").write_text(json.dumps(known))


CHAIN = {
    "mae/pretrain": (MAE, TINY),
    "mae/again": (MAE, {**TINY, "init_from": "@mae/pretrain"}),
    "mae/more": (MAE, {**TINY, "init_from": "@mae/again"}),
}
LOSSES = """TABLE = {n: (n, "eval/loss") for n in ("pretrain", "again", "more")}"""


def test_what_was_made_from_an_earlier_run_is_refused(tmp_path, capsys):
    """Before anything starts, be the run it needs made again or about to be."""
    file = written(tmp_path, CHAIN, LOSSES)
    workdir = tmp_path / "runs"
    study, flags = (
        plan.load(file, workdir),
        [f"--config={file}", f"--workdir={workdir}"],
    )
    begun(study)
    problems.check(study)
    told = (
        f"mae/again: config.init_from: {workdir / 'mae/again'} was made from an "
        "earlier @mae/pretrain; remove that workdir to make the run again"
    )
    write_facts(workdir / "mae/pretrain", 5, status=0, step=4, steps=4)
    assert refused(capsys, *flags) == [told]
    (workdir / "mae/pretrain").rename(tmp_path / "removed")
    assert refused(capsys, *flags) == [told]
    # What comes of it is in no table.
    assert study_main.main([*flags, "--only=mae/pretrain", "--list"]) == 0
    assert problems.strangers(study) == {
        "mae/again": told.partition(": ")[2],
        "mae/more": "was made from mae/again",
    }


def test_a_run_that_is_made_again_meanwhile_takes_those_made_from_it_along(
    tmp_path, monkeypatch, capsys
):
    study = plan.load(written(tmp_path, CHAIN), tmp_path)
    begun(study)
    write_facts(tmp_path / "mae/pretrain", 0, status=75, step=2, steps=4)

    def make(children, study, run):
        """Removed, and begun anew."""
        write_facts(run.folder, 9, status=0, step=4, steps=4)
        return 0, 1.0

    monkeypatch.setattr(runner.Children, "make", make)
    assert runner.run(study, [], lambda: None) == 78
    said = capsys.readouterr().out.splitlines()
    assert "[1/3] mae/pretrain  done in 0:00:01  loss 0.0000" in said
    again = f"config.init_from: {tmp_path / 'mae/again'} was made from an earlier "
    assert said[1].startswith(f"[2/3] mae/again  {again}@mae/pretrain; remove")
    assert said[2] == "[3/3] mae/more  not started: it needs mae/again"


def test_runs_of_another_study_file_are_in_no_table(tmp_path, capsys):
    """Those that --only leaves alone may have been made with other changes."""
    workdir = tmp_path / "runs"
    file = written(tmp_path, CHAIN, f'{LOSSES}\nSCALING = ("eval/loss", "eval/knn")')
    begun(plan.load(file, workdir))
    for name in ("pretrain", "again", "more"):
        known = json.loads((workdir / "mae" / name / "run.json").read_text())
        known |= {"parameters": {"encoder": 1}, "data": {"length": 9}, "step_flops": 1}
        (workdir / "mae" / name / "run.json").write_text(json.dumps(known))
    name, (mae, changes) = "mae/more", CHAIN["mae/more"]
    changed = {**CHAIN, name: (mae, {**changes, "seed": 3})}
    rest = f'{LOSSES}\nSCALING = ("eval/loss", "eval/knn")'
    file = written(tmp_path, changed, rest)
    flags = [f"--config={file}", f"--workdir={workdir}", "--only=mae/again"]
    assert study_main.main(flags) == 0
    (left_out, _) = capsys.readouterr().err.splitlines()
    assert left_out.startswith("left out: mae/more: config.seed: 3 here, 0 in ")
    text = (workdir / "results.md").read_text()
    assert "| mae | 0.0000 | 1.0000 | – |" in text and "2 of 3 finished" in text
    points = json.loads((workdir / "scaling.json").read_text())["points"]
    named = [name for point in points for name in point["names"]]
    assert named == ["mae/again", "mae/pretrain"]
    page = (workdir / "report.html").read_text()
    assert "<p>left out: mae/more: " in page and "<td>left out</td>" in page


def test_a_finished_need_without_a_checkpoint_is_told(tmp_path, capsys):
    """As long as a run that needs it has not finished itself."""
    file = written(tmp_path, {n: CHAIN[n] for n in ("mae/pretrain", "mae/again")})
    study = plan.load(file, tmp_path)
    begun(study)
    for folder in ("pretrain", "again"):
        (tmp_path / "mae" / folder / "checkpoints" / "4").rmdir()
    problems.check(study)
    (tmp_path / "mae/again").rename(tmp_path / "gone")
    (line,) = refused(capsys, f"--config={file}", f"--workdir={tmp_path}")
    place = tmp_path / "mae/pretrain"
    assert line.startswith(f"mae/again: config.init_from: {place} holds no checkpoint;")


def test_the_workdir_of_a_run_is_none_of_a_study(tmp_path, capsys):
    begun(plan.load(written(tmp_path, {"a": (MAE, TINY)}), tmp_path))
    flags = f"--config={written(tmp_path, RUNS)}", f"--workdir={tmp_path / 'a'}"
    told = f"--workdir: {tmp_path / 'a'} is the workdir of a run; name another"
    assert refused(capsys, *flags) == [told]


def test_runs_that_were_judged_otherwise_are_refused(tmp_path, capsys):
    """Those that have not ended go on, and are judged as it is asked now."""
    begun(plan.load(written(tmp_path, {"a": (MAE, TINY)}), tmp_path / "ended"))
    begun(plan.load(written(tmp_path, {"a": (MAE, TINY)}), tmp_path / "stopped"), 75)
    changed = {**TINY, "evaluate.test_images": 16, "eval_every": 4, "log_every": 1}
    file = written(tmp_path, {"a": (MAE, changed)})
    problems.check(plan.load(file, tmp_path / "stopped"))
    lines = refused(capsys, f"--config={file}", f"--workdir={tmp_path / 'ended'}")
    assert [line.partition(" here, ")[0] for line in lines] == [
        "a: config.eval_every: 4",
        "a: config.evaluate.test_images: 16",
    ]


def test_a_workdir_may_be_seen_from_another_place(tmp_path, monkeypatch, capsys):
    """By another path, or moved as on another machine."""
    monkeypatch.chdir(tmp_path)
    again = MAE, {**TINY, "init_from": "@mae/pretrain"}
    file = written(tmp_path, {"mae/pretrain": (MAE, TINY), "mae/again": again})
    begun(plan.load(file, pathlib.Path("runs")))
    problems.check(plan.load(file, tmp_path / "runs"))
    (tmp_path / "runs").rename(tmp_path / "moved")
    problems.check(plan.load(file, tmp_path / "moved"))
    (tmp_path / "runs" / "mae" / "pretrain").mkdir(parents=True)
    (line,) = refused(capsys, f"--config={file}", f"--workdir={tmp_path / 'moved'}")
    assert line.startswith("mae/again: config.init_from: ")


def test_every_problem_of_every_run_is_told_once(tmp_path, capsys):
    wrong = {**TINY, "optim.clipp": 1.0, "data.source": "nothing"}
    runs = {
        "a/x": (MAE, TINY),
        "b/x": (MAE, wrong),
        "c/x": (MAE, {**wrong, "init_from": "@a/x"}),
        "d/x": (MAE, {**TINY, "init_from": "@b", "seed": None, "steps": 0}),
        "../e": (MAE, {}),
    }
    lines = refused(capsys, f"--config={written(tmp_path, runs)}", "--workdir=none")
    assert sorted(line.split(": ")[:2] for line in lines) == [
        ["../e", "is not a name like 'mae/finetune/seed0'"],
        ["b/x (and 1 more)", "config.data.source"],
        ["b/x (and 1 more)", "config.optim.clipp"],
        ["d/x", "config.init_from"],
        ["d/x", "config.seed"],
        ["d/x", "config.steps"],
    ]


def test_a_file_without_runs_is_told_in_one_line(tmp_path, capsys):
    (line,) = refused(capsys, f"--config={CONFIG}", f"--workdir={tmp_path}")
    assert line.endswith("get_study; it is a config, for python -m mimjax.main")
    (line,) = refused(capsys, "--config=x.py")
    assert "--workdir" in line


# Laws of made points.

X = np.geomspace(1e5, 1e8, 7)
# Of a seed, for the noise to be the same everywhere.
NOISE = np.random.default_rng(0).normal(0, 0.004, (60, len(X)))


def made(floor=0.5, factor=30.0, exponent=0.3):
    """Losses of a known law."""
    return floor + factor * X**-exponent


@pytest.mark.parametrize("exponent", [0.05, 0.3, 1.2])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_law_without_noise_is_found(floor, exponent):
    found = fits.power_law(X, made(floor, 30.0, exponent))
    assert found.why == "" and found.points == len(X)
    np.testing.assert_allclose(
        [found.floor, found.factor, found.exponent],
        [floor, 30.0, exponent],
        rtol=1e-5,
        atol=1e-8,
    )


def test_a_law_is_that_of_scipy_with_its_errors():
    for noise in NOISE[:10]:
        loss = made() + noise
        found = fits.power_law(X, loss)
        # In other units than ours: those of the largest.
        best, covariance = scipy.optimize.curve_fit(
            lambda x, e, a, b: e + a * (x / X[-1]) ** -b,
            X,
            loss,
            p0=(0.5, 0.1, 0.3),
        )
        found_error = found.floor_error, found.exponent_error
        spread = np.sqrt(np.diag(covariance))[[0, 2]]
        np.testing.assert_allclose([found.floor, found.exponent], best[[0, 2]], 1e-4)
        np.testing.assert_allclose(found_error, spread, rtol=1e-3)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_error_covers_the_truth_as_often_as_it_says(floor):
    """Of Student's distribution, three numbers fitted, or two where E is 0."""
    found = [fits.power_law(X, made(floor) + noise) for noise in NOISE]
    assert any(f.floor == 0 for f in found) == (floor == 0)
    hits = [
        abs(f.exponent - 0.3)
        < scipy.stats.t.ppf(0.95, len(X) - (3 if f.floor else 2)) * f.exponent_error
        for f in found
    ]
    assert 0.82 <= np.mean(hits) <= 0.97


def test_the_error_of_a_law_without_a_floor_is_that_of_two_numbers():
    """E is at its bound for the noise of this seed, as the best of three is below."""
    found = [(fits.power_law(X, made(0.0) + noise), noise) for noise in NOISE]
    found = [(fit, noise) for fit, noise in found if fit.floor == 0]
    for fit, noise in found:
        best, covariance = scipy.optimize.curve_fit(
            lambda x, a, b: a * (x / X[-1]) ** -b, X, made(0.0) + noise, p0=(0.1, 0.3)
        )
        np.testing.assert_allclose(fit.exponent, best[1], 1e-4)
        error = np.sqrt(covariance[1, 1])
        np.testing.assert_allclose(fit.exponent_error, error, rtol=1e-3)
        told = pages.numbers(fit)
        assert told["floor"] == 0 and told["floor_error"] is None


@pytest.mark.parametrize(
    ("x", "loss", "why"),
    [
        (X[:3], made()[:3], "3 points, at least 4 are needed"),
        (np.repeat(X[:3], 2), np.repeat(made()[:3], 2), "3 points, at least 4"),
        (X, np.ones(7), "the loss does not fall"),
        (X, np.full(7, 0.1), "the loss does not fall"),
        (X, 0.1 * np.array([1 + 1e-16, 1, 1, 1, 1, 1, 1 - 1e-16]), "the loss does not"),
        (X, np.linspace(1, 2, 7), "the loss does not fall"),
        (X, np.array([2.0, 1, 1, 1, 1, 1, 1]), "the points bend like no power of x"),
        (X, np.array([5.0, 4.2, 4.5, 3.5, 4.0, 3.0, 3.6]), "the error of the exponent"),
    ],
)
def test_a_law_that_is_not_determined_says_why(x, loss, why):
    assert why in fits.power_law(x, loss).why


# Studies of made runs.


def finished(folder, values, *, parameters=1, images=1, flops=1, steps=10, seed=0):
    """A workdir as a run of batches of 100 leaves it."""
    folder.mkdir(parents=True)
    given = {"batch_size": 100, "seed": seed}
    (folder / "config.json").write_text(json.dumps(given))
    known = {
        "status": 0,
        "step": steps,
        "steps": steps,
        "parameters": {"encoder": parameters, "total": 2 * parameters},
        "data": {"length": images},
        "step_flops": flops,
        "devices": "cpu",
        "device_count": 1,
        "versions": {"mimjax": "0"},
    }
    (folder / "run.json").write_text(json.dumps(known))
    records = [{"step": 0, "eval/loss": 9.0}, {"step": steps, **values}]
    text = "\n".join(map(json.dumps, records))
    (folder / "metrics.jsonl").write_text(text)


def values(study):
    """The last values of all runs that have finished."""
    return outcome.values_of(study.runs.values())


def tell(study):
    """Writes what a study shows, as its command does; the laws."""
    last = values(study)
    return pages.write(study, ["study"], last, results.absent(study, last))


def test_cells_are_means_with_their_spread(tmp_path):
    accuracies = [0.5, 0.6, 0.8]
    runs = {f"mae/tune/seed{n}": ("x", {}) for n in range(3)}
    runs |= {"mae/pretrain": ("x", {}), "aim/pretrain": ("x", {})}
    rest = 'TABLE = {"knn": ("pretrain", "eval/knn"), "tuned": ("tune", "eval/acc")}'
    study = plan.load(written(tmp_path, runs, rest), tmp_path)
    for seed, accuracy in enumerate(accuracies):
        folder = tmp_path / f"mae/tune/seed{seed}"
        finished(folder, {"eval/acc": accuracy}, seed=seed)
    finished(tmp_path / "mae/pretrain", {"eval/knn": 0.25})
    mean, spread = np.mean(accuracies), np.std(accuracies, ddof=1)
    _, rows = results.grid(study, values(study))
    tuned = f"{mean:.4f} ± {spread:.4f} (3)"
    assert rows == [["mae", "0.2500", tuned], ["aim", "–", "–"]]
    _, columns = results.columns(study, values(study))
    assert columns[1] == ["tuned", "eval/acc of tune", "10", "100", "0, 1, 2"]
    assert results.cells(study, values(study))["mae"]["tuned"].values == accuracies


def test_the_circumstances_are_those_of_the_runs(tmp_path):
    """Two made elsewhere, of other versions, and one by the study itself."""
    runs = {f"mae/tune/seed{n}": ("x", {}) for n in range(3)}
    rest = 'TABLE = {"a|b": ("tune", "eval/acc")}'
    study = plan.load(written(tmp_path, runs, rest), tmp_path)
    for n, name in enumerate(runs):
        finished(tmp_path / name, {"eval/acc": 0.5})
        known = json.loads((tmp_path / name / "run.json").read_text())
        known |= {"devices": "TPU v5e", "device_count": 256, "host": "x86_64, 9 cores"}
        known |= {"versions": {"jax": str(n)}}
        known |= {"started": "2026-01-01T00:00:00+00:00"}
        known |= {"finished": f"2026-01-01T0{n + 1}:00:00+00:00"}
        (tmp_path / name / "run.json").write_text(json.dumps(known))
    found = dict(results.circumstances(study, values(study)))
    assert found["machine"] == "256 x TPU v5e (x86_64, 9 cores)"
    assert found["time"] == "6:00:00 of runs, added up"
    (last,) = list(runs)[2:]
    runner.note(study, study.runs[last], [], 0, 60.0, 90.0)
    found = dict(results.circumstances(study, values(study)))
    assert found["time"] == "0:01:30 of commands, 3:01:00 of runs, added up"
    results.save(study, ["study"], values(study))
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["versions"] == ["jax 0", "jax 1", "jax 2"]
    assert "|  | a\\|b |\n" in (tmp_path / "results.md").read_text()


SIZES, IMAGES = (1e4, 4e4, 16e4, 64e4, 256e4), (100, 200, 400, 1000)


@pytest.fixture
def grid(tmp_path):
    """A study of runs whose loss is a law of parameters and of images."""
    names = {
        f"p{size:.0f}/n{images}": (size, images) for size in SIZES for images in IMAGES
    }
    rest = 'SCALING = ("eval/loss", "eval/linear")'
    runs = {name: ("x", {}) for name in names}
    study = plan.load(written(tmp_path, runs, rest), tmp_path)
    for name, (size, images) in names.items():
        loss = 0.2 + 12 * size**-0.35 + 8 * images**-0.6
        finished(
            tmp_path / name,
            {"eval/loss": loss, "eval/linear": 1 - loss / 2},
            parameters=int(size),
            images=images,
            flops=6 * int(size),
        )
    return study


def test_laws_are_fitted_where_the_other_axis_is_largest(grid):
    points = scaling.points(grid, values(grid))
    assert len(points) == len(SIZES) * len(IMAGES)
    laws = scaling.laws(points)
    found = laws["parameters"]
    expected = 0.2 + 8 * 1000**-0.6, 12, 0.35
    np.testing.assert_allclose((found.floor, found.factor, found.exponent), expected)
    found = laws["images"]
    expected = 0.2 + 12 * 256e4**-0.35, 8, 0.6
    np.testing.assert_allclose((found.floor, found.factor, found.exponent), expected)
    # FLOPs are 6 x parameters x 10 steps.
    np.testing.assert_allclose(laws["flops"].exponent, 0.35)
    np.testing.assert_allclose(laws["flops"].factor, 12 * 60**0.35)
    chosen = scaling.along(points, "flops")
    assert [p.images for p in chosen] == [1000] * len(SIZES)


def test_images_are_those_seen(tmp_path):
    """Of a set too large to be seen, as many as were drawn; seeds are one point."""
    runs = {f"a/b/seed{n}": ("x", {}) for n in range(2)}
    study = plan.load(written(tmp_path, runs, 'SCALING = ("loss", "acc")'), tmp_path)
    for seed in range(2):
        finished(tmp_path / f"a/b/seed{seed}", {"loss": 2.0 + seed}, images=10**6)
    (point,) = scaling.points(study, values(study))
    assert point.images == 10 * 100
    assert (point.loss, point.names) == (2.5, list(runs))


def test_runs_of_one_size_and_other_names_are_points_apart(tmp_path):
    """The law goes through the better one."""
    runs = {f"a/{name}": ("x", {}) for name in "bc"}
    study = plan.load(written(tmp_path, runs, 'SCALING = ("loss", "acc")'), tmp_path)
    for name, loss in (("b", 2.0), ("c", 3.0)):
        finished(tmp_path / "a" / name, {"loss": loss})
    points = scaling.points(study, values(study))
    assert sorted(point.loss for point in points) == [2.0, 3.0]
    assert [p.loss for p in scaling.along(points, "parameters")] == [2.0]


def test_runs_that_are_not_finite_are_named_and_take_nothing_with_them(tmp_path):
    runs = {f"mae/tune/seed{n}": ("x", {}) for n in range(3)}
    table = 'TABLE = {"loss": ("tune", "loss"), "none": ("tune", "eval/acc")}'
    rest = f'{table}\nSCALING = ("loss", "acc")'
    study = plan.load(written(tmp_path, runs, rest), tmp_path)
    for name, loss in zip(runs, (0.5, "nan", 0.7), strict=True):
        finished(tmp_path / name, {"loss": loss, "acc": loss})
    tell(study)

    def strict(name):
        text = (tmp_path / name).read_text()
        return json.loads(text, parse_constant=pytest.fail)

    cell = strict("results.json")["rows"]["mae"]["loss"]
    assert cell["values"] == [0.5, None, 0.7] and cell["runs"] == list(runs)
    told = strict("scaling.json")
    assert told["points"][0]["losses"] == [0.5, 0.7]
    assert told["left_out"] == ["mae/tune/seed1"]
    _, ((_, text, _),) = results.grid(study, values(study))
    assert text == "0.6000 ± 0.1414 (2), 1 not finite"
    page = (tmp_path / "report.html").read_text()
    assert "for their loss is not finite: mae/tune/seed1." in page
    # The loss of step 0 is none of the last one.
    wrong = "TABLE: no run of tune has eval/acc; it has acc, loss"
    assert results.absent(study, values(study)) == [wrong]
    assert f"<p>{wrong}</p>" in page


def test_the_report_has_the_laws_or_says_why_not(grid):
    laws = tell(grid)
    text = (grid.workdir / "report.html").read_text()
    assert "<td>0.35 ± " in text and "<td>0.6 ± " in text
    assert text.count("data:image/png;base64,") == 1
    told = json.loads((grid.workdir / "scaling.json").read_text())
    assert told["laws"]["parameters"]["exponent"] == pytest.approx(0.35)
    sizes, images, _ = pages.laws_told(laws)
    assert sizes.startswith("law of parameters of the encoder: α = 0.35 ± ")
    assert images.startswith("law of different training images seen: α = 0.6 ± ")
    assert len(told["points"]) == len(SIZES) * len(IMAGES)
    for folder in grid.workdir.glob("p2560000/*"):
        (folder / "run.json").unlink()
    for folder in grid.workdir.glob("p640000/*"):
        (folder / "run.json").unlink()
    laws = tell(grid)
    text = (grid.workdir / "report.html").read_text()
    assert "not determined: 3 points, at least 4 are needed" in text
    told = json.loads((grid.workdir / "scaling.json").read_text())
    assert told["laws"]["parameters"]["exponent"] is None
    assert told["laws"]["parameters"]["why"].startswith("3 points")
    line = pages.laws_told(laws)[0]
    assert line.endswith("not determined: 3 points, at least 4 are needed (3 points)")


def test_lines_join_one_point_for_each_x(grid):
    """Of runs of several lengths the longest; against FLOPs nothing is joined."""
    points = scaling.points(grid, values(grid))
    longer = [dataclasses.replace(p, flops=2 * p.flops) for p in points]
    axes = matplotlib.figure.Figure().subplots()
    for axis, count in (("parameters", len(IMAGES)), ("images", len(SIZES))):
        axes.clear()
        pages.lines(axes, [*longer, *points], axis)
        joined = [line for line in axes.lines if line.get_linestyle() == "-"]
        assert len(joined) == count
        for line in joined:
            assert (np.diff(line.get_xdata()) > 0).all()
    axes.clear()
    pages.lines(axes, points, "flops")
    assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_the_guide_names_studies_that_are_there_and_shows_one(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "studies.md").read_text()
    named = re.findall(r"^python -m mimjax\.study (.*)$", text, re.MULTILINE)
    assert len(named) == 3
    for flags in named:
        file, workdir, *_ = (x.partition("=")[2] for x in flags.split())
        assert not plan.load(file, pathlib.Path(workdir)).found
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "shown.py").write_text(block)
    study = plan.load(str(tmp_path / "shown.py"), tmp_path)
    problems.check(study)
    assert len(study.runs) == 4 and len(study.table) == 2
