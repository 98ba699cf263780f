"""Encoder and objective of a config, and stand-ins where they cannot work.

With a stand-in the other groups can be looked at as well, and all that is wrong is told
at once.
"""

import re
import typing
from collections.abc import Collection
from typing import Any

from mimjax import backbones, objectives
from mimjax.schema import Place, schema_of, shown


def together(
    given: dict[Place, Any],
) -> tuple[str, str, list[str], set[str]]:
    """Encoder and objective that go together, what is wrong, and where stand-ins are.

    A stand-in is there so that the other groups can be looked at as well.
    """
    encoder, found = named(given, "encoder", "vit", backbones.NAMES)
    stands_in = {"encoder"} if found else set()
    objective, lines = named(given, "objective", "mae", objectives.names())
    takes = taken_by(objective)
    if lines:
        stands_in |= {"objective"}
        found += lines
        objective = next(n for n in objectives.names() if encoder in taken_by(n))
    elif encoder not in takes:
        if not found:
            note = getattr(objectives.load(objective), "encoder_note", "")
            found = [
                f"config.encoder.name: {encoder!r} does not go with objective "
                f"{objective!r}, which takes {' or '.join(takes)}"
                + (f" ({note})" if note else "")
            ]
        clear(given, "encoder")
        stands_in, encoder = {"encoder"}, takes[0]
    given[("encoder", "name")], given[("objective", "name")] = encoder, objective
    return encoder, objective, found, stands_in


def named(
    given: dict[Place, Any], group: str, default: str, known: Collection[str]
) -> tuple[str, list[str]]:
    """The name in a group; if there is no such, a stand-in and why. Its fields go."""
    name = given.get((group, "name"), default)
    if isinstance(name, str) and name in known:
        return name, []
    clear(given, group)
    return default, [
        f"config.{group}.name: {shown(name)} is none of {', '.join(known)}"
    ]


def clear(given: dict[Place, Any], group: str) -> None:
    """Takes the fields of a group away."""
    for place in [p for p in given if p[0] == group and len(p) == 2]:
        del given[place]


def taken_by(objective: str) -> list[str]:
    """The names of the encoders that an objective takes."""
    kind = typing.get_type_hints(objectives.load(objective))["encoder"]
    kinds = typing.get_args(kind) or (kind,)
    return [n for n in backbones.NAMES if backbones.load(n).Encoder in kinds]


def working(
    fields: dict[str, Any], given: dict[Place, Any]
) -> tuple[dict[str, Any], list[str], set[str]]:
    """Encoder fields that can be built, what was wrong, and which got their default.

    With them the other groups can be looked at as well.
    """
    module = backbones.load(fields["name"])
    found, replaced = [], set()
    defaults = {n: default for n, (_, default) in schema_of(module.Encoder).items()}
    if fields["size"] in module.SIZES:
        sizes = module.SIZES[fields["size"]]
        fields |= {n: v for n, v in sizes.items() if ("encoder", n) not in given}
    elif fields["size"]:
        known = ", ".join(module.SIZES)
        found.append(f"config.encoder.size: {fields['size']!r} is none of {known}")
        sized = next(iter(module.SIZES.values()))
        replaced |= set(sized)
        fields |= {name: defaults[name] for name in sized}
    lines = module.problems(fields)
    found += ["config.encoder." + line for line in lines]
    while lines:
        wrong = {n for n in defaults if unmentioned({n}, lines) != lines}
        replaced = replaced | wrong if wrong - replaced else set(defaults)
        fields |= {name: defaults[name] for name in replaced}
        lines = module.problems(fields)
    return fields, found, replaced


def unmentioned(doubtful: set[str], lines: list[str]) -> list[str]:
    """The lines that do not speak of a field that is known to be wrong already."""
    words = [rf"\b{re.escape(name)}\b" for name in doubtful]
    return [x for x in lines if not any(re.search(word, x) for word in words)]
