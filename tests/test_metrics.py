"""The log of a run, the console line, the clock, and the count of FLOPs."""

import contextlib
import functools
import io
import json
import struct
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mimjax import flops, metrics, train
from mimjax.report import progress
from mimjax.run import setup


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Log(metrics.Writer, contextlib.AbstractContextManager):
    def __exit__(self, *raised):
        self.close()


def log(workdir, resume_step):
    return Log(workdir, resume_step=resume_step, tensorboard=False)


def events(folder):
    """The TensorBoard events below a folder, file by file in the order of names."""
    from tensorboard.compat.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
        assert at == len(data)
    return found


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path):
    loss = np.float32(0.1)
    with log(tmp_path / "run", -1) as writer:
        writer.write(5, {"loss": loss, "count": np.int32(3), "lr": jnp.asarray(0.5)})
        (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 5, "loss": float(loss), "count": 3, "lr": 0.5}
    assert np.float32(json.loads(line)["loss"]) == loss
    assert '"count": 3,' in line


def test_numbers_that_are_not_finite_stay_json_and_come_back(tmp_path):
    with log(tmp_path, -1) as writer:
        writer.write(1, {"a": np.float32("nan"), "b": float("inf"), "c": -float("inf")})

    def refuse(name):
        raise AssertionError(name)

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse)["a"] == "nan"
    (record,) = metrics.read_metrics(tmp_path)
    assert np.isnan(record["a"]) and record["b"] == np.inf and record["c"] == -np.inf


