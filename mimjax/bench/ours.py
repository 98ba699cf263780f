"""The process that measures our own step."""

import gc
from typing import Any

from mimjax.bench import child
from mimjax.schema import ConfigError


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Starts as a run does and updates for a while."""
    laps = child.Laps(spec["spawned"])
    import jax

    from mimjax import flops, train
    from mimjax.bench import given, work
    from mimjax.run import heap, setup

    laps.end("import")
    config, mesh, plan = given.settle(spec)
    device = mesh.devices.flat[0]
    laps.end("config")
    with jax.set_mesh(mesh):
        state = given.start(config, mesh)
        batch = given.batch(config, mesh)
        seed = train.seed_on(config, mesh)
        jax.block_until_ready((state, batch))
        laps.end("state")
        spent: list[float] = []

        def heard(event: str, duration_secs: float, **_: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                spent.append(duration_secs)

        jax.monitoring.register_event_duration_secs_listener(heard)
        step = compiled(train.trace_step(config, plan, mesh), spec["options"])
        whole, took = laps.end("trace"), sum(spent)
        laps.seconds |= {"trace": whole - took, "compile": took}
        heap.give_back()

        def update() -> Any:
            nonlocal state
            state, values = step(state, batch, seed=seed)
            return values["loss"]

        losses = [update().block_until_ready()]
        laps.end("first")
        losses += [update() for _ in range(spec["checked"] - 1)]
        jax.block_until_ready(losses)
        gc.enable()
        times = child.paced(
            update, lambda x: x.block_until_ready(), spec["seconds"], device.platform
        )
    size, stats = config.run.batch_size, device.memory_stats() or {}
    own, whole = (setup.step_flops(config, plan, mesh, whole=x) for x in (False, True))
    formula = work.training(config)
    return {
        **times,
        "start": laps.seconds,
        "losses": [float(loss) for loss in losses],
        "memory": stats.get("peak_bytes_in_use") or child.resident(),
        "batch": size,
        "dtype": config.encoder.dtype,
        # By the formulas; as traced where there is none.
        "flops": formula * size if formula else own,
        "traced": own,
        "apart": whole - own,
        "peak": flops.peak_flops(device),
        "probe": probe(config.encoder.dtype),
    }


def compiled(traced: Any, options: dict[str, Any]) -> Any:
    """The program; ConfigError where an option of XLA's is none."""
    import jax

    try:
        return traced.lower().compile(options)
    except jax.errors.JaxRuntimeError as error:
        if not options or "INVALID_ARGUMENT" not in str(error):
            raise
        told = str(error).partition("INVALID_ARGUMENT: ")[2].partition("\n")[0]
        raise ConfigError([f"--xla: {told}"]) from None


def probe(dtype: str) -> float:
    """FLOP/s of products of two large matrices."""
    import jax
    import jax.numpy as jnp

    platform = jax.default_backend()
    side = child.SIDES.get(platform, 8192)
    left, right = (
        jax.random.normal(jax.random.key(n), (side, side), dtype) for n in (0, 1)
    )
    # XLA on CPU is twice as fast where the sum is not rounded.
    out = jnp.float32 if platform == "cpu" else jnp.dtype(dtype)
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=out))
    return child.probed(lambda: product(left, right).block_until_ready(), side)


if __name__ == "__main__":
    gc.disable()  # as a run does until its first update
    child.main(measure)
