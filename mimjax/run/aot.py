"""Compiling the step for devices that are not here: does it fit, how large is it.

With libtpu installed (`pip install -e '.[tpu]'` in the checkout) the real TPU compiler
runs on any machine, and with JAX's CUDA plugin and what of CUDA it needs (`pip install
'jax[cuda13-local]' nvidia-cuda-nvcc`) that for NVIDIA GPUs, without timing kernels to
choose among them; nothing is executed and no data is needed.
"""

import dataclasses
import importlib.util
import os
import re
from typing import Any

from mimjax.run import memory
from mimjax.schema import ConfigError

# Length of an epoch where there is no data to count: ImageNet-1k's training set.
EPOCH_IMAGES = 1_281_167

# The share of a GPU's memory that JAX takes unless this variable, or as it was called
# before, says another.
TAKEN, SHARE = 0.75, "XLA_CLIENT_MEM_FRACTION"
FORMER = "XLA_PYTHON_CLIENT_MEM_FRACTION"

# What of CUDA its compiler needs: the plugin, and ptxas with its library.
CUDA = "'jax[cuda13-local]' nvidia-cuda-nvcc"

COUNT = r"[1-9][0-9]{0,4}"
TPU = r"(v|tpu)\d\w*:[1-9]\d*(x[1-9]\d*)+(_\w+)?"
KINDS = "cpu:COUNT, a slice of TPUs such as v5e:4x4 or GPUs such as h100:8"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """NVIDIA's data sheet of a GPU, as far as its compiler asks.

    Compute capability, multiprocessors, GHz at most, GiB of memory as the driver gives
    them and its GB/s, and MiB of L2 cache.
    """

    capability: tuple[int, int]
    cores: int
    clock: float
    memory: float
    bandwidth: int
    cache: int

    def target(self, name: str) -> str:
        """That as the text which XLA calls a GpuTargetConfigProto.

        Limits of a multiprocessor are those of its compute capability (CUDA C++
        Programming Guide, table "Technical Specifications per Compute Capability").
        """
        major, minor = self.capability
        small = self.capability in ((8, 6), (8, 9))
        shared = 100 if small else 164 if major == 8 else 228
        sizes = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "threads_per_core_limit": 1536 if small else 2048,
            "shared_memory_per_block": 48 * 2**10,
            "shared_memory_per_block_optin": (shared - 1) * 2**10,
            "shared_memory_per_core": shared * 2**10,
            "registers_per_block_limit": 2**16,
            "registers_per_core_limit": 2**16,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "fpus_per_core": 64 if self.capability == (8, 0) else 128,
            "core_count": self.cores,
            "clock_rate_ghz": self.clock,
            "device_memory_size": int(self.memory * 2**30),
            "memory_bandwidth": self.bandwidth * 10**9,
            "l2_cache_size": self.cache * 2**20,
        }
        told = " ".join(f"{field}: {size}" for field, size in sizes.items())
        capability = f"cuda_compute_capability {{ major: {major} minor: {minor} }}"
        kind = f'platform_name: "CUDA" device_description_str: "NVIDIA {name}"'
        return f"gpu_device_info {{ {told} {capability} }} {kind}"


GPUS = {
    "a100": Gpu((8, 0), 108, 1.41, 39.4, 1555, 40),
    "a100-80": Gpu((8, 0), 108, 1.41, 79.2, 2039, 40),
    "a6000": Gpu((8, 6), 84, 1.80, 47.5, 768, 6),
    "rtx3090": Gpu((8, 6), 82, 1.70, 23.6, 936, 6),
    "rtx4090": Gpu((8, 9), 128, 2.52, 23.5, 1008, 72),
    "l4": Gpu((8, 9), 58, 2.04, 22, 300, 48),
    "l40s": Gpu((8, 9), 142, 2.52, 44.5, 864, 96),
    "h100": Gpu((9, 0), 132, 1.98, 79.1, 3350, 50),
    "h200": Gpu((9, 0), 132, 1.98, 140, 4800, 50),
    "b200": Gpu((10, 0), 148, 1.97, 178, 7700, 126),
}


def devices_named(spec: str) -> list[Any]:
    """The devices of "cpu:8", of a TPU topology ("v5e:16x16") or GPUs ("h100:2x8").

    Raises ConfigError where there is no such topology or no compiler for it.
    """
    # Nothing is run on what this machine has, and its compiler's notes tell nothing.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Neither a cloud's metadata server nor a TPU is to be looked for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # The compiler alone may run beside a program that holds the TPU, or another one.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    import jax

    kind, _, shape = spec.lower().partition(":")
    if kind == "cpu":
        if not re.fullmatch(COUNT, shape):
            raise ConfigError([f"--compile: {spec!r} must be cpu:1 to cpu:99999"])
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices("cpu")
    if kind in GPUS:
        return gpus(spec, kind, shape)
    if not re.fullmatch(TPU, spec.lower()):
        known = ", ".join(GPUS)
        raise ConfigError([f"--compile: {spec!r} is neither {KINDS} (of {known})"])
    # As on a TPU v4 itself, both cores of a chip are one device.
    cores = {"chip_config_name": "megacore"} if kind == "v4" else {}
    return topology(spec, "tpu", "libtpu", "-e '.[tpu]'", topology_name=spec, **cores)


def gpus(spec: str, kind: str, shape: str) -> list[Any]:
    """So many GPUs, or hosts times GPUs of each."""
    if not re.fullmatch(f"({COUNT}x)?{COUNT}", shape):
        told = f"must be {kind}:COUNT or {kind}:HOSTSxCOUNT, such as {kind}:8"
        raise ConfigError([f"--compile: {spec!r} {told}"])
    share()  # JAX would not say what is wrong with it
    hosts, _, count = shape.rpartition("x")
    given = {
        "topology": f"1x{hosts or 1}x{count}",
        "target_config": GPUS[kind].target(kind.upper()),
    }
    return topology(spec, "cuda", "jax_plugins", CUDA, **given)


def topology(
    spec: str, platform: str, package: str, install: str, **given: Any
) -> list[Any]:
    """Its devices; ConfigError where there is none, or no compiler in a package."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform=platform, **given).devices
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if importlib.util.find_spec(package) is None:
            text = f"its compiler is not installed (`pip install {install}`)"
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
    try:
        step, _ = setup.compile_step(resolved, plan, mesh, progress)
    except Exception as error:
        if "No PTX compilation provider" not in str(error):
            raise
        told = f"there is no ptxas of CUDA's (`pip install {CUDA}`)"
        raise ConfigError([f"--compile: {spec!r}: {told}"]) from None
    kind = spec.lower().partition(":")[0]
    if kind in GPUS:  # whose compiler does not look whether it fits
        used = memory.held(step, devices[0].platform) / 2**30
        whole, (name, part) = GPUS[kind].memory, share()
        if used > part * whole:
            told = f"{used:.2f} of {part * whole:.2f} GiB, {part:.0%} of it"
            more = f"; or {name}=.95" if used <= 0.95 * whole else ""
            raise ConfigError([memory.lacks(told) + more])
    return 0


def share() -> tuple[str, float]:
    """The variable that says which share of a GPU's memory JAX takes, and the share."""
    name = FORMER if os.environ.get(FORMER) else SHARE
    given = os.environ.get(name) or str(TAKEN)
    try:
        found = float(given)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise ConfigError([f"{name}: {given!r} must be above 0 and at most 1"])
    return name, found
