"""The type checker of the tests: beartype, with an int where a float is asked for."""

from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: dict[Any, Any] = {}


def check(function: Any) -> Any:
    """A function that checks what it is given.

    Those inside others are defined at every call of these, and to write a checker takes
    milliseconds. jaxtyping hands over functions of the same signatures that do nothing,
    so one will do for all.
    """
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return _beartype(function)
    names = function.__code__.co_varnames
    hints = tuple(function.__annotations__.items())
    which = (function.__module__, function.__qualname__, names, hints)
    if which not in _made:
        _made[which] = _beartype(function)
    return _made[which]
