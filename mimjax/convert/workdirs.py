"""Another project's model as a workdir, and as what a run starts from."""

import contextlib
import pathlib
from typing import Any

from mimjax.convert import own, writing
from mimjax.convert.files import BadFileError, told
from mimjax.convert.parts import Converted
from mimjax.convert.plain import together
from mimjax.convert.weights import of_arrays
from mimjax.objectives import MOVING
from mimjax.origins import Origin, of_workdir, put
from mimjax.run.workdir import write
from mimjax.settings import CONVERTED, PARAMS, holds_model
from mimjax.trees import Leaves, nested


def origin(found: Converted) -> Origin:
    """What a run starts from."""
    there = {place: part.like for place, part in found.parts.items()}
    moving = nested({n: x for n, x in there.items() if n[0] == MOVING}).get(MOVING, {})

    def load(wanted: Leaves) -> Leaves:
        return {place: put(found.read(place), like) for place, like in wanted.items()}

    own = {n: x for n, x in there.items() if n[0] != MOVING}
    return Origin(str(found.path), own, moving, load, found.config.encoder, found.how)


def origin_of(source: pathlib.Path, encoder: Any) -> Origin:
    """What `init_from` names, for a run with that encoder.

    Raises BadFileError or StorageError, one line.
    """
    if holds_model(str(source)):
        return of_workdir(source)
    # How many heads share the weights of attention most files do not tell.
    heads = getattr(encoder, "heads", None)
    said = told(source)
    told_there = "num_attention_heads" in said or own.NAME in said
    says = isinstance(heads, int) and not told_there
    # Of a width that these do not divide by its own heads, or by one where these are
    # not known either: the width is told then. An encoder of another kind may have no
    # such field, and fit nothing: its kind is the reason.
    tries = (("encoder.heads", str(heads)),), (), (("encoder.heads", "1"),)
    # Read before, for what is wrong with the file no heads mend.
    arrays = together([source])
    for changes in tries if says else ():
        with contextlib.suppress(BadFileError):
            return origin(of_arrays(source, arrays, said, changes=changes))
    return origin(of_arrays(source, arrays, said))


def save(found: Converted, workdir: pathlib.Path) -> None:
    """Writes a workdir that a run starts from, or builds on.

    The parameters last, which make it one; where that fails nothing is left.
    """
    places = {"/".join(place): place for place in found.parts}
    shapes = {name: found.parts[place].like for name, place in places.items()}
    kept = {"layout": found.layout, "resize": found.how, "missing": found.missing}
    with writing.filling(workdir):
        write(workdir / "config.json", found.config.values)
        write(workdir / CONVERTED, {**kept, "unexpected": found.unexpected})
        writing.write(workdir / PARAMS, shapes, lambda name: found.read(places[name]))
