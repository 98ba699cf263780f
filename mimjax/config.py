"""From a config file and command-line changes to a checked, typed `Config`.

A config file is Python with `get_config() -> ml_collections.ConfigDict` holding
independent numbers only. The schema is the dataclass fields of each group, where every
default lives; what follows from them (layers of a named size, steps of an epoch) is
computed here. All problems are found before anything starts and are reported together,
one line each, by full field path.
"""

import functools
import json
import os
import pathlib
import typing
from collections.abc import Iterable
from typing import Any

from mimjax import backbones, checks, frozen, meshes, objectives, optim, settings
from mimjax import data as data_module
from mimjax import evaluate as evaluate_module
from mimjax.schema import (
    ConfigError,
    Place,
    Schema,
    Values,
    flatten,
    load,
    schema_of,
    typed,
)
from mimjax.settings import Config, Run
from mimjax.standins import named, together, unmentioned, working

__all__ = ["Config", "ConfigError", "Run", "resolve"]

# A change on the command line to the first replaces what the file says of the others;
# to a size, what the file says of the fields that it stands for.
REPLACES: dict[Place, tuple[Place, ...]] = {
    ("steps",): (("epochs",),),
    ("epochs",): (("steps",),),
    ("optim", "warmup_steps"): (("optim", "warmup_epochs"),),
    ("optim", "warmup_epochs"): (("optim", "warmup_steps"),),
}


def schemas(encoder: str, objective: str) -> dict[str, Schema]:
    """The fields of every group, for the named encoder and objective."""
    fields = schema_of(objectives.load(objective), leave_out=("encoder",))
    # Another run's model is named by its workdir.
    fields = {
        name: (str, "") if is_model(kind) else (kind, default)
        for name, (kind, default) in fields.items()
    }
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
        "mesh": schema_of(meshes.Mesh),
        "evaluate": schema_of(evaluate_module.Evaluate),
        "profile": schema_of(settings.Profile),
    }


def is_model(kind: Any) -> bool:
    """Whether a field holds the model of another run, or may."""
    return frozen.Model in (kind, *typing.get_args(kind))


def defaults(encoder: str, objective: str) -> dict[str, Any]:
    """The values of a config that sets nothing else, as `Config.values`."""
    table = schemas(encoder, objective)
    found = {g: {n: d for n, (_, d) in schema.items()} for g, schema in table.items()}
    return {**found.pop(""), **found}


def resolve(
    path: str,
    changes: Iterable[tuple[str, str]],
    devices: int | None,
    *,
    with_data: bool = True,
    workdir: str = "",
) -> Config:
    """The checked config of a file with `changes` ("optim.clip", "1.0") on top.

    `devices` is how many the run has, None where that is not known yet; the data is
    looked for only `with_data`, and what to start from not where `workdir` holds a
    checkpoint to go on from. Raises ConfigError with every problem there is.
    """
    written = load(path)
    given = overlaid(written, {tuple(n.split(".")): text for n, text in changes})
    encoder, objective, missing, stands_in = together(given)
    values, found, doubtful = typed(given, schemas(encoder, objective))
    # What is wrong with a stand-in is not the user's problem.
    found, doubtful = missing + found, doubtful | stands_in
    values[""]["init_from"] = os.path.expanduser(values[""]["init_from"])
    values["encoder"], lines, repaired = working(values["encoder"], given)
    found += unmentioned(doubtful, lines)
    resumed = bool(workdir) and settings.has_checkpoint(workdir)
    models, lines = other_runs(values["objective"], with_data, resumed)
    found += unmentioned(doubtful, lines)
    config = build(values, models)
    found += unmentioned(
        doubtful | repaired, checks.problems(config, devices, with_data, workdir)
    )
    if found:
        raise ConfigError(found + another_file(path, written, objective, found))
    return config


def another_file(
    path: str, written: dict[Place, Any], objective: str, found: list[str]
) -> list[str]:
    """Which config is for that objective, where a file's fields are of another."""
    before = written.get(("objective", "name"), "mae")
    own = (".".join(place) for place in written if place[0] == "objective")
    unknown = tuple(f"config.{name}: no such field" for name in own)
    here, stem = pathlib.Path(path).parent, pathlib.Path(path).stem
    # Of the same kind, such as quickstart_aim beside quickstart, or the first there is.
    files = [
        *here.glob(f"{stem}_{objective}.py"),
        *sorted(here.glob(f"{objective}_*.py")),
    ]
    foreign = before != objective and any(line.startswith(unknown) for line in found)
    if not (files and foreign):
        return []
    told = f"{path} is written for {before}; for {objective} there is {files[0]}"
    return [f"config.objective.name: {told}"]


