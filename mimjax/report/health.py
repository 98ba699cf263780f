"""A figure of what goes on in the layers of an encoder, first and last."""

from collections.abc import Sequence
from pathlib import Path

from mimjax.metrics import Record
from mimjax.report import curves

# What is measured in each layer, and what it is called.
MEASURES = {
    "eval/health/norm_": "length of a token",
    "eval/health/attention_distance_": "attention distance (pixels)",
}


def depth_curves(records: Sequence[Record], path: Path) -> str:
    """Draws what is measured in each layer against the depth to a PNG at `path`.

    The first evaluation is dotted, the last a line.

    Returns:
      What is to be said of it; empty, with nothing drawn, where nothing is measured.
    """
    from matplotlib import ticker

    found = [r for r in records if any(key.startswith(tuple(MEASURES)) for key in r)]
    if not found:
        return ""
    drawn = [(found[-1], "o-", "#1f5fa8")]
    if len(found) > 1:
        drawn.insert(0, (found[0], "o:", "#d9822b"))
    figure = curves._figure(2.8)
    panels = figure.subplots(1, len(MEASURES))
    for axes, (prefix, name) in zip(panels, MEASURES.items(), strict=True):
        for record, style, colour in drawn:
            keys = [key for key in record if key.startswith(prefix)]
            values = {int(key.removeprefix(prefix)): float(record[key]) for key in keys}
            layers, label = sorted(values), f"step {record['step']:,}"
            heights = [values[layer] for layer in layers]
            axes.plot(layers, heights, style, color=colour, ms=3, lw=1.3, label=label)
        curves._tidy(axes, name)
        axes.set_xlabel("layer")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.margins(x=0.03)
        # There is no layer 2.5, and every fourth is easier to read than every third.
        whole = ticker.MaxNLocator(12, integer=True, steps=[1, 2, 4, 10], min_n_ticks=1)
        axes.xaxis.set_major_locator(whole)
    panels[0].legend(frameon=False)
    curves._save(figure, path)
    ranks = curves.series(records, "eval/rankme")[1]
    told = " to ".join(f"{rank:.1f}" for rank in [*ranks[:1], *ranks[1:][-1:]])
    return f"Inside the encoder; rank of its features (RankMe) {told}"
