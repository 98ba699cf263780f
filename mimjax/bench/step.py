"""One row: a step of ours, and beside it that of a peer, in turn."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

# Updates whose losses are compared; the peer's masks repeat after as many.
CHECKED = 8
# Ways to run the peer, and their attention; the fastest is measured.
WAYS = ("eager-eager", "eager-sdpa", "compile-eager", "compile-sdpa")
# What setup.keep_memory asks of the C library, for a process that does not call it.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

Answer = dict[str, Any]


class FailedError(Exception):
    """A measuring process has failed; the message is its last words."""


def ask(module: str, spec: dict[str, Any], **environment: str) -> Answer:
    """What a process of its own answers."""
    spec = {**spec, "spawned": time.time()}
    command = [sys.executable, "-m", f"mimjax.bench.{module}", json.dumps(spec)]
    done = subprocess.run(
        command,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise FailedError(words[-1] if words else f"status {done.returncode}")
    return json.loads(lines[-1])


def measure(
    config: str,
    changes: list[tuple[str, str]],
    *,
    against: str = "",
    ways: Sequence[str] = WAYS,
    rounds: int = 3,
    seconds: float = 10.0,
    say: Any = print,
) -> Answer:
    """Measures a row; FailedError where that is not possible."""
    spec = {
        "config": config,
        "changes": changes,
        "alike": bool(against),
        "checked": CHECKED,
        "time": seconds,
    }
    row: Answer = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as name:
        spec["folder"] = str(pathlib.Path(name, "peer"))
        # The first process finds no compiled program there, and all others do.
        ours = {"JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(name, "cache"))}
        theirs = {**KEEP, "TORCHINDUCTOR_CACHE_DIR": str(pathlib.Path(name, "torch"))}
        peer: dict[str, Any] | None = None
        if against:
            found = ask("prepare", spec)
            row |= found
            if "no_peer" not in found:
                peer = fastest(ways, spec, theirs, row, say)
        for number in range(rounds):
            row["ours"].append(ask("ours", spec, **ours))
            if peer:
                row["peer"].append(ask("peer", {**spec, **peer}, **theirs))
            say(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return row | summary(row)


def fastest(
    ways: Sequence[str],
    spec: dict[str, Any],
    environment: dict[str, str],
    row: Answer,
    say: Any,
) -> dict[str, Any] | None:
    """The way to run the peer that is fastest in a third of the time; None if none."""
    found, row["ways"] = {}, {}
    for name in ways:
        mode, _, attention = name.partition("-")
        way = {"compile": mode == "compile", "attention": attention}
        try:
            asked = {**spec, **way, "time": spec["time"] / 3}
            answer = ask("peer", asked, **environment)
            found[answer["median"]] = name, way
            row["ways"][name] = {k: answer[k] for k in ("median", "losses", "start")}
            say(f"{name}: {answer['median']:.3f} s", file=sys.stderr, flush=True)
        except FailedError as error:
            row["ways"][name] = {"failed": str(error)}
            say(f"{name}: {error}", file=sys.stderr, flush=True)
    if not found:
        row["no_peer"] = "none of the ways to run it works"
        return None
    row["way"], way = found[min(found)]
    return way


def summary(row: Answer) -> Answer:
    """What the rounds of a row come to."""
    one = row["ours"][0]
    sides = {side: row[side] for side in ("ours", "peer") if row[side]}
    probe = max(answer["probe"] for side in sides.values() for answer in side)
    images = one["batch"]
    found: Answer = {"limit": probe / (one["flops"] / images), "probe": probe}
    for side, answers in sides.items():
        medians = [answer["median"] for answer in answers]
        median = statistics.median(medians)
        rate = one["flops"] / median
        found[f"{side}_found"] = {
            "images": images / median,
            "best": images / min(medians),
            "spread": (max(medians) - min(medians)) / median,
            "flops": rate,
            "mfu": rate / one["peak"] if one["peak"] else None,
            "of_probe": rate / probe,
            "memory": max(answer["memory"] for answer in answers),
        }
    if row["peer"]:
        pairs = list(zip(row["ours"], row["peer"], strict=True))
        ratios = [b["median"] / a["median"] for a, b in pairs]
        found["ratio"] = statistics.median(ratios), min(ratios), max(ratios)
        found["loss_difference"] = max(
            abs(a - b) / abs(b)
            for a, b in zip(one["losses"], row["peer"][0]["losses"], strict=True)
        )
    return found
