"""What an update spends its time on: a trace of some, and a table of operations."""

import collections
import contextlib
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from mimjax.metrics import Meter, replacing
from mimjax.report.progress import Progress

# Below the workdir: the trace, and the table.
FOLDER, TABLE = "profile", "operations.txt"
# Operations in the table; what is below takes next to nothing.
MOST = 60

# "%dot.3 = f32[8,16]{1,0} dot(%a, %b), metadata={op_name="jit(step)/encoder/dot"}"
INSTRUCTION = re.compile(
    r'^ *(?:ROOT )?%?([\w.-]+) = (?:\(.*?\)|\S+) ([\w-]+)\((?:.*op_name="([^"]*)")?',
    re.M,
)

# What JAX calls the two directions, and the loop over layers.
PLAIN = {
    "jit(step)/": "",
    "transpose(jvp(Objective))": "backward",
    "jvp(Objective)": "forward",
    "while/body/closed_call/": "",
}

Update = Callable[..., tuple[Any, Any]]


@contextlib.contextmanager
def watching(
    update: Any,
    steps: tuple[int, ...],
    made: int,
    workdir: pathlib.Path,
    meter: Meter,
    progress: Progress,
) -> Iterator[Update]:
    """The compiled update; those from `steps[0]` to `steps[1]` are traced.

    `made` updates precede. The meter does not count what the trace itself takes.
    """
    if not steps or made >= steps[0] or jax.process_index() > 0:
        yield update
        return
    folder, tracing = workdir / FOLDER, False

    def watched(*given: Any, **named: Any) -> tuple[Any, Any]:
        nonlocal made, tracing
        made += 1
        if made == steps[0]:
            jax.block_until_ready(given)  # updates under way are no pause
            with meter.pause():
                options = jax.profiler.ProfileOptions()
                # Each call in Python would be an event, and slow.
                options.python_tracer_level = 0
                jax.profiler.start_trace(folder, profiler_options=options)
                tracing = True
        if not tracing:
            return update(*given, **named)
        with jax.profiler.StepTraceAnnotation("update", step_num=made):
            found = update(*given, **named)
        if made == steps[1]:
            jax.block_until_ready(found)
            with meter.pause():
                jax.profiler.stop_trace()
                tracing = False
                told = tabulated(folder, steps, update.as_text())
                progress.note(f"updates {steps[0]} to {steps[1]} are traced: {told}")
        return found

    try:
        yield watched
    finally:
        if tracing:
            jax.profiler.stop_trace()


def tabulated(folder: pathlib.Path, steps: tuple[int, ...], program: str) -> str:
    """Where the table is, in words; without one the run goes on."""
    try:
        return f"see {write(folder, steps, program)}"
    except Exception as error:  # What other versions and devices trace is not known.
        return f"no table could be made of {folder} ({error})"


def write(folder: pathlib.Path, steps: tuple[int, ...], program: str) -> pathlib.Path:
    """Writes the table of the newest trace in a folder."""
    traces = folder.rglob("*.xplane.pb")
    newest = max(traces, key=lambda path: path.stat().st_mtime)
    found = jax.profiler.ProfileData.from_file(str(newest))
    with replacing(folder / TABLE) as temporary:
        temporary.write_text(table(found, steps, program))
    return folder / TABLE


def table(found: Any, steps: tuple[int, ...], program: str) -> str:
    """The operations of a trace, those that take longest first, as text."""
    spent: dict[str, list[float]] = collections.defaultdict(list)
    devices = set()
    for device, events in lines(found):
        devices.add(device)
        for name, time in own_times(events):
            spent[name].append(time / 1e6)
    known = {name: (kind, path) for name, kind, path in INSTRUCTION.findall(program)}
    whole, many = sum(map(sum, spent.values())), steps[1] - steps[0] + 1
    each = whole / many / max(len(devices), 1)
    told = [
        f"Updates {steps[0]} to {steps[1]} on {len(devices)} device(s): operations of "
        f"{whole:.1f} ms, {each:.2f} ms an update and device.",
        "",
        f"{'ms':>10} {'share':>7} {'count':>7}  {'kind':<12} {'operation':<36} where",
    ]
    order = sorted(spent, key=lambda name: -sum(spent[name]))
    for name in order[:MOST]:
        time, (kind, path) = sum(spent[name]), known.get(name, ("", ""))
        amounts = f"{time:10.2f} {time / whole:7.1%} {len(spent[name]):7}"
        told.append(f"{amounts}  {kind:<12} {name:<36} {place(path)}".rstrip())
    if order[MOST:]:
        time = sum(sum(spent[name]) for name in order[MOST:])
        told.append(
            f"{time:10.2f} {time / whole:7.1%}          {len(order) - MOST} others"
        )
    return "\n".join(told) + "\n"


def place(path: str) -> str:
    """Where in the model an operation is from, of what JAX calls it."""
    for name, plain in PLAIN.items():
        path = path.replace(name, plain)
    return path


def lines(found: Any) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """Device, and (start, end, operation) of what ran on it one after another, in ns.

    A TPU has a line of its operations; a GPU a line a stream, of kernels; the CPU a
    line a thread, of whatever the thread did.
    """
    planes = [plane for plane in found.planes if plane.name.startswith("/device:")]
    for plane in planes or found.planes:
        own = [line for line in plane.lines if line.name == "XLA Ops"]
        own = own or [line for line in plane.lines if line.name.startswith("Stream")]
        for line in own if planes else plane.lines:
            at_work = collections.defaultdict(list)
            for event in line.events:
                stats = dict(event.stats)
                name = stats.get("hlo_op") or (event.name if planes else "")
                if name:
                    device = plane.name if planes else str(stats["device_ordinal"])
                    # A TPU names an operation by all of its text.
                    name = str(name).partition(" = ")[0].lstrip("%")
                    start = event.start_ns
                    at_work[device].append((start, start + event.duration_ns, name))
            yield from at_work.items()


def own_times(
    events: Iterable[tuple[float, float, str]],
) -> Iterator[tuple[str, float]]:
    """Of each event its time without that of the events inside, as of a loop's body."""
    inside: list[list[Any]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while inside and inside[-1][0] <= start:
            yield tuple(inside.pop()[1:])
        if inside:
            inside[-1][2] -= end - start
        inside.append([end, name, end - start])
    yield from (tuple(one[1:]) for one in inside)