def other_runs(
    fields: dict[str, Any], needed: bool, resumed: bool = False
) -> tuple[dict[str, frozen.Model], list[str]]:
    """The models of other runs among the fields of an objective, and what is wrong.

    A field without a model keeps its stand-in, which is no problem unless `needed`. The
    checkpoints of a run that is `resumed` have the parameters too.
    """
    models, found = {}, []
    schema = schema_of(objectives.load(fields["name"]))
    for name in (n for n, (kind, _) in schema.items() if is_model(kind)):
        workdir = fields[name] = os.path.expanduser(fields[name])
        if not workdir and schema[name][1] is None:
            continue
        problem = "" if workdir else "name the workdir of the run that trained it"
        try:
            if workdir:
                models[name] = model_of(workdir)
        except ValueError as error:
            problem = str(error)
        if not (problem or resumed or settings.holds_model(workdir)):
            problem = f"{workdir} holds no checkpoint yet"
        if problem and needed:
            found.append(f"config.objective.{name}: {problem}")
    return models, found


def of_workdir(workdir: str) -> Config:
    """The config of another run; ValueError saying why there is none."""
    path = pathlib.Path(workdir, "config.json")
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        return rebuilt(values)
    except OSError:
        raise ValueError(f"{workdir} holds no run (no config.json)") from None
    except KeyError:
        told = "is no run's: make a workdir of weights by python -m mimjax.convert"
        raise ValueError(f"{path} {told}") from None
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


@functools.cache
def model_of(workdir: str) -> frozen.Model:
    """The model of another run; ValueError saying why there is none."""
    config = of_workdir(workdir).plain()
    constants = data_module.normalise_constants(config.data, config.encoder.channels)
    return frozen.Model(config.objective, *constants, workdir)


def rebuilt(values: dict[str, Any]) -> Config:
    """The config of another run from its config.json; ValueError where it is none."""
    given = flatten(values)
    names = given[("encoder", "name")], given[("objective", "name")]
    known = {"encoder": backbones.NAMES, "objective": objectives.names()}
    for group, listed in known.items():
        _, lines = named(given, group, "", listed)
        if lines:
            raise ValueError(lines[0])
        del given[(group, "name")]
    table = schemas(*names)
    found, lines, _ = typed(given, table)
    if lines:
        raise ValueError(lines[0])
    found["encoder"]["name"], found["objective"]["name"] = names
    normalise = found["data"]["normalise"]
    if normalise not in data_module.CONSTANTS:
        known = " or ".join(data_module.CONSTANTS)
        raise ValueError(f"config.data.normalise: {normalise!r} must be {known}")
    return build(found, other_runs(found["objective"], needed=False)[0])


def fit(config: Config, devices: int) -> None:
    """Raises ConfigError where the run does not divide among that many devices."""
    found = checks.sharing_problems(config, devices)
    if found:
        raise ConfigError(found)


def overlaid(given: dict[Place, Any], changes: dict[Place, Any]) -> dict[Place, Any]:
    """What the file and the command line say together."""
    gone = {place for first in changes for place in REPLACES.get(first, ())}
    size = changes.get(("encoder", "size"))
    if size is not None:
        name = {**given, **changes}.get(("encoder", "name"), "vit")
        known = backbones.load(name).SIZES if name in [*backbones.NAMES] else {}
        gone |= {("encoder", field) for field in known.get(size, ())}
    return {**{p: v for p, v in given.items() if p not in gone}, **changes}


def build(values: Values, models: dict[str, frozen.Model]) -> Config:
    """The typed objects of checked values and the models of other runs."""
    group = values["encoder"]
    fields = {k: v for k, v in group.items() if k not in ("name", "size")}
    encoder = backbones.load(group["name"]).Encoder(**fields)
    objective = objectives.load(values["objective"]["name"])
    own = {k: v for k, v in values["objective"].items() if k != "name"}
    stand_ins = {n for n, v in schema_of(objective).items() if is_model(v[0])}
    own = {n: v for n, v in own.items() if n not in stand_ins} | models
    return Config(
        run=Run(**values[""]),
        data=data_module.Data(**values["data"]),
        encoder=encoder,
        objective=objective(encoder=encoder, **own),
        optim=optim.Optim(**values["optim"]),
        mesh=meshes.Mesh(**values["mesh"]),
        evaluate=evaluate_module.Evaluate(**values["evaluate"]),
        profile=settings.Profile(**values["profile"]),
        values={**values[""], **{group: v for group, v in values.items() if group}},
    )
