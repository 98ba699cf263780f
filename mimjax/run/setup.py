"""What a run needs before its first update: devices, plan, state, compiled step."""

import functools
import os
import pathlib
import time
from typing import Any

import jax

from mimjax import (
    data,
    flops,
    gradients,
    meshes,
    metrics,
    sharding,
    train,
    trainable,
)
from mimjax.backbones import fused
from mimjax.backbones.sizes import MOST_DEPTH
from mimjax.config import Config, ConfigError
from mimjax.report.progress import Progress
from mimjax.run import feed, heap, memory
from mimjax.settings import profile_problems

# Of each number of a state.
BYTES = 4


def settle(platform: str = "") -> None:
    """What is said to JAX for updates on a platform, by default the one there is.

    Before the first use of a device. Raises ConfigError where there is none.

    On a CPU what makes them faster. On others float32 is then float32 in products too:
    by themselves they round the factors to bfloat16 (TPU) or TensorFloat-32 (NVIDIA).
    """
    # There is nothing to run ahead of; and so one thread takes and gives back what an
    # update needs, which it can then keep.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        platform = platform or jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # of a backend that is not there
        if jax.distributed.is_initialized():
            raise
        told = " ".join(str(error).split()) or "no such device is here"
        where = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
        raise ConfigError([f"JAX cannot start ({where}): {told[:300]}"]) from error
    if platform == "cpu":
        heap.keep()
    elif "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        jax.config.update("jax_default_matmul_precision", "float32")


def place(
    config: Config, devices: list[Any] | None = None
) -> tuple[Config, jax.sharding.Mesh]:
    """The mesh, and the config with what depends on the kind of device filled in."""
    devices = devices or jax.devices()
    if config.encoder.unroll == 0:
        # A loop copies what its layers keep for the way back: on CPU, and by what goes
        # through memory on GPU, that is a fifth of the time. For TPUs it compiles five
        # times sooner. What is to be recomputed has to stay in a loop, or the compiler
        # merges it again.
        loops = devices[0].platform == "tpu" or config.encoder.remat != "none"
        # More layers than any stack has: those of decoders and heads count too.
        unroll = 1 if loops else MOST_DEPTH
        config = config.with_encoder(unroll=unroll)
    if not fused.runs_on(devices[0]):
        config = config.by_xla()
    state = train.shapes_of(config)
    params, mesh = sharding.shapes_of(state.params), config.mesh
    lines = trainable.problems(config.optim, state.params)
    found = ["config.optim." + line for line in lines]
    found += ["config.mesh." + line for line in meshes.uncut(params, mesh.tensor)]
    if found:
        raise ConfigError(found)
    # What is trained has a gradient as well.
    numbers = train.count(state) + train.count(trained_shapes(config, state.params))
    shapes, size = sharding.shapes_of(state), BYTES * numbers // mesh.tensor
    mesh = meshes.choose(mesh, len(devices), size, shapes)
    for line in meshes.wasted(mesh, shapes):
        Progress(0, silent=jax.process_index() > 0).note("config.mesh." + line)
    return config, sharding.make(mesh, devices)


def trained_shapes(config: Config, params: Any) -> Any:
    """Shapes and types of what is trained."""
    return jax.eval_shape(functools.partial(trainable.trained, config.optim), params)


def sizes(config: Config, state: train.State) -> str:
    """How many parameters there are, in words."""
    encoder, whole = train.count(state.params["encoder"]), train.count(state.params)
    told = f"parameters: encoder {encoder:,}, in all {whole:,}"
    if not config.optim.frozen:
        return told
    learned = train.count(trained_shapes(config, state.params))
    return f"{told}, trained {learned:,}"


