"""Pretrain vision transformers by masked and autoregressive image modelling.

encoder, params = mimjax.load("runs/quickstart")  # or a file of another project
vectors = mimjax.features(mimjax.load("runs/quickstart"), images)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["features", "load"]

if TYPE_CHECKING:
    from mimjax.models import features, load


def __getattr__(name: str) -> Any:
    """What needs JAX is imported when it is asked for, so that help comes at once."""
    if name not in __all__:
        raise AttributeError(f"module 'mimjax' has no attribute {name!r}")
    from mimjax import models

    return getattr(models, name)


def __dir__() -> list[str]:
    """What can be asked for, so that notebooks offer it."""
    return sorted({*globals(), *__all__})