@pytest.mark.parametrize("torn", ["", '{"step": 4, "lo', '{"step": 4'])
def test_a_resumed_log_has_one_line_a_step(tmp_path, torn):
    with log(tmp_path, -1) as first:
        for step in range(1, 4):
            first.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with log(tmp_path, 2) as second:
        second.write(3, {"loss": 30})
    kept = [(r["step"], r["loss"]) for r in metrics.read_metrics(tmp_path)]
    assert kept == [(1, 1), (2, 2), (3, 30)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    log(tmp_path, -1).close()
    assert metrics.read_metrics(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_reading_skips_a_torn_line_and_a_missing_file(tmp_path):
    assert metrics.read_metrics(tmp_path) == []
    text = '{"step": 1}\n{"st\n[1]\n{"loss": 2}\n{"step": 2}\n{"step'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert metrics.read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_tensorboard_events_hold_the_scalars_and_where_a_resume_began(tmp_path):
    for resume, step in ((-1, 1), (10, 11)):
        writer = metrics.Writer(tmp_path, resume_step=resume)
        writer.write(step, {"loss": 0.5, "eval/knn": 0.25})
        writer.close()
    version, start, first, _, restart, second = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (start.step, restart.step) == (0, 11)
    assert start.session_log.status == restart.session_log.status == 1  # START
    for event, step in ((first, 1), (second, 11)):
        assert event.step == step
        values = {v.tag: v.simple_value for v in event.summary.value}
        assert values == {"loss": 0.5, "eval/knn": 0.25}


def test_writing_does_not_import_tensorflow(tmp_path):
    code = (
        "import sys, pathlib; from mimjax import metrics;"
        "w = metrics.Writer(pathlib.Path(sys.argv[1]), resume_step=-1);"
        "w.write(1, {'loss': 1.0}); w.close();"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert len(events(tmp_path / "tensorboard")) == 3


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), metrics.replacing(path) as temp:
        temp.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_meter_leaves_pauses_out_and_tells_waiting():
    clock = Clock()
    meter = metrics.Meter(8, step=100, flops_per_step=50, peak=100.0, clock=clock)
    clock.now += 6
    with meter.waiting():
        clock.now += 2
    with pytest.raises(KeyError), meter.pause():
        clock.now += 1000
        raise KeyError
    speed = meter.read(104)
    expected = {"images_per_sec": 4.0, "step_time": 2.0, "data_wait": 0.25, "mfu": 0.25}
    assert speed == expected
    assert meter.read(104) == {}
    clock.now += 1
    assert meter.read(105)["images_per_sec"] == 8.0


def test_meter_without_a_known_peak_has_no_mfu():
    clock = Clock()
    meter = metrics.Meter(8, flops_per_step=50, peak=None, clock=clock)
    clock.now += 1
    assert "mfu" not in meter.read(1)


VALUES = {
    "loss": np.float32(0.5),
    "lr": 1.5e-3,
    "images_per_sec": 1234.5,
    "mfu": 0.421,
    "data_wait": 0.07,
    "grad_norm": 3.0,
}


def test_progress_off_a_terminal_is_plain_lines(capsys):
    clock = Clock()
    bar = progress.Progress(1000, clock=clock)
    bar.update(100, {"step_time": 0.5})
    clock.now += 20
    bar.update(110, VALUES)
    bar.note("saved")
    bar.close()
    first, second, note = capsys.readouterr().err.splitlines()
    assert first == "step  100/1000  ETA 0:07:30"
    assert second == (
        "step  110/1000  loss 0.5000  lr 1.50e-03  1,234 img/s  MFU 42.1%  "
        "data wait 7%  ETA 0:29:40"
    )
    assert note == "saved"


def test_what_is_left_counts_evaluations_as_often_as_they_come(capsys):
    clock = Clock()
    bar = progress.Progress(12, clock=clock)
    bar.aside("evaluation", 90, 2)
    bar.update(1, {"step_time": 2})
    clock.now += 2 * 5 + 100 + 7
    bar.aside("evaluation", 100, 1)
    bar.aside("pictures", 7, 0)
    bar.update(6, {})
    left = [line.split("ETA ")[1] for line in capsys.readouterr().err.splitlines()]
    assert left == ["0:03:22", "0:01:52"]  # 11 x 2 + 2 x 90; 6 x 2 + 100


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal of so many columns and returns it."""

    def make(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


def test_progress_on_a_terminal_rewrites_one_line(terminal):
    out = terminal(60)
    bar = progress.Progress(10, clock=Clock())
    bar.update(1, {"loss": 1.0})
    bar.update(5, {"loss": 0.5})
    bar.note("a picture")
    bar.close()
    assert out.getvalue().count("\n") == 2
    first, second, noted = out.getvalue().split("\r")[1:]
    assert first == "[##..................] step  1/10  loss 1.0000  ETA 0:00:00\x1b[K"
    assert second.startswith("[##########..........] step  5/10  loss 0.5000")
    assert noted == "\x1b[Ka picture\nstep  5/10  loss 0.5000  ETA 0:00:00\n"


def test_progress_never_wraps_a_narrow_terminal(terminal):
    out = terminal(30)
    progress.Progress(1000).update(5, VALUES)
    assert out.getvalue() == "\rstep    5/1000  loss 0.5000  \x1b[K"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (3661, "1:01:01"), (90061, "1d 1:01:01")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def attention_block(x, w):
    """A transformer block [T, d] with two heads, matrix products only."""
    q, k, v = (x @ w["qkv"]).reshape(x.shape[0], 3, 2, -1).transpose(1, 2, 0, 3)
    scores = jax.nn.softmax(jnp.einsum("htc,hsc->hts", q, k))
    x = x + jnp.einsum("hts,hsc->thc", scores, v).reshape(x.shape) @ w["out"]
    return x + jax.nn.gelu(x @ w["up"]) @ w["down"]


def block_shapes(width, *layers):
    sizes = {"qkv": (width, 3 * width), "out": (width, width)}
    sizes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    return {
        k: jax.ShapeDtypeStruct((*layers, *s), jnp.float32) for k, s in sizes.items()
    }


def test_flops_of_a_block_are_those_of_the_formula():
    tokens, width = 10, 8
    x = jax.ShapeDtypeStruct((tokens, width), jnp.float32)
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    assert flops.matmul_flops(attention_block, x, block_shapes(width)) == block

    @jax.jit
    def stack(x, w):
        step = jax.checkpoint(lambda x, w: (attention_block(x, w), None))
        return jax.lax.scan(step, x, w)[0]

    assert flops.matmul_flops(stack, x, block_shapes(width, 5)) == 5 * block
    batch = jax.ShapeDtypeStruct((3, tokens, width), jnp.float32)
    over_batch = jax.vmap(stack, (0, None))
    assert flops.matmul_flops(over_batch, batch, block_shapes(width, 5)) == 15 * block


@pytest.mark.parametrize("swiglu", [False, True])
def test_flops_of_an_encoder(encoder, swiglu):
    """A gate is a product more: 16 numbers a width of 1 for 12 where it is as wide."""
    model = encoder(cls=False, swiglu=swiglu)
    image = jax.ShapeDtypeStruct((3, 16, 16, 3), jnp.float32)
    start = functools.partial(model.init, method="features")
    params = jax.eval_shape(start, jax.random.key(0), image)
    tokens, width, layers = 16, 32, 2
    block = 2 * tokens * (16 if swiglu else 12) * width**2 + 4 * tokens**2 * width
    embed = 2 * tokens * (4 * 4 * 3) * width

    def features(params, image):
        return model.apply(params, image, method="features")

    counted = flops.matmul_flops(features, params, image)
    assert counted == 3 * (layers * block + embed)


def test_the_backward_pass_takes_twice_the_forward():
    x = jax.ShapeDtypeStruct((10, 8), jnp.float32)
    forward = flops.matmul_flops(attention_block, x, block_shapes(8))
    step = jax.value_and_grad(lambda x, w: attention_block(x, w).sum(), (0, 1))
    counted = flops.matmul_flops(step, x, block_shapes(8))
    assert counted == 3 * forward


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("mae", {}),
        ("mae", {"encoder__remat": "full"}),
        ("beit", {"optim__accumulate": 2}),
        ("linear", {"optim__name": "lars", "optim__rates": (1e-3, 2e-3)}),
    ],
)
def test_the_whole_update_has_the_flops_of_its_gradient(objective, changes):
    """A run counts those of the trace that it compiles, where nothing is repeated."""
    given, mesh = tiny.resolve(objective, **changes), tiny.mesh_of()
    plan = setup.make_plan(given, given.data.num_images)
    traced = train.trace_step(given, plan, mesh)
    wanted = setup.step_flops(given, plan, mesh)
    assert setup.step_flops(given, plan, mesh, traced) == wanted > 0
    remat = "encoder__remat" in changes
    assert (flops.of_trace(traced.jaxpr.jaxpr) > wanted) == remat


def test_flops_of_a_step_count_a_teacher_once_and_apart_and_no_remat():
    def counted(objective, **changes):
        given = tiny.resolve(objective, **changes)
        how = setup.make_plan(given, given.data.num_images), tiny.mesh_of()
        both = (setup.step_flops(given, *how, whole=x) for x in (False, True))
        return given, *both

    for remat in ("none", "full"):
        _, own, whole = counted("mae", encoder__remat=remat)
        assert own == whole == counted("mae")[1]
    given, own, whole = counted("beit")
    objective, params = given.objective, train.abstract_state(given, tiny.mesh_of())
    teacher = given.objective.teacher.objective
    view = jax.ShapeDtypeStruct((8, *given.view_size, 3), jnp.float32)
    tokens = functools.partial(teacher.apply, method="tokens")
    variables = params.frozen["frozen"]["tokenizer"]
    once = flops.matmul_flops(tokens, variables, view)
    image = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
    hidden = jax.ShapeDtypeStruct((8, 16), bool)
    predict = functools.partial(objective.apply, method="predict")
    forward = flops.matmul_flops(predict, {"params": params.params}, image, hidden)
    # No gradient is asked for of the image, which the first product would give.
    embed = 2 * 8 * 16 * (4 * 4 * 3) * 64
    assert own == 3 * forward - embed
    assert whole == own + once


def test_flops_of_convolutions_custom_rules_and_branches():
    image = jax.ShapeDtypeStruct((2, 8, 8, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 9), jnp.float32)

    def convolve(x, k):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=names, feature_group_count=3
        )

    expected = 2 * (2 * 4 * 4 * 9) * (3 * 3 * 2)
    assert flops.matmul_flops(convolve, image, kernel) == expected

    def back(x, k):
        return jax.vjp(convolve, x, k)[1](convolve(x, k))

    # The forward pass, and a product for the gradient of each of the two.
    assert flops.matmul_flops(back, image, kernel) == 3 * expected

    @jax.custom_vjp
    def product(x):
        return x @ x

    product.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))

    def branches(x):
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, product, x)
        return jax.lax.while_loop(lambda x: x[0, 0] < 0, product, product(x))

    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert flops.matmul_flops(branches, square) == (1 + 1) * 2 * 4**3


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA RTX A4000", None),
        ("Something new", None),
    ],
)
def test_peak_by_the_name_of_the_device(kind, tera):
    device = SimpleNamespace(platform="gpu", device_kind=kind)
    assert flops.peak_flops(device) == (None if tera is None else tera * 1e12)


def test_a_cpu_has_no_known_peak():
    assert flops.peak_flops(jax.devices()[0]) is None
