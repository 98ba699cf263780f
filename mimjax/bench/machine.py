"""The process that says what machine this is."""

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

from mimjax import cores
from mimjax.bench import child

PACKAGES = ("mimjax", "jax", "jaxlib", "torch", "transformers")


def describe(spec: dict[str, Any]) -> dict[str, Any]:
    """Processor, cores, memory, the first device and versions."""
    import jax

    device = jax.devices()[0]
    known, versions = pathlib.Path("/proc/cpuinfo"), {}
    text = known.read_text() if known.exists() else ""
    named = re.search(r"model name\s*:\s*(.+)", text)
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "cores": len(cores.usable()),
        "memory": memory,
        "versions": {"python": platform.python_version(), **versions},
    }


if __name__ == "__main__":
    child.main(describe)
