"""From a config file and command-line changes to a checked, typed `Config`.

A config file is Python with `get_config() -> ml_collections.ConfigDict` holding
independent numbers only. The schema is the dataclass fields of each group, where every
default lives; what follows from them (layers of a named size, steps of an epoch) is
computed here. All problems are found before anything starts and are reported together,
one line each, by full field path.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from mimjax import data as data_module
from mimjax import evaluate as evaluate_module
from mimjax import objectives, optim, sharding
from mimjax.backbones import vit
from mimjax.schema import ConfigError, Schema, coerce, load, schema_of

__all__ = ["Config", "ConfigError", "Run", "resolve"]


@dataclasses.dataclass(frozen=True)
class Run:
    """The top fields. Periods are in steps, 0 for never; set `steps` or `epochs`.

    `keep_last` checkpoints are kept, and one every `keep_every` steps for good.
    `init_from` names the workdir of another run; `init_scope` says whether its "encoder"
    or "all" its parameters start this one.
    """

    seed: int = 0
    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 256
    log_every: int = 50
    checkpoint_every: int = 1000
    eval_every: int = 0
    picture_every: int = 0
    keep_last: int = 3
    keep_every: int = 0
    init_from: str = ""
    init_scope: str = "encoder"


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made of, checked; `values` is the same as plain nested dicts."""

    run: Run
    data: data_module.Data
    encoder: vit.Encoder
    objective: Any
    optim: optim.Optim
    mesh: sharding.Mesh
    evaluate: evaluate_module.Evaluate
    values: dict[str, Any]

    def steps(self, num_images: int) -> int:
        """Updates of the run over a source of that many images."""
        if self.run.steps:
            return self.run.steps
        return max(1, round(self.run.epochs * num_images / self.run.batch_size))

    def warmup(self, num_images: int) -> int:
        """Updates of the warm-up."""
        if self.optim.warmup_steps:
            return self.optim.warmup_steps
        return round(self.optim.warmup_epochs * num_images / self.run.batch_size)


Values = dict[str, dict[str, Any]]  # group ("" at the top) -> field -> value


def schemas(objective: str) -> dict[str, Schema]:
    """The fields of every group, for the named objective."""
    encoder = {"size": (str, ""), **schema_of(vit.Encoder)}
    fields: Schema = {"name": (str, "mae")}
    if objective in objectives.names():
        fields |= schema_of(objectives.load(objective), leave_out=("encoder",))
    return {
        "": schema_of(Run),
        "data": schema_of(data_module.Data),
        "encoder": encoder,
        "objective": fields,
        "optim": schema_of(optim.Optim),
        "mesh": schema_of(sharding.Mesh),
        "evaluate": schema_of(evaluate_module.Evaluate),
    }


def resolve(
    path: str,
    changes: Iterable[tuple[str, str]],
    devices: int,
    *,
    with_data: bool = True,
) -> Config:
    """The checked config of a file with `changes` ("optim.clip", "1.0") on top.

    `devices` is how many the run has; the data is looked for only `with_data`. Raises
    ConfigError with every problem there is.
    """
    given = flatten(load(path).to_dict())
    given.update({tuple(name.split(".")): text for name, text in changes})
    objective = str(given.get(("objective", "name"), "mae"))
    table = schemas(objective)
    values, found = typed(given, table, objective)
    if objective not in objectives.names():
        known = ", ".join(objectives.names())
        found.append(f"config.objective.name: {objective!r} is none of {known}")
    if found:
        # The other checks would only repeat what is wrong already.
        raise ConfigError(found)
    explicit = {name for group, *rest in given if group == "encoder" for name in rest}
    found += named_size(values["encoder"], explicit)
    found += ["config.encoder." + p for p in vit.problems(values["encoder"])]
    if found:
        raise ConfigError(found)
    config = build(values, objective)
    found = checks(config, devices, with_data)
    if found:
        raise ConfigError(found)
    return config


