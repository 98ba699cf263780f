"""Exit statuses, and what a program that fails says before it ends.

Beside these 0 is done, 75 stopped (`stop.py`) and 77 not finite (`loop.py`).
"""

import re
import sys
import traceback

from mimjax.run.memory import too_large
from mimjax.schema import ConfigError

INTERNAL, STORAGE, BAD_CONFIG = 70, 74, 78


def of(error: Exception) -> tuple[int, list[str]]:
    """The exit status, and the lines that say why; none of a mistake of our own."""
    if isinstance(error, ConfigError):
        return BAD_CONFIG, error.problems
    text = str(error)
    if isinstance(error, MemoryError):
        return BAD_CONFIG, [f"this machine has not enough memory: {text}"]
    # JAX says so when it compiles, or only when it runs.
    if "RESOURCE_EXHAUSTED" in text:
        return BAD_CONFIG, [too_large(text)]
    if re.search("cuDNN( is)? not (found|detected)", text):
        told = "is not installed; xla needs none"
        return BAD_CONFIG, [f"config.encoder.attention: cudnn {told}"]
    # Slow to import, unless it was raised.
    from mimjax.checkpoint import StorageError
    from mimjax.data.faults import BadDataError

    if isinstance(error, BadDataError):
        return BAD_CONFIG, [text]
    if isinstance(error, OSError | StorageError):
        return STORAGE, [text]
    return INTERNAL, []


def tell(error: Exception) -> int:
    """Says it on standard error; returns the exit status."""
    status, lines = of(error)
    for line in lines:
        print(line, file=sys.stderr)
    if not lines:
        traceback.print_exception(error)
    return status
