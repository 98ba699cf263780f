"""Config files, and their values as the types that dataclasses declare."""

import ast
import dataclasses
import difflib
import importlib.util
import math
import pathlib
import typing
import warnings
from types import ModuleType
from typing import Any

import ml_collections
from ml_collections import config_dict

# Where numbers end on the device: int32 and float32.
ENDS = {int: 2**31, float: 3e38}

KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


class ConfigError(Exception):
    """A configuration that cannot work; `problems` has one line for each reason."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


Schema = dict[str, tuple[Any, Any]]  # field -> (annotation, default)
Values = dict[str, dict[str, Any]]  # group ("" at the top) -> field -> value
Place = tuple[str, ...]  # the names on the way to a field: ("optim", "clip")


def schema_of(cls: Any, leave_out: tuple[str, ...] = ()) -> Schema:
    """The fields of a dataclass or Flax module, with their types and defaults."""
    hints = typing.get_type_hints(cls)
    if "parent" in hints:  # every Flax module has these two
        leave_out += ("parent", "name")
    return {
        f.name: (hints[f.name], f.default)
        for f in dataclasses.fields(cls)
        if f.init and f.name not in leave_out
    }


def load(path: str) -> dict[Place, Any]:
    """What `get_config` of the file `path` sets."""
    _, config = called(path, "get_config")
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError([f"--config: get_config of {path} must return a ConfigDict"])
    try:
        return flatten(config.to_dict())
    except config_dict.RequiredValueError as error:
        told = "leaves a field empty that it requires (config_dict.placeholder)"
        raise ConfigError([f"--config: {path} {told}"]) from error


# What a file is by the function in it.
PURPOSES = {
    "get_config": "; it is a config, for python -m mimjax.main",
    "get_study": "; it is a study, for python -m mimjax.study",
}


def called(path: str, function: str) -> tuple[ModuleType, Any]:
    """A Python file as a module, and what a function of it returns.

    "FILE:ARGUMENT" passes an argument. Raises ConfigError where there is no such file
    or function, or either fails.
    """
    file, argument = path, ""
    try:
        if ":" in path and not pathlib.Path(path).is_file():
            file, argument = path.rsplit(":", 1)
        there, folder = pathlib.Path(file).is_file(), pathlib.Path(file).is_dir()
    except OSError as error:
        told = f"--config: cannot look at {file}: {error.strerror}"
        raise ConfigError([told]) from None
    if folder:
        raise ConfigError([f"--config: {file} is a folder; name one of its files"])
    if not there:
        near = difflib.get_close_matches(
            pathlib.Path(file).stem,
            [f.stem for f in pathlib.Path("configs").glob("*.py")],
        )
        hint = f" (did you mean configs/{near[0]}.py?)" if near else ""
        raise ConfigError([f"--config: there is no file {file}{hint}"])
    # Absolute, as it will stand in the frames of an error.
    absolute = str(pathlib.Path(file).absolute())
    spec = importlib.util.spec_from_file_location("mimjax_config", absolute)
    if spec is None or spec.loader is None:
        raise ConfigError([f"--config: {file} is not a Python file (*.py)"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            kind = next((x for n, x in PURPOSES.items() if hasattr(module, n)), "")
            raise ConfigError([f"--config: {file} has no function {function}{kind}"])
        arguments = [argument] if argument else []
        return module, getattr(module, function)(*arguments)
    except (ConfigError, KeyboardInterrupt):
        raise
    # A SystemExit too: it is the file's, not the user's.
    except BaseException as error:
        said = str(error)
        if isinstance(error, SyntaxError) and error.filename == absolute:
            said = error.msg
        text = " ".join(f"{type(error).__name__}: {said}".split())
        place = f"{file}{line_of(error, absolute)}"
        raise ConfigError([f"--config: {place}: {text}"]) from error


def line_of(error: BaseException, file: str) -> str:
    """ ", line n" where the error passed through that file."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def flatten(nested: dict[Any, Any]) -> dict[Place, Any]:
    """{"a": {"b": 1}} as {("a", "b"): 1}."""
    flat: dict[Place, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update({(str(key), *rest): v for rest, v in flatten(value).items()})
        else:
            flat[(str(key),)] = value
    return flat


def typed(
    given: dict[Place, Any], table: dict[str, Schema]
) -> tuple[Values, list[str], set[str]]:
    """Defaults overlaid with what is given, what is wrong with it, and doubtful names.

    A field whose value is wrong keeps its default. Doubtful are the names of such
    fields, and of those that an unknown name was likely meant to be.
    """
    values = {
        group: {name: default for name, (_, default) in schema.items()}
        for group, schema in table.items()
    }
    found, doubtful = [], set()
    for place, value in given.items():
        group, name = ("", place[0]) if len(place) == 1 else place[:2]
        known = table.get(group, {})
        path = "config." + ".".join(place)
        if len(place) > 2 or name not in known or (len(place) == 2 and not group):
            near = difflib.get_close_matches(name, known, n=1)
            found.append(f"{path}: {unknown(place, table, near)}")
            doubtful |= set(near)
            continue
        try:
            values[group][name] = coerce(value, known[name][0])
        except ValueError as error:
            found.append(f"{path}: {error}")
            doubtful.add(name)
    return values, found, doubtful


def unknown(place: Place, table: dict[str, Schema], near: list[str]) -> str:
    """Why a field is not known, and which ones are; `near` is the likeliest."""
    group, name = place[0], place[-1]
    if len(place) == 1 and name in table:
        return f"is a group, not a field (set config.{name}.<field>)"
    if len(place) > 1 and (group not in table or not group):
        groups = [name for name in table if name]
        near = difflib.get_close_matches(group, groups, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"no such group{hint} (there are {', '.join(groups)})"
    if near and len(place) < 3:
        return f"no such field; did you mean {near[0]}?"
    if len(place) > 1:
        return f"no such field; config.{group} has {', '.join(table[group])}"
    groups = ", ".join(name for name in table if name)
    return f"no such field; the top has {', '.join(table[''])}, and the groups {groups}"


def coerce(value: Any, kind: Any) -> Any:
    """`value` as the annotated type, or ValueError saying what would be right.

    Text from the command line is read as a Python literal; a whole number serves where
    a fraction is expected, and one number where a pair of equal ones or any count is.
    """
    inner = typing.get_args(kind)
    if isinstance(value, str) and kind is not str:
        value = literal(value)
    if typing.get_origin(kind) is tuple:
        return pair_or_more(value, inner)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < ENDS[kind] else math.inf
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        raise ValueError(f"{shown(value)} is not {KINDS[kind]}")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{shown(value)} is not text on one line")
    # Written so that a NaN, which compares false, is refused.
    if kind in ENDS and isinstance(value, int | float) and not abs(value) < ENDS[kind]:
        largest = "2^31" if kind is int else "3e38"
        raise ValueError(f"{shown(value)} is not a number below {largest}")
    return value


def literal(text: str) -> Any:
    """The Python literal that `text` is, with true and false; else the text."""
    named = {"true": True, "false": False}.get(text.lower())
    if named is not None:
        return named
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def pair_or_more(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    """`value` as a tuple of those types; (kind, ...) is any number of one kind."""
    free = inner[-1] is ...
    if len(inner) == 2 and type(value) in (int, float):
        value = (value,) if free else (value, value)
    kinds = (
        inner[:1] * len(value) if free and isinstance(value, list | tuple) else inner
    )
    if not isinstance(value, list | tuple) or len(kinds) != len(value):
        example = {int: "32", float: "0.5", str: "'a'"}[inner[0]]
        count = "a tuple" if free else f"{len(inner)} values"
        many = ", ".join([example] * (1 if free else len(inner)))
        raise ValueError(
            f"{shown(value)} is not {count} like ({many}{',' if free else ''})"
        )
    return tuple(coerce(v, k) for v, k in zip(value, kinds, strict=True))


def shown(value: Any) -> str:
    """A value in an error: on one line, and not too long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:
        # Python writes no whole numbers of thousands of digits.
        text = "a number that long"
    return text if len(text) <= 60 else f"{text[:57]}..."
