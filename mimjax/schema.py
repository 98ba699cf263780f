"""Reading a config file, and values as the types a dataclass declares."""

import ast
import dataclasses
import difflib
import importlib.util
import math
import pathlib
import types
import typing
from typing import Any

import ml_collections


class ConfigError(Exception):
    """A configuration that cannot work; `problems` has one line for each reason."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


Schema = dict[str, tuple[Any, Any]]  # field -> (annotation, default)


def schema_of(cls: Any, leave_out: tuple[str, ...] = ()) -> Schema:
    """The fields of a dataclass or Flax module, with their types and defaults."""
    hints = typing.get_type_hints(cls)
    return {
        f.name: (hints[f.name], f.default)
        for f in dataclasses.fields(cls)
        if f.init and f.name not in (*leave_out, "parent", "name")
    }


def load(path: str) -> ml_collections.ConfigDict:
    """Runs `get_config` of the file `path`; "FILE:ARGUMENT" passes it an argument."""
    file, _, argument = path.partition(":")
    if not pathlib.Path(file).is_file():
        near = difflib.get_close_matches(
            pathlib.Path(file).stem, [f.stem for f in pathlib.Path("configs").glob("*.py")]
        )
        hint = f" (did you mean configs/{near[0]}.py?)" if near else ""
        raise ConfigError([f"--config: there is no file {file}{hint}"])
    spec = importlib.util.spec_from_file_location("mimjax_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError([f"--config: {file} is not a Python file (*.py)"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        config = get_config(argument) if argument else get_config()
    except Exception as error:
        frame = traceback_line(error, file)
        raise ConfigError(
            [f"--config: {file}{frame}: {type(error).__name__}: {error}"]
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError([f"--config: get_config of {file} must return a ConfigDict"])
    return config


def traceback_line(error: BaseException, file: str) -> str:
    """", line n" where the error passed through that file."""
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            line = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = f", line {error.lineno}"
    return line


def coerce(value: Any, kind: Any) -> Any:
    """`value` as the annotated type, or ValueError saying what would be right.

    Text from the command line is read as a Python literal; a whole number serves where a
    fraction is expected, and one number where a pair of equal ones is.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            named = {"true": True, "false": False}.get(value.lower())
            value = value if named is None else named
    if origin is tuple:
        pair = len(inner) == 2 and inner[1] is not ...
        if pair and isinstance(value, int | float) and not isinstance(value, bool):
            value = (value, value)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a tuple")
        kinds = inner if inner[-1] is not ... else (inner[0],) * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{value!r} must have {len(kinds)} values")
        return tuple(coerce(v, k) for v, k in zip(value, kinds, strict=True))
    if origin in (types.UnionType, typing.Union):
        for one in inner:
            try:
                return coerce(value, one)
            except ValueError:
                continue
        raise ValueError(f"{value!r} is none of {', '.join(map(str, inner))}")
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        name = {"int": "a whole number", "float": "a number", "bool": "True or False"}
        raise ValueError(f"{value!r} is not {name.get(kind.__name__, 'text')}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value
