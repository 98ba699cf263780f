"""That the processes of a run were told to make the same one.

Else each would compute with numbers of its own, arrays that are the same everywhere by
their name would not be, and nothing would notice.
"""

import pathlib

from mimjax.config import Config
from mimjax.hosts.agree import everywhere, one_workdir, unlike
from mimjax.run.workdir import PLACED, flat, versions
from mimjax.schema import ConfigError

# What a host may have its own of: where things lie, and how much it does at once.
OWN = "data.tfds_dir", "data.workers", "data.prefetch", "profile.steps"
# Whose versions make a program what it is.
PROGRAMS = ("mimjax", "jax", "jaxlib")


def one_run(config: Config, folder: pathlib.Path) -> None:
    """Raises ConfigError, in every process, with what they were told differently."""
    one_workdir(folder)
    told = {n: value for n, value in flat(config.values).items() if n not in OWN}
    for name in ("data.source", "evaluate.source"):
        kind, _, _ = told[name].partition(":")
        told[name] = kind if kind in PLACED else told[name]
    for name, value in told.items():
        if name == "init_from" or name.startswith("objective."):  # by another path
            told[name] = pathlib.Path(value).name if isinstance(value, str) else value
    given = {f"config.{name}": value for name, value in told.items()}
    given |= {name: version for name, version in versions().items() if name in PROGRAMS}
    lines = [f"{n}: {given[n]!r} is not what all were told" for n in unlike(given)]
    if not everywhere(not lines):
        told_all = "start all processes by one command, of one installation"
        raise ConfigError([*lines, f"--distributed: {told_all}"])
