"""Sheets of what an encoder sees, drawn from numbers: one function a picture.

Images come as uint8 colours; titles end with what the caller says of the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from mimjax.report import heat, pictures

Images = UInt8[np.ndarray, "B H W 3"]
# Heads of a layer that are shown, evenly chosen.
HEADS = 16


def attention(
    images: Images,
    whole: Float[np.ndarray, "B A r c"],
    query: Float[np.ndarray, "B A r c"],
    place: tuple[int, int],
    path: Path,
    *,
    title: str,
    asks: str,
    elsewhere: int = 0,
) -> None:
    """A row for each head, and two columns for each image.

    Args:
      whole: the weights that the first column shows, `asks` says of what.
      query: those of the patch at `place`.
      elsewhere: how many tokens get weights beside the patches.
    """
    total, grid = whole.shape[1], whole.shape[2:]
    chosen = np.unique(np.linspace(0, total - 1, min(total, HEADS)).astype(int))
    size = heat.cell_size(images, 2 * len(images))
    shown = heat.sized(images, size)
    columns, captions = [], []
    for maps, top in ((whole, shown), (query, heat.marked(shown, grid, place))):
        maps = np.concatenate([maps.mean(axis=1, keepdims=True), maps[:, chosen]], 1)
        most = maps.max(axis=(2, 3))
        colours = heat.colours(maps / np.maximum(most, 1e-12)[..., None, None], size)
        rows = [heat.over(shown, row) for row in colours.swapaxes(0, 1)]
        columns.append(np.stack([top, *rows]))
        captions.append(most.T)
    cells = np.stack(columns, axis=2).reshape(-1, 2 * len(images), *size, 3)
    # The weights in each window sum to one.
    windows = max(1, round(float(whole[0, 0].sum())))
    low, strip, high = heat.bar("0", "largest of the map")
    numbers = np.stack(captions, axis=2).reshape(-1, 2 * len(images))
    pictures.lay(
        cells,
        path,
        title=title,
        note="Weights over the image in grey, each map up to its largest, which is "
        "printed beneath; spread evenly they were "
        f"{windows / (np.prod(grid) + elsewhere):.3g}.",
        heads=[asks, "framed patch"] * len(images),
        labels=["", "mean", *(f"head {n + 1}" for n in chosen)],
        captions=[
            [""] * cells.shape[1],
            *([f"{x:.3g}" for x in row] for row in numbers),
        ],
        bar=(low, heat.over(np.zeros_like(strip)[None], strip[None])[0], high),
    )


def components(
    images: Images,
    values: Float[np.ndarray, "B r c 3"],
    shares: Float[np.ndarray, " 3"],
    path: Path,
    *,
    title: str,
) -> None:
    """A column for each image: itself, three components as colours, and each alone.

    Args:
      values: the components, from 0 to 1.
      shares: of the variance.
    """
    size = heat.cell_size(images, len(images))
    mixed = np.stack([heat.grid(values[..., n], size) for n in range(3)], axis=-1)
    rows = [heat.sized(images, size), np.rint(255 * mixed).astype(np.uint8)]
    rows += [heat.colours(values[..., n], size, "viridis") for n in range(3)]
    names = ("1st", "2nd", "3rd")
    pictures.lay(
        np.stack(rows),
        path,
        title=title,
        note="Fitted to the patches of all these images together; red, green and blue "
        "are the first three. The share of the variance stands beside each.",
        labels=["", "colours", *map("{} {:.0%}".format, names, shares)],
        bar=heat.bar("2nd percentile", "98th", "viridis"),
    )


def neighbours(
    images: UInt8[np.ndarray, "n H W 3"],
    asked: Int[np.ndarray, " q"],
    nearest: Int[np.ndarray, "q k"],
    cosines: Float[np.ndarray, "q k"],
    names: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """A row for each image asked about, and those nearest to it beside it.

    Args:
      names: the class of every image, empty where it has none.
    """
    rows = np.concatenate([asked[:, None], nearest], axis=1)
    size = heat.cell_size(images, rows.shape[1])
    cells = [heat.sized(images[row], size) for row in rows]
    classes = [f" ({name})" if name else "" for name in names]
    captions = [
        [
            names[first],
            *(f"{c:.3f}{classes[n]}" for n, c in zip(row, line, strict=True)),
        ]
        for first, row, line in zip(asked, nearest, cosines, strict=True)
    ]
    pictures.lay(
        np.stack(cells),
        path,
        title=title,
        note="Cosines of features are printed beneath"
        + (" (and classes)." if any(names) else "."),
        heads=["image", *map(str, range(1, rows.shape[1]))],
        captions=captions,
    )


def losses(
    panels: Mapping[str, Images],
    values: Float[np.ndarray, "B r c"],
    path: Path,
    *,
    title: str,
    note: str,
) -> None:
    """A row for each image: the panels, and the loss at every patch, NaN for none."""
    low, high = np.nanmin(values), np.nanpercentile(values, 98)
    first = next(iter(panels.values()))
    size = heat.cell_size(first, len(panels) + 1)
    columns = [heat.sized(images, size) for images in panels.values()]
    scaled = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    columns.append(heat.colours(scaled, size))
    blank = [""] * len(panels)
    means = [
        f"mean {np.nanmean(x):.3g}" if np.isfinite(x).any() else "" for x in values
    ]
    pictures.lay(
        np.stack(columns, axis=1),
        path,
        title=title,
        note=f"Grey: nothing is predicted. {note[:1].upper()}{note[1:]}.",
        heads=[*panels, "loss of each patch"],
        captions=[[*blank, mean] for mean in means],
        bar=heat.bar(f"{low:.3g}", f"{high:.3g} and more"),
    )


def ratios(
    panels: Mapping[float, Mapping[str, Images]], path: Path, *, title: str, note: str
) -> None:
    """The original and, for each share hidden, what is seen and what is made of it."""
    columns, heads = {}, []
    for share, shown in panels.items():
        names = [*shown]
        columns |= {"original": shown[names[0]]}
        columns |= {(share, name): shown[name] for name in (names[1], names[-1])}
        heads += [f"{share:.0%} hidden", "predicted"]
    size = heat.cell_size(columns["original"], len(columns))
    cells = [heat.sized(images, size) for images in columns.values()]
    pictures.lay(
        np.stack(cells, axis=1),
        path,
        title=title,
        note=f"{note[:1].upper()}{note[1:]}.",
        heads=["original", *heads],
    )
