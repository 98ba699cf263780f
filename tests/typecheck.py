"""The type checker of the tests: beartype, with an int where a float is asked for.

And jaxtyping, which checks that the shapes of a call agree, where it says shapes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
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


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """As jaxtyping's, but where no shapes are said beartype alone.

    That is four calls in five, and jaxtyping binds the arguments of each, looks at them
    twice, and writes a function of their signature for each one inside another: such
    ones are not checked.
    """

    def decorate(it: Any) -> Any:
        hints = getattr(it, "__annotations__", {}).values()
        # And what is named before it is there, which beartype alone cannot find.
        if any(isinstance(x, str) or "jaxtyping." in repr(x) for x in hints):
            return _jaxtyped(it, typechecker=typechecker)
        if not isinstance(it, type):
            return it if "<locals>" in it.__qualname__ else _beartype(it)
        if dataclasses.is_dataclass(it):
            it.__init__ = _beartype(it.__init__)
        return it

    return decorate
