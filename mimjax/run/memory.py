"""What a step takes of a device's memory, in words."""

import os
import re
from typing import Any


def too_large(text: str) -> str:
    """The long account of a device without memory, as one line, and what helps."""
    return lacks(amount_in(text))


def short_of(text: str) -> str:
    """The same where nothing of a config helps."""
    return f"a device has not enough memory ({amount_in(text)})"


def amount_in(text: str) -> str:
    """How much it is that JAX says is missing."""
    used = re.search(r"Used (\S+) of (\S+) hbm", text)
    first = text.partition("RESOURCE_EXHAUSTED: ")[2].partition("\n")[0][:200]
    return f"{used[1]} of {used[2]} a device" if used else first.rstrip(". ")


def lacks(amount: str) -> str:
    """The line of a device without so much memory, and what helps."""
    return (
        f"config.batch_size: a device has not enough memory ({amount}); try a smaller "
        "batch (config.evaluate.batch_size where it was evaluating), "
        "config.optim.accumulate, config.encoder.remat=full or more devices on "
        "config.mesh.fsdp"
    )


def held(step: Any, platform: str) -> int:
    """Bytes that a compiled step takes on each device."""
    found = step.memory_analysis()
    extra = found.output_size_in_bytes - found.alias_size_in_bytes
    total = found.argument_size_in_bytes + extra + found.temp_size_in_bytes
    # The sum counts temporaries that never live at once; the CPU compiler's peak leaves
    # temporaries out.
    peak = 0 if platform == "cpu" else getattr(found, "peak_memory_in_bytes", 0)
    return peak or total


def told(step: Any, platform: str) -> str:
    """What a compiled step holds on each device, in words."""
    found = step.memory_analysis()
    if found is None:
        return "unknown"
    total, kept = held(step, platform), found.argument_size_in_bytes
    line = f"{total / 2**30:.2f} GiB, {kept / 2**30:.2f} state and batch"
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if platform == "cpu" and total > here:
        line += (
            f"\nthat is more than this machine has ({here / 2**30:.0f} GiB), which may "
            "end the run: try a smaller config.batch_size or config.encoder.size"
        )
    return line
