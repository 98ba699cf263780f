"""Which parameters are trained: all but those that `config.optim.frozen` names."""

from typing import Any

import jax

from mimjax.optim import Optim


def trained(optim: Optim, params: dict[str, Any], above: str = "") -> dict[str, Any]:
    """What is trained of nested dicts of parameters, the same dicts without the rest.

    `above` is the path of `params` itself, with a slash behind it.
    """
    return {
        name: trained(optim, part, f"{above}{name}/")
        if isinstance(part, dict)
        else part
        for name, part in params.items()
        if above + name not in optim.frozen
    }


def restored(learned: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """All parameters again: those of `learned`, and the rest of `params`."""
    return {
        name: part
        if name not in learned
        else restored(learned[name], part)
        if isinstance(part, dict)
        else learned[name]
        for name, part in params.items()
    }


def problems(optim: Optim, params: dict[str, Any]) -> list[str]:
    """What cannot work in the paths of what is not trained, one line each."""
    for path in optim.frozen:
        part: Any = params
        for name in path.split("/"):
            known = ", ".join(part) if isinstance(part, dict) else "nothing"
            if not isinstance(part, dict) or name not in part:
                return [
                    f"frozen: {path!r} is no parameter ({name!r} is none of {known})"
                ]
            part = part[name]
    if not jax.tree.leaves(trained(optim, params)):
        return [f"frozen: {optim.frozen} leaves nothing to train"]
    return []
