"""Exit statuses, and what a program that fails says before it ends.

Beside these 0 is done, 75 stopped (`stop.py`) and 77 not finite (`loop.py`).
"""

import re
import sys
import traceback
from typing import Any

from mimjax.hosts import INTERNAL
from mimjax.run.memory import short_of, too_large
from mimjax.schema import ConfigError

STORAGE, BAD_CONFIG = 74, 78
REASON = 300  # characters of a mistake of our own that run.json takes


def of(error: Exception, trains: bool = False) -> tuple[int, list[str]]:
    """The exit status, and the lines that say why; none of a mistake of our own.

    What helps a run that `trains` is said with it.
    """
    if isinstance(error, ConfigError):
        return BAD_CONFIG, error.problems
    text = str(error)
    if isinstance(error, MemoryError):
        return BAD_CONFIG, [f"this machine has not enough memory: {text}"]
    # JAX says so when it compiles, or only when it runs.
    if "RESOURCE_EXHAUSTED" in text:
        return BAD_CONFIG, [too_large(text) if trains else short_of(text)]
    if re.search("cuDNN( is)? not (found|detected)", text):
        told = "is not installed; xla needs none"
        return BAD_CONFIG, [f"config.encoder.attention: cudnn {told}"]
    if isinstance(error, _known("mimjax.data.faults", "BadDataError")):
        return BAD_CONFIG, [text]
    if isinstance(error, (OSError, *_known("mimjax.checkpoint", "StorageError"))):
        return STORAGE, [text]
    return INTERNAL, []


def recorded(error: Exception) -> dict[str, Any]:
    """What run.json takes of it."""
    status, lines = of(error, trains=True)
    told = " ".join(lines) or " ".join(repr(error).split())[:REASON]
    return {"status": status, "reason": told}


def _known(module: str, name: str) -> tuple[type, ...]:
    """An exception of a module, if that is imported: else nothing there was raised."""
    loaded = sys.modules.get(module)
    return (getattr(loaded, name),) if loaded else ()


def tell(error: Exception, trains: bool = False) -> int:
    """Says it on standard error; returns the exit status."""
    status, lines = of(error, trains)
    for line in lines:
        print(line, file=sys.stderr)
    if not lines:
        traceback.print_exception(error)
    return status