def flatten(nested: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """{"a": {"b": 1}} as {("a", "b"): 1}."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update({(key, *rest): v for rest, v in flatten(value).items()})
        else:
            flat[(key,)] = value
    return flat


def typed(
    given: dict[tuple[str, ...], Any], table: dict[str, Schema], objective: str
) -> tuple[Values, list[str]]:
    """Defaults overlaid with what is given, and every unknown name or wrong type."""
    values = {
        group: {name: default for name, (_, default) in schema.items()}
        for group, schema in table.items()
    }
    found = []
    for place, value in given.items():
        path = "config." + ".".join(place)
        group, name = (("", place[0]), place)[len(place) == 2]
        known = table.get(group, {}) if len(place) <= 2 else {}
        if name not in known:
            found.append(f"{path}: {unknown(group, name, table, objective)}")
            continue
        try:
            values[group][name] = coerce(value, known[name][0])
        except ValueError as error:
            found.append(f"{path}: {error}")
    return values, found


def unknown(group: str, name: str, table: dict[str, Schema], objective: str) -> str:
    """Why a field is not known and which ones are."""
    if group not in table:
        return f"no such group (there are {', '.join(g for g in table if g)})"
    if not group and name in table:
        return f"is a group, not a field (set config.{name}.<field>)"
    owner = f"objective {objective!r}" if group == "objective" else "this group"
    near = difflib.get_close_matches(name, table[group], n=1)
    if near:
        return f"no such field; did you mean {near[0]}?"
    return f"no such field; {owner if group else 'the top'} has {', '.join(table[group])}"


def named_size(encoder: dict[str, Any], explicit: set[str]) -> list[str]:
    """Fills width, depth and heads of a named size where they are not given."""
    size = encoder["size"]
    if not size:
        return []
    if size not in vit.SIZES:
        known = ", ".join(vit.SIZES)
        return [f"config.encoder.size: {size!r} is none of {known}"]
    for name, value in zip(("width", "depth", "heads"), vit.SIZES[size], strict=True):
        if name not in explicit:
            encoder[name] = value
    return []


def build(values: Values, objective: str) -> Config:
    """The typed objects of checked values."""
    fields = {k: v for k, v in values["encoder"].items() if k != "size"}
    encoder = vit.Encoder(**fields)
    own = {k: v for k, v in values["objective"].items() if k != "name"}
    plain = {**values[""], **{g: v for g, v in values.items() if g}}
    return Config(
        run=Run(**values[""]),
        data=data_module.Data(**values["data"]),
        encoder=encoder,
        objective=objectives.load(objective)(encoder=encoder, **own),
        optim=optim.Optim(**values["optim"]),
        mesh=sharding.Mesh(**values["mesh"]),
        evaluate=evaluate_module.Evaluate(**values["evaluate"]),
        values=plain,
    )


def checks(config: Config, devices: int, with_data: bool) -> list[str]:
    """What cannot work across groups, one line each, by full path."""
    run, encoder = config.run, config.encoder
    found = ["config." + p for p in run_problems(run)]
    lists = {
        "objective": config.objective.problems(),
        "optim": optim.problems(config.optim),
        "mesh": sharding.problems(config.mesh, devices),
    }
    found += [f"config.{group}.{p}" for group, ps in lists.items() for p in ps]
    if with_data:
        found += data_module.check(config.data, encoder.image_size, encoder.channels)
    found += evaluate_module.check(config.evaluate)
    if lists["mesh"] or lists["optim"] or run.batch_size < 1:
        return found
    shared = devices // config.mesh.tensor
    if config.evaluate.batch_size % shared:
        found.append(
            f"config.evaluate.batch_size: {config.evaluate.batch_size} must divide by "
            f"the {shared} devices that share it"
        )
    rows = shared * config.optim.accumulate
    if run.batch_size % rows:
        found.append(
            f"config.batch_size: {run.batch_size} must divide by {rows} (devices that "
            f"share the batch x config.optim.accumulate), for example "
            f"{-(-run.batch_size // rows) * rows}"
        )
    if encoder.heads % config.mesh.tensor:
        found.append(
            f"config.mesh.tensor: {config.mesh.tensor} does not divide the "
            f"{encoder.heads} heads of the encoder"
        )
    warmup = config.optim.warmup_steps
    if (run.steps and warmup >= run.steps) or (
        run.epochs and not warmup and config.optim.warmup_epochs >= run.epochs
    ):
        found.append(
            "config.optim.warmup_steps: the warm-up must be shorter than the run"
        )
    return found


def run_problems(run: Run) -> list[str]:
    """What cannot work in the top fields, one line each."""
    found = []
    if (run.steps > 0) == (run.epochs > 0):
        found.append("steps: set exactly one of steps and epochs to a positive number")
    for name in ("batch_size", "log_every", "keep_last"):
        if getattr(run, name) < 1:
            found.append(f"{name}: {getattr(run, name)} must be at least 1")
    for name in ("seed", "checkpoint_every", "eval_every", "picture_every"):
        if getattr(run, name) < 0:
            found.append(f"{name}: {getattr(run, name)} must not be negative")
    if run.keep_every < 0:
        found.append(f"keep_every: {run.keep_every} must not be negative")
    if run.seed >= 2**31:
        found.append(f"seed: {run.seed} must be below 2^31")
    if run.init_scope not in ("encoder", "all"):
        found.append(f"init_scope: {run.init_scope!r} is neither 'encoder' nor 'all'")
    return found


