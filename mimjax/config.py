"""From a config file and command-line changes to a checked, typed `Config`.

A config file is Python with `get_config() -> ml_collections.ConfigDict` holding
independent numbers only. The schema is the dataclass fields of each group, where every
default lives; what follows from them (layers of a named size, steps of an epoch) is
computed here. All problems are found before anything starts and are reported together,
one line each, by full field path.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mimjax import backbones, objectives, optim, settings, sharding
from mimjax import data as data_module
from mimjax import evaluate as evaluate_module
from mimjax.schema import (
    ConfigError,
    Place,
    Schema,
    Values,
    load,
    schema_of,
    shown,
    typed,
)
from mimjax.settings import Config, Run

__all__ = ["Config", "ConfigError", "Run", "resolve"]

# A change on the command line to the first replaces what the file says of the others.
REPLACES: dict[Place, tuple[Place, ...]] = {
    ("steps",): (("epochs",),),
    ("epochs",): (("steps",),),
    ("optim", "warmup_steps"): (("optim", "warmup_epochs"),),
    ("optim", "warmup_epochs"): (("optim", "warmup_steps"),),
    ("encoder", "size"): tuple(
        ("encoder", name) for name in ("width", "depth", "depths", "heads")
    ),
}


def schemas(encoder: str, objective: str) -> dict[str, Schema]:
    """The fields of every group, for the named encoder and objective."""
    fields = schema_of(objectives.load(objective), leave_out=("encoder",))
    return {
        "": schema_of(Run),
        "data": schema_of(data_module.Data),
        "encoder": {
            "name": (str, "vit"),
            "size": (str, ""),
            **schema_of(backbones.load(encoder).Encoder),
        },
        "objective": {"name": (str, "mae"), **fields},
        "optim": schema_of(optim.Optim),
        "mesh": schema_of(sharding.Mesh),
        "evaluate": schema_of(evaluate_module.Evaluate),
    }


def resolve(
    path: str,
    changes: Iterable[tuple[str, str]],
    devices: int | None,
    *,
    with_data: bool = True,
) -> Config:
    """The checked config of a file with `changes` ("optim.clip", "1.0") on top.

    `devices` is how many the run has, None where that is not known yet; the data is
    looked for only `with_data`. Raises ConfigError with every problem there is.
    """
    given = overlaid(load(path), {tuple(n.split(".")): text for n, text in changes})
    encoder, missing = named(given, "encoder", "vit", backbones.NAMES)
    objective, lines = named(given, "objective", "mae", objectives.names())
    values, found, doubtful = typed(given, schemas(encoder, objective))
    found = missing + lines + found
    # Checked with a stand-in, whose own problems are not the user's.
    doubtful |= {"encoder"} if missing else set()
    doubtful |= {"objective"} if lines else set()
    values["encoder"], lines, repaired = working(values["encoder"], given)
    found += unmentioned(doubtful, lines)
    config = build(values)
    found += unmentioned(doubtful | repaired, checks(config, devices, with_data))
    if found:
        raise ConfigError(found)
    return config


def fit(config: Config, devices: int) -> None:
    """Raises ConfigError where the run does not divide among that many devices."""
    found = sharing_problems(config, devices)
    if found:
        raise ConfigError(found)


def overlaid(given: dict[Place, Any], changes: dict[Place, Any]) -> dict[Place, Any]:
    """What the file and the command line say together."""
    gone = {place for first in changes for place in REPLACES.get(first, ())}
    return {**{p: v for p, v in given.items() if p not in gone}, **changes}


def named(
    given: dict[Place, Any], group: str, default: str, known: Sequence[str]
) -> tuple[str, list[str]]:
    """The name in a group; if there is no such, a stand-in and why. Its fields go."""
    name = given.get((group, "name"), default)
    if isinstance(name, str) and name in known:
        return name, []
    for place in [p for p in given if p[0] == group and len(p) == 2]:
        del given[place]
    return default, [
        f"config.{group}.name: {shown(name)} is none of {', '.join(known)}"
    ]


def unmentioned(doubtful: set[str], lines: list[str]) -> list[str]:
    """The lines that do not speak of a field that is known to be wrong already."""
    words = [rf"\b{re.escape(name)}\b" for name in doubtful]
    return [x for x in lines if not any(re.search(word, x) for word in words)]


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


def build(values: Values) -> Config:
    """The typed objects of checked values."""
    group = values["encoder"]
    fields = {k: v for k, v in group.items() if k not in ("name", "size")}
    encoder = backbones.load(group["name"]).Encoder(**fields)
    own = {k: v for k, v in values["objective"].items() if k != "name"}
    objective = objectives.load(values["objective"]["name"])
    return Config(
        run=Run(**values[""]),
        data=data_module.Data(**values["data"]),
        encoder=encoder,
        objective=objective(encoder=encoder, **own),
        optim=optim.Optim(**values["optim"]),
        mesh=sharding.Mesh(**values["mesh"]),
        evaluate=evaluate_module.Evaluate(**values["evaluate"]),
        values={**values[""], **{group: v for group, v in values.items() if group}},
    )


def checks(config: Config, devices: int | None, with_data: bool) -> list[str]:
    """What cannot work in any group and across them, one line each, by full path."""
    encoder, data = config.encoder, config.data
    if not with_data:
        # Everything but the source, which need not be there.
        data = dataclasses.replace(data, source="synthetic")
    return [
        *("config." + line for line in settings.problems(config.run)),
        *("config.objective." + line for line in config.objective.problems()),
        *("config.optim." + line for line in optim.problems(config.optim)),
        *data_module.check(data, encoder.image_size, encoder.channels),
        *evaluate_module.check(config.evaluate),
        *(sharing_problems(config, devices) if devices else ()),
        *joint_problems(config),
    ]


def sharing_problems(config: Config, devices: int) -> list[str]:
    """What does not divide among the devices."""
    mesh, encoder = config.mesh, config.encoder
    found = ["config.mesh." + line for line in sharding.problems(mesh, devices)]
    if found:
        return found
    shared = devices // mesh.tensor
    rows = shared * max(1, config.optim.accumulate)
    batches = {
        "batch_size": (config.run.batch_size, rows, " x config.optim.accumulate"),
        "evaluate.batch_size": (config.evaluate.batch_size, shared, ""),
    }
    for name, (size, parts, also) in batches.items():
        if size % parts:
            found.append(
                f"config.{name}: {size} must be a multiple of {parts} (devices that "
                f"share the batch{also}), for example {-(-size // parts) * parts}"
            )
    for heads in encoder.head_counts:
        if heads % mesh.tensor:
            found.append(
                f"config.mesh.tensor: {mesh.tensor} does not divide the {heads} heads "
                "of the encoder"
            )
            break
    return found


def joint_problems(config: Config) -> list[str]:
    """What two groups do not agree on; the warm-up only where units are the same."""
    run, given, found = config.run, config.optim, []
    if config.evaluate.pool == "cls" and not config.encoder.cls:
        found.append(
            "config.evaluate.pool: 'cls' needs config.encoder.cls=True (or use 'mean')"
        )
    unit = "steps" if given.warmup_steps else "epochs"
    warmup, length = getattr(given, f"warmup_{unit}"), getattr(run, unit)
    if 0 < length <= warmup:
        found.append(
            f"config.optim.warmup_{unit}: a warm-up of {warmup} must be shorter than "
            f"the run of {length} (config.{unit})"
        )
    return found
