"""The process that measures our own step."""

import json
import sys
from typing import Any

from mimjax.bench import clock

# Sides of the matrices of the probe, by platform; elsewhere the largest.
SIDES = {"cpu": 2048, "gpu": 8192}


def measure(spec: dict[str, Any]) -> None:
    """Starts as a run does, updates for a while, prints what it took."""
    laps = clock.Laps(spec["spawned"])
    import jax

    from mimjax import flops, train
    from mimjax.bench import given
    from mimjax.run import setup

    device = jax.devices()[0]
    laps.end("import")
    config, mesh, plan = given.settle(spec)
    laps.end("config")
    with jax.set_mesh(mesh):
        state = given.start(config, mesh)
        batch = given.batch(config, mesh)
        jax.block_until_ready((state, batch))
        laps.end("state")
        spent: list[float] = []

        def heard(event: str, seconds: float, **_: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                spent.append(seconds)

        jax.monitoring.register_event_duration_secs_listener(heard)
        step = train.compile_step(config, plan, mesh)
        whole, compiled = laps.end("trace"), sum(spent)
        laps.seconds |= {"trace": whole - compiled, "compile": compiled}

        def update() -> Any:
            nonlocal state
            state, values = step(state, batch)
            return values["loss"]

        losses = [update().block_until_ready()]
        laps.end("first")
        losses += [update() for _ in range(spec["checked"] - 1)]
        jax.block_until_ready(losses)
        times = clock.paced(
            update, lambda x: x.block_until_ready(), spec["time"], device.platform
        )
    stats = device.memory_stats() or {}
    clock.answer(
        laps,
        times,
        losses=[float(loss) for loss in losses],
        memory=stats.get("peak_bytes_in_use") or clock.resident(),
        batch=config.run.batch_size,
        flops=setup.step_flops(config, plan, mesh),
        peak=flops.peak_flops(device),
        probe=probe(config.encoder.dtype),
        device=device.device_kind,
        platform=device.platform,
        versions={"jax": jax.__version__},
        tensorflow="tensorflow" in sys.modules,
    )


def probe(dtype: str) -> float:
    """FLOP/s of the best of many products of two large matrices."""
    import jax
    import jax.numpy as jnp

    platform = jax.default_backend()
    side = SIDES.get(platform, max(SIDES.values()))
    left, right = (
        jax.random.normal(jax.random.key(n), (side, side), dtype) for n in (0, 1)
    )
    # XLA on CPU is twice as fast where the sum is not rounded.
    out = jnp.float32 if platform == "cpu" else jnp.dtype(dtype)
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=out))
    product(left, right).block_until_ready()
    return 2 * side**3 / clock.best(lambda: product(left, right).block_until_ready())


if __name__ == "__main__":
    measure(json.loads(sys.argv[1]))
