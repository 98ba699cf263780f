"""Layouts of other projects' weights, a file each; the file name is the registry.

A layout has `recognises(arrays)`, whether a file with these is of it; `values`, the
config of the model that such a file holds, as far as its arrays tell; `entries`,
the table of names of an objective; and `constants`, what their files hold that is no
parameter here, computed anew.
"""

import importlib
import pkgutil
from typing import Any


def names() -> list[str]:
    """All layouts."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Any:
    """The module of a layout in `names`."""
    return importlib.import_module(f"mimjax.convert.layouts.{name}")
