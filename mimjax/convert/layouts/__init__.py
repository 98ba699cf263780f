"""Layouts of other projects' weights, a file each; the file name is the registry.

A layout has

- `recognises(arrays)`: whether a file with these arrays is of it;
- `values(arrays, said)`: the config of the model that such a file holds, as far as its
  arrays and `said`, the configuration beside them, tell;
- `entries(objective)`: the table of names of an objective;
- `constants(objective)`: what their files hold that is no parameter here, if anything;
- `BESIDE`: how names of other models in its files begin, if there are such;
- `misfit(objective)`: why one cannot be written so, or "";
- `resize(encoder, said)`: which of `tables.RESIZES` its code takes tables of positions
  to another size by; "bicubic" where there is none;
- `package(objective, mean, std)`, of libraries: the configuration beside the weights.
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


def resize_of(name: str, encoder: Any, said: dict[str, Any]) -> str:
    """How the code of a layout takes tables to another size (`tables.RESIZES`).

    `said` is the configuration beside the weights, if there is one.
    """
    module = load(name)
    return module.resize(encoder, said) if hasattr(module, "resize") else "bicubic"


def constants_of(name: str, objective: Any) -> dict[str, Any]:
    """What files of a layout hold that is no parameter here, by name."""
    module = load(name)
    return module.constants(objective) if hasattr(module, "constants") else {}


# Whose names the official code gives to models as they are fine-tuned.
TUNED = ("timm_beit", "timm_vit")


def family(name: str) -> str:
    """Whose files these are: timm's, transformers' or the official code's."""
    first = name.partition("_")[0]
    return first if first in ("timm", "transformers") else "official"
