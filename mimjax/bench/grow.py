"""How cost grows, beside how the number of FLOPs does: ours alone."""

import pathlib
import statistics
import tempfile
from typing import Any

from mimjax.bench import rows, step


def measure(
    variants: list[rows.Row], *, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Measures the variants in turn; each beside the first of them."""
    answers: dict[str, list[step.Answer]] = {row.name: [] for row in variants}
    with tempfile.TemporaryDirectory() as name:
        # Cold in the first round, like a row of its own.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(name, "cache"))}
        for number in range(rounds):
            for row in variants:
                spec = step.spec_of(row.path, row.changes, seconds)
                answers[row.name].append(step.ask("ours", spec, **cache))
            step.tell(f"round {number + 1} of {rounds}")
    found = []
    for row in variants:
        medians = [answer["median"] for answer in answers[row.name]]
        one = answers[row.name][0]
        median, compiled = statistics.median(medians), one["start"]["compile"]
        first = found[0] if found else None
        here = {
            "name": row.name,
            "seconds": median,
            "spread": (max(medians) - min(medians)) / median,
            "flops": one["flops"],
            "compile": compiled,
            "trace": one["start"]["trace"],
        }
        for what in ("seconds", "flops", "compile"):
            here[f"times_{what}"] = here[what] / first[what] if first else 1.0
        # 1 where the time grows as the FLOPs do.
        here["share"] = here["times_seconds"] / here["times_flops"]
        found.append(here)
    return found
