"""Compiling the step for devices that are not here: does it fit, how large is it.

With libtpu installed (`pip install -e '.[tpu]'` in the checkout) the real TPU compiler
runs on any machine; nothing is executed and no data is needed.
"""

import importlib.util
import os
import re
from typing import Any

from mimjax.schema import ConfigError

# Length of an epoch where there is no data to count: ImageNet-1k's training set.
EPOCH_IMAGES = 1_281_167


def devices_named(spec: str) -> list[Any]:
    """The devices of "cpu:8" or of a TPU topology such as "v5e:16x16".

    Raises ConfigError where there is no such topology or no TPU compiler.
    """
    # Neither a cloud's metadata server nor a TPU is to be looked for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # The compiler alone may run beside a program that holds the TPU, or another one.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    import jax

    kind, _, shape = spec.partition(":")
    if kind == "cpu":
        if not shape.isdigit() or int(shape) < 1:
            raise ConfigError([f"--compile: {spec!r} must be cpu:COUNT, from cpu:1 on"])
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices("cpu")
    from jax.experimental import topologies

    if not re.fullmatch(r"(v|tpu)\d\w*:[1-9]\d*(x[1-9]\d*)+(_\w+)?", spec.lower()):
        what = "is neither cpu:COUNT nor a slice of TPUs such as v5e:4x4"
        raise ConfigError([f"--compile: {spec!r} {what}; for a GPU, compile on it"])
    # As on a TPU v4 itself, both cores of a chip are one device.
    cores = {"chip_config_name": "megacore"} if kind == "v4" else {}
    named = {"platform": "tpu", "topology_name": spec}
    try:
        return topologies.get_topology_desc(**named, **cores).devices
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if importlib.util.find_spec("libtpu") is None:
            text += "; its compiler is `pip install -e '.[tpu]'` in mimjax's checkout"
        raise ConfigError([f"--compile: {spec!r}: {text}"]) from error


def report(path: str, changes: list[tuple[str, str]], spec: str) -> int:
    """Compiles the step of a config for `spec`; prints size, time and memory."""
    devices = devices_named(spec)
    from mimjax import config, train
    from mimjax.report.progress import Progress
    from mimjax.run import setup

    setup.settle(devices[0].platform)
    resolved = config.resolve(path, changes, len(devices), with_data=False)
    resolved, mesh = setup.place(resolved, devices)
    plan = setup.make_plan(resolved, EPOCH_IMAGES)
    progress = Progress(plan.steps)
    state = train.abstract_state(resolved, mesh)
    progress.note(setup.sizes(resolved, state))
    setup.compile_step(resolved, plan, mesh, progress)
    return 0