def make_plan(config: Config, num_images: int) -> train.Plan:
    """Steps, warm-up and pixel constants, once the number of images is known."""
    steps, warmup = config.steps(num_images), config.warmup(num_images)
    if warmup >= steps:
        unit, hint = "epochs", ", or set config.optim.warmup_steps"
        if config.optim.warmup_steps:
            unit, hint = "steps", ""
        raise ConfigError(
            [
                f"config.optim.warmup_{unit}: a warm-up of {warmup} steps must be "
                f"shorter than the run of {steps} (0 for none{hint})"
            ]
        )
    found = profile_problems(config.profile, steps)
    if found:
        raise ConfigError(found)
    mean, std = data.normalise_constants(config.data, config.encoder.channels)
    return train.Plan(steps, warmup, mean, std)


def compile_step(
    config: Config, plan: train.Plan, mesh: jax.sharding.Mesh, progress: Progress
) -> tuple[Any, Any]:
    """The update, compiled and traced; says what it took and what it will take."""
    start = time.perf_counter()
    traced = train.trace_step(config, plan, mesh)
    step = traced.lower().compile()
    heap.give_back()
    seconds = time.perf_counter() - start
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    device = mesh.devices.flat[0]
    devices = f"{mesh.devices.size} {device.device_kind} device(s)"
    progress.note(
        f"compiled in {seconds:.1f} s for {devices} ({shape}); "
        f"memory per device {memory.told(step, device.platform)}"
    )
    return step, traced


def make_feed(
    config: Config,
    mesh: jax.sharding.Mesh,
    plan: train.Plan,
    start: int,
    folder: pathlib.Path,
) -> feed.Feed:
    """Batches from update `start` on."""
    size, encoder = config.run.batch_size, config.encoder
    batches = data.train_batches(
        config.data,
        image_size=encoder.image_size,
        view_size=config.view_size,
        mask_values=config.mask_values,
        channels=encoder.channels,
        seed=config.run.seed,
        batch_size=size,
        rows=sharding.local_rows(mesh, size),
        start_step=start,
        stop_step=plan.steps,
        workdir=folder,
    )
    return feed.Feed(batches, sharding.batch(mesh), size)


def make_meter(
    config: Config, cost: int, mesh: jax.sharding.Mesh, start: int
) -> metrics.Meter:
    """The meter of updates of so many FLOPs, where it is known what devices can do."""
    peak, size = flops.peak_flops(mesh.devices.flat[0]), config.run.batch_size
    if peak is None:
        return metrics.Meter(size, step=start)
    peak *= mesh.devices.size
    return metrics.Meter(size, step=start, flops_per_step=cost, peak=peak)


def step_flops(
    config: Config,
    plan: train.Plan,
    mesh: jax.sharding.Mesh,
    traced: Any = None,
    whole: bool = False,
) -> int:
    """FLOPs of the loss and its gradient for a batch, without what remat repeats.

    Where nothing is, and all is by XLA, those of the update if it is `traced` already.
    What a tokenizer or teacher takes is in the `whole` alone.
    """
    plain = config.by_xla()  # the products of other kernels are not seen
    if plain.encoder.remat != "none":
        plain = plain.with_encoder(remat="none")
    if traced and plain is config:
        return flops.of_trace(traced.jaxpr.jaxpr, whole)
    gradient = gradients.make(plain, plan.mean, plan.std)
    state, batch = (
        train.abstract_state(config, mesh),
        train.abstract_batch(config, mesh),
    )
    keys = jax.eval_shape(lambda: train.streams(0, 0))
    given = state.params, state.frozen, state.step, batch, keys, {}
    return flops.matmul_flops(gradient, *given, whole=whole)


def run_facts(
    config: Config,
    plan: train.Plan,
    mesh: jax.sharding.Mesh,
    state: train.State,
    found: dict[str, Any],
    cost: int,
    command: list[str],
) -> dict[str, Any]:
    """What run.json holds of the run beside versions and times."""
    encoder = train.count(state.params["encoder"])
    return {
        "command": command,
        "devices": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "mesh": dict(mesh.shape),
        "seed": config.run.seed,
        "data": found,
        "steps": plan.steps,
        "warmup_steps": plan.warmup,
        "parameters": {"encoder": encoder, "total": train.count(state.params)},
        "step_flops": cost,
    }
