"""The figures of a run at a glance."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mimjax.metrics import Record
from mimjax.report import curves
from mimjax.report.progress import duration

# What an exit status says of a run, and more of it.
ENDINGS = {
    0: ("done", ""),
    70: ("failed", "status 70"),
    74: ("storage failed", "status 74; the same command resumes"),
    75: ("stopped", "status 75; the same command resumes"),
    77: ("not finite", "status 77; a good checkpoint, if there is one, is kept"),
    78: ("ended early", "status 78"),
}
RECENT = 10  # log lines over which the last loss is averaged; of few a quarter


def at(tree: Any, dotted: str) -> Any:
    """The value at a dotted path of nested mappings, or None."""
    for key in dotted.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def seconds_of(run: Mapping[str, Any]) -> float | None:
    """From "started" to "finished", both ISO 8601; None where one is missing."""
    try:
        start, end = (datetime.fromisoformat(run[k]) for k in ("started", "finished"))
        return (end - start).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def figures(
    records: Sequence[Record], run: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """The figures at a glance: (name, value, remark)."""
    if run.get("status") in ENDINGS:
        how, more = ENDINGS[run["status"]]
        yield "ended", how, f"{more}: {why}" if (why := run.get("reason")) else more
    losses = curves.series(records, "loss")[1]
    losses = losses[np.isfinite(losses)]
    if len(losses):
        recent = losses[-min(RECENT, -(-len(losses) // 4)) :]
        first = f"from {losses[0]:.4f}, mean of the last {len(recent)} log lines"
        yield "loss", f"{recent.mean():.4f}", first
    for key in ("accuracy", "miou"):
        values = curves.series(records, f"eval/{key}")[1]
        if len(values):
            rates = curves.series(records, "eval/rate")[1]
            remark = f"at rate {rates[-1]:g}" if len(rates) else ""
            name = {"miou": "mean IoU"}.get(key, key)
            yield f"held-out {name}", f"{values[-1]:.1%}", remark
    if records:
        of = (
            f"of {total:,}"
            if (total := at(run, "steps") or at(config, "steps"))
            else ""
        )
        yield "steps", f"{max(r['step'] for r in records):,}", of
    # The first window holds what is slow only once.
    for key, name, form in (
        ("images_per_sec", "images per second", "{:,.0f}"),
        ("mfu", "MFU", "{:.1%}"),
        ("data_wait", "waiting for data", "{:.1%}"),
    ):
        values = [r[key] for r in records if r.get(key) is not None]
        if values:
            middle = statistics.median(values[1:] or values)
            small = key == "images_per_sec" and middle < 10
            yield name, ("{:.2f}" if small else form).format(middle), "median"
    seconds = seconds_of(run)
    if seconds is not None:
        resumes = len(run.get("resumes") or [])
        times = "once" if resumes == 1 else f"{resumes} times"
        remark = f"resumed {times}, pauses included" if resumes else ""
        yield "wall time", duration(seconds), remark
    total = at(run, "parameters.total")
    if total is not None:
        encoder = at(run, "parameters.encoder")
        remark = f"{_millions(encoder)} in the encoder" if encoder else ""
        yield "parameters", _millions(total), remark
    if run.get("devices"):
        yield "devices", str(run.get("device_count", "")), str(run["devices"])
    skipped = curves.series(records, "skipped")[1].max(initial=0)
    if skipped:
        yield "skipped steps", f"{skipped:,.0f}", "gradients were not finite"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count < 1e8 else f"{count / 1e6:,.0f} M"
