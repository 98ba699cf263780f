"""One row: a step of ours, and beside it that of a peer, in turn."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from mimjax.schema import ConfigError

# Updates whose losses are compared; the peer's masks repeat after as many.
CHECKED = 8
# Ways to run the peer, and their attention; the fastest is measured.
WAYS = ("eager-eager", "eager-sdpa", "compile-eager", "compile-sdpa")
# What heap.keep asks of the C library, but for huge pages, for a process that does not.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63 - 1)}

Answer = dict[str, Any]


class FailedError(Exception):
    """A measuring process has failed; the message is its last words."""


def ask(module: str, spec: dict[str, Any], **environment: str) -> Answer:
    """What a process of its own answers.

    Raises ConfigError where it found problems in the config, else FailedError.
    """
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
        raise FailedError(last_words(done.stderr) or f"status {done.returncode}")
    found = json.loads(lines[-1])
    if "problems" in found:
        raise ConfigError(found["problems"])
    return found


def last_words(text: str) -> str:
    """What a process died of: JAX adds a note of its own below the error."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:300]


def tell(text: str) -> None:
    """How far it is, to those who wait."""
    print(text, file=sys.stderr, flush=True)


def spec_of(
    config: str,
    changes: Sequence[tuple[str, str]],
    seconds: float,
    against: str = "",
    options: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the processes of a row are told."""
    return {
        "config": config,
        "changes": changes,
        "alike": bool(against),
        "options": options_of(options or {}),
        "checked": CHECKED,
        "seconds": seconds,
    }


def options_of(given: dict[str, str]) -> dict[str, Any]:
    """Options of XLA as JAX takes them: a text for all but what is true or false."""
    said = {"true": True, "false": False}
    return {name: said.get(value.lower(), value) for name, value in given.items()}


def measure(
    config: str,
    changes: Sequence[tuple[str, str]],
    *,
    against: str = "",
    options: dict[str, str] | None = None,
    ways: Sequence[str] = WAYS,
    rounds: int = 3,
    seconds: float = 10.0,
) -> Answer:
    """Measures a row, ours compiled with `options` of XLA; raises as `ask` does."""
    spec = spec_of(config, changes, seconds, against, options)
    row: Answer = {"command": [config, *changes], "ours": [], "peer": []}
    row["options"] = spec["options"]
    with tempfile.TemporaryDirectory() as name:
        spec["folder"] = str(pathlib.Path(name, "peer"))
        # The first process finds no compiled program there, and all others do.
        ours = {"JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(name, "cache"))}
        theirs = {**KEEP, "TORCHINDUCTOR_CACHE_DIR": str(pathlib.Path(name, "torch"))}
        if against:
            row |= ask("prepare", spec)
            if "no_peer" not in row:
                row |= fastest(ways, spec, theirs)
            if "no_peer" in row:  # then ours is what a run has
                spec["alike"] = False
                row.pop("alike", None)
        for number in range(rounds):
            row["ours"].append(ask("ours", spec, **ours))
            if "way" in row:
                asked = spec | split(row["way"])
                row["peer"].append(ask("peer", asked, **theirs))
            tell(f"round {number + 1} of {rounds}")
    return row | summary(row)


def split(way: str) -> dict[str, Any]:
    """One of WAYS as the peer is told it."""
    mode, _, attention = way.partition("-")
    return {"compile": mode == "compile", "attention": attention}


def fastest(
    ways: Sequence[str], spec: dict[str, Any], environment: dict[str, str]
) -> Answer:
    """Which way to run the peer is fastest in a third of the time, if any works."""
    found: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    for way in ways:
        asked = spec | split(way) | {"seconds": spec["seconds"] / 3}
        try:
            found[way] = ask("peer", asked, **environment)
            tell(f"{way}: {found[way]['median']:.3f} s")
        except FailedError as error:
            failed[way] = str(error)
            tell(f"{way}: {error}")
    row: Answer = {"ways": found, "failed": failed}
    if not found:
        return unable(failed)
    return row | {"way": min(found, key=lambda way: found[way]["median"])}


def unable(failed: dict[str, str]) -> Answer:
    """Why the peer runs none of these ways."""
    why = "; ".join(dict.fromkeys(failed.values()))
    if "ModuleNotFoundError" in why:
        why += ": pip install torch 'transformers>=5.23,<5.24'"
    return {"no_peer": f"no way to run it works ({why})"}


def summary(row: Answer) -> Answer:
    """What the rounds of a row come to."""
    one = row["ours"][0]
    sides = {side: row[side] for side in ("ours", "peer") if row[side]}
    probe = max(answer["probe"] for side in sides.values() for answer in side)
    images = one["batch"]
    found: Answer = {"limit": probe * images / one["flops"], "probe": probe}
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
