"""A trace changes nothing, and its table says what the trace says."""

import collections
import gzip
import json
import re

import jax
import pytest
import tiny

from mimjax import metrics
from mimjax.report.progress import Progress
from mimjax.run import profile, setup
from mimjax.schema import ConfigError

ROW = re.compile(r" +([\d.]+) +([\d.]+)% +(\d+)  (\S+) +(\S+)(?: +(\S+))?")


@pytest.fixture(scope="module")
def run():
    return tiny.Run(tiny.resolve())


def made(run, steps, folder, begin=0, end=5):
    """The state after some updates, of which `steps` are traced in a folder."""
    state = tiny.start(run.config, run.mesh)
    progress, meter = Progress(5), metrics.Meter(8, step=0)
    watching = profile.watching(run.program, steps, begin, folder, meter, progress)
    with watching as update:
        for number in range(begin, end):
            state, _ = update(state, run.batch(number), seed=run.seed)
    return tiny.bits(state)


def test_a_traced_run_is_the_same_and_its_operations_are_counted(run, tmp_path, capsys):
    assert made(run, (2, 4), tmp_path) == made(run, (), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    place = tmp_path / "profile"
    assert capsys.readouterr().err == (
        f"updates 2 to 4 are traced: see {place / 'operations.txt'}\n"
    )
    told, _, header, *rows = (place / "operations.txt").read_text().splitlines()
    assert told.startswith("Updates 2 to 4 on 1 device(s): operations of ")
    assert header.split() == ["ms", "share", "count", "kind", "operation", "where"]

    # What XLA itself writes for viewers.
    (trace,) = place.rglob("*.trace.json.gz")
    counts, times = collections.Counter(), collections.Counter()
    for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]:
        name = event.get("args", {}).get("hlo_op")
        if name:
            counts[name] += 1
            times[name] += event["dur"] / 1000
    whole, found = 0.0, [row for row in map(ROW.fullmatch, rows) if row]
    assert len(found) == min(len(counts), profile.MOST) > 20
    for time, _, count, kind, name, _ in map(re.Match.groups, found):
        assert int(count) == counts[name]
        if kind in ("while", "call"):
            assert float(time) < times[name], "without what is inside"
        else:
            assert float(time) == pytest.approx(times[name], abs=0.006), name
        whole += float(time)
    rest = float(rows[-1].split()[0]) if len(rows) > len(found) else 0.0
    sums = [float(x) for x in re.findall(r"([\d.]+) ms", told)]
    assert sums == pytest.approx([whole + rest, (whole + rest) / 3], abs=0.4)
    assert sum(float(row[2]) for row in found) == pytest.approx(
        100 * whole / sums[0], abs=4
    )
    kinds = {row[4] for row in found}
    assert {"fusion", "while"} & kinds
    places = " ".join(row[6] or "" for row in found)
    assert "forward/" in places
    assert "backward/" in places


def test_nothing_is_traced_where_the_updates_are_past(run, tmp_path):
    made(run, (2, 4), tmp_path, begin=2, end=4)
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_within_the_updates_can_be_traced_again(run, tmp_path):
    made(run, (2, 4), tmp_path, end=3)
    assert not (tmp_path / "profile" / profile.TABLE).exists()
    with jax.profiler.trace(tmp_path / "other"):
        pass


def test_updates_after_the_last_are_told_once_the_images_are_counted():
    given = tiny.resolve(steps=0, epochs=2, profile__steps=(9, 21))
    assert setup.make_plan(given, 100 * 8).steps == 200
    told = r"config.profile.steps: \(9, 21\) must be within the 20 updates of the run"
    with pytest.raises(ConfigError, match=told):
        setup.make_plan(given, 10 * 8)


def plane(device, **lines):
    """A plane of a trace: for each line (name of an event, hlo_op, start, ms)."""
    text, names = f'planes {{ name: "{device}" ', []
    for line, events in lines.items():
        text += f'lines {{ name: "{line}" '
        for name, op, start, long in events:
            names.append(name)
            stat = f'stats {{ metadata_id: 1 str_value: "{op}" }}' * bool(op)
            text += (
                f"events {{ metadata_id: {len(names)} offset_ps: {start}000000000 "
                f"duration_ps: {long}000000000 {stat} }} "
            )
        text += "} "
    for key, name in enumerate(names, 1):
        text += f'event_metadata {{ key: {key} value {{ id: {key} name: "{name}" }} }} '
    return text + 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } } } '


PROGRAM = """
  %fusion.2 = f32[8]{0} fusion(%p), kind=kLoop, metadata={op_name="jit(step)/transpose(\
jvp(Objective))/encoder/while/body/closed_call/norm/mul" stack_frame_id=3}
  ROOT %while.1 = (s32[], /*index=1*/f32[8]{0}) while(%tuple), condition=%c, body=%b
"""


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        # A TPU: the modules around its operations are not operations.
        (
            {
                "XLA Modules": [("jit_step(1)", "", 0, 11)],
                "XLA Ops": [
                    ("%while.1 = (s32[]) while(%tuple)", "", 0, 9),
                    ("%fusion.2 = f32[8]{0} fusion(%p)", "", 1, 1),
                    ("%fusion.2 = f32[8]{0} fusion(%p)", "", 3, 2),
                ],
            },
            [
                "12.00 66.7% 2 while while.1",
                "6.00 33.3% 4 fusion fusion.2 backward/encoder/norm/mul",
            ],
        ),
        # A GPU: kernels of operations, and copies, at the same time.
        (
            {
                "Stream #1(Compute)": [("loop_kernel", "fusion.2", 0, 6)],
                "Stream #2(MemcpyD2D)": [("MemcpyD2D", "", 1, 3)],
            },
            [
                "12.00 66.7% 2 fusion fusion.2 backward/encoder/norm/mul",
                "6.00 33.3% 2 MemcpyD2D",
            ],
        ),
    ],
)
def test_operations_of_accelerators_are_those_of_their_own_lines(lines, wanted):
    host = plane("/host:CPU", python=[("a call", "", 0, 99)])
    text = host + plane("/device:0", **lines) + plane("/device:1", **lines)
    found = jax.profiler.ProfileData.from_text_proto(text)
    told, _, _, *rows = profile.table(found, (2, 4), PROGRAM).splitlines()
    assert told == (
        "Updates 2 to 4 on 2 device(s): operations of 18.0 ms, 3.00 ms an update and "
        "device."
    )
    assert [" ".join(row.split()) for row in rows] == wanted, "of both devices"
