"""Layouts of other projects' weights, a file each; the file name is the registry.

A layout has `recognises(arrays)`, whether a file with these is of it; `values`, the
config of the model that such a file holds, as far as its arrays tell; `entries`,
the table of names of an objective; and `constants`, what their files hold that is no
parameter here, computed anew; `misfit`, why an objective cannot be written so, or "";
RESIZE, how that code takes a table of positions to another size (bicubic where there is
none); and of libraries `package`, the configuration beside the weights.
"""

import importlib
import pkgutil
from typing import Any

from mimjax.convert import resize


def names() -> list[str]:
    """All layouts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Any:
    """The module of a layout in `names`."""
    return importlib.import_module(f"mimjax.convert.layouts.{name}")


def resize_of(name: str) -> resize.Way:
    """How the code of a layout takes a table of positions to another size."""
    return getattr(load(name), "RESIZE", resize.bicubic)


def family(name: str) -> str:
    """Whose files these are: timm's, transformers' or the official code's."""
    first = name.partition("_")[0]
    return first if first in ("timm", "transformers") else "official"
