"""One paper, one file: what is hidden, what is predicted, what the loss is.

The file name is the registry: `objective.name = "mae"` is `mimjax/objectives/mae.py`. A
file holds a Flax module `Objective` whose fields are its hyper-parameters with the
paper's values, whose backbone is the field `encoder`, annotated with the encoders it
takes (`encoder_note` says why no others), and whose call takes a batch to (loss,
metrics): "image" float32 [B, H, W, C] normalised, "pixels" the same from 0 to 1,
"label" int32 [B], in training "step", the updates made before, and where the property
`view_size` asks for one "view", the same crop at that size from 0 to 1, and where the
property `mask_values` does, as how many classes there may be, "mask" uint8 [B, H, W],
the class of every pixel or IGNORED. A field of type `frozen.Model` is another run's
model. Variables of the collection MOVING are changed by the call itself in training,
where the caller lets it. Random draws come from the streams "mask", "drop" and "mix".
Out of training a metric may be an array; `summary` then makes the held-out metrics of
the means of all batches. `panels`, where there is one, returns the columns of a picture
sheet, normalised images by name, or pixels where `draws_pixels` says so, and
`panel_note` what to print beneath; `legend`, where their colours are classes, those of
the columns by the number of the class. `patch_losses`, where there is one, returns from
a batch the loss at every token that comes out of the encoder [B, N], row by row, NaN
where nothing is predicted; the mean of the others is the loss. A classifier has
`logits`, which takes normalised images to scores, float32 [B, V], of its `num_classes`;
an export has it too, and a grid of rates, which is judged by the metric "accuracy".
What has `num_classes` takes samples of no class, whose label is -1 and whose mask is
IGNORED, and sums nothing for them. The property `in_pairs` says that a batch has to be
even. `problems()` lists what cannot work, one line each, as "field: why", naming every
field it depends on.
"""

import importlib
import pathlib
from typing import Any

# The collection of variables that a call in training changes, without a gradient.
MOVING = "moving"
# What a mask says of a pixel of which nothing is known.
IGNORED = 255


def names() -> list[str]:
    """The objectives there are."""
    folder = pathlib.Path(__file__).parent
    return sorted(f.stem for f in folder.glob("*.py") if f.stem != "__init__")


def load(name: str) -> Any:
    """The `Objective` class of a name in `names()`."""
    return importlib.import_module(f"mimjax.objectives.{name}").Objective
