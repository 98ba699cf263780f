"""What was measured, as Markdown."""

from collections.abc import Sequence
from typing import Any

PARTS = {
    "process": "process",
    "import": "import",
    "config": "config",
    "state": "weights and batch",
    "trace": "trace",
    "compile": "compile",
    "first": "first update",
}


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is of names and all others of numbers."""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return [row(head), rule, *map(row, lines)]


def row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def of_machine(machine: dict[str, Any]) -> str:
    """What machine it was, in a sentence."""
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    device = "" if machine["platform"] == "cpu" else f"{machine['device']}; "
    memory = f"{machine['memory'] / 2**30:.0f} GiB"
    return f"{device}{machine['cpu']}, {machine['cores']} cores, {memory}; {versions}."


def of_step(found: dict[str, Any]) -> str:
    """The tables of a row."""
    names = {"ours": "ours", "peer": f"{found.get('kind')}, {found.get('way')}"}
    names = {side: name for side, name in names.items() if found[side]}
    sides = [found[f"{side}_found"] for side in names]
    lines = [
        ["images/s, median", *(f"{side['images']:.2f}" for side in sides)],
        ["images/s, best process", *(f"{side['best']:.2f}" for side in sides)],
        ["spread over processes", *(f"{side['spread']:.1%}" for side in sides)],
        ["TFLOP/s", *(f"{side['flops'] / 1e12:.3f}" for side in sides)],
        ["of the datasheet", *(share(side["mfu"]) for side in sides)],
        ["of the probe", *(share(side["of_probe"]) for side in sides)],
        ["images/s at 100 % of the probe", *(f"{found['limit']:.2f}" for _ in sides)],
        ["peak memory, GiB", *(f"{side['memory'] / 2**30:.2f}" for side in sides)],
    ]
    text = table(["", *names.values()], lines)
    tried = found.get("ways", {}).get(found.get("way"))
    runs = {
        "ours": found["ours"],
        "peer": [tried, *found["peer"]] if tried else found["peer"],
    }
    starts = {
        f"{side}, {what}": answer["start"]
        for side, answers in runs.items()
        for what, answer in zip(("cold", "compiled before"), answers, strict=False)
    }
    lines = [
        [
            name,
            *(f"{start[part]:.2f}" if part in start else "-" for part in PARTS),
            f"{sum(start.values()):.2f}",
        ]
        for name, start in starts.items()
    ]
    head = ["seconds to the first update", *PARTS.values(), "all"]
    return "\n".join([*text, "", *table(head, lines), "", *remarks(found)])


def share(number: float | None) -> str:
    """A share, where there is one."""
    return f"{number:.1%}" if number else "-"


def remarks(found: dict[str, Any]) -> list[str]:
    """What the numbers mean, a line each."""
    one = found["ours"][0]
    each = one["flops"] / one["batch"] / 1e9
    text = [f"{each:.2f} GFLOP an image, {one['dtype']}, batch {one['batch']}."]
    if one["apart"]:
        apart = one["apart"] / one["batch"] / 1e9
        text.append(
            f"A frozen tokenizer or teacher takes {apart:.2f} GFLOP more, not counted."
        )
    if "ratio" in found:
        middle, low, high = found["ratio"]
        text += [
            f"Ours is {middle:.3f} times as fast ({low:.3f} to {high:.3f}).",
            f"The first {len(one['losses'])} losses differ by at most "
            f"{found['loss_difference']:.2g} of themselves.",
        ]
    if found.get("alike"):
        changed = ", ".join(f"{name} ({was})" for name, was in found["alike"].items())
        text.append(f"Off on both sides: {changed}.")
    if "no_peer" in found:
        text.append(f"No peer: {found['no_peer']}.")
    for way, why in found.get("failed", {}).items():
        text.append(f"{way}: {why}")
    return text


ALL = (
    "row",
    "batch",
    "images/s",
    "spread",
    "TFLOP/s",
    "of datasheet",
    "of probe",
    "images/s at 100 % of probe",
    "peer",
    "peer's images/s",
    "ratio",
    "loss difference",
    "GiB, ours and peer",
    "first update after s, cold and warm",
)


def of_all(found: dict[str, dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table of all rows; one that has failed says why."""
    lines = [
        [name, f"failed: {one['error']}", *[""] * (len(ALL) - 2)]
        if "error" in one
        else [name, *cells(one)]
        for name, one in found.items()
    ]
    text = ["# Training steps", "", of_machine(machine), "", *table(ALL, lines)]
    for name, one in found.items():
        if "error" not in one:
            text += ["", f"## {name}", "", of_step(one)]
    return "\n".join(text)


def cells(one: dict[str, Any]) -> list[str]:
    """A row of the table of all."""
    ours, peer = one["ours_found"], one.get("peer_found")
    starts = [sum(answer["start"].values()) for answer in one["ours"][:2]]
    memory = [side["memory"] / 2**30 for side in (ours, peer) if side]
    found = [
        str(one["ours"][0]["batch"]),
        f"{ours['images']:.2f}",
        f"{ours['spread']:.1%}",
        f"{ours['flops'] / 1e12:.3f}",
        share(ours["mfu"]),
        share(ours["of_probe"]),
        f"{one['limit']:.2f}",
    ]
    if peer:
        middle, low, high = one["ratio"]
        found += [
            f"{one['kind']}, {one['way']}",
            f"{peer['images']:.2f}",
            f"{middle:.3f} ({low:.3f} to {high:.3f})",
            f"{one['loss_difference']:.2g}",
        ]
    else:
        found += ["none", "-", "-", "-"]
    found.append(", ".join(f"{size:.2f}" for size in memory))
    return [*found, ", ".join(f"{seconds:.1f}" for seconds in starts)]


def of_growth(found: dict[str, Any], machine: dict[str, Any]) -> str:
    """The tables of how cost grows."""
    text = ["# Growth", "", of_machine(machine)]
    for what, variants in found.items():
        if isinstance(variants, str):
            text += ["", f"{what}: failed: {variants}"]
            continue
        head = [
            what,
            "s an update",
            "spread",
            "times",
            "times the FLOPs",
            "times / times the FLOPs",
            "trace, s",
            "compile, s",
            "times",
        ]
        lines = [
            [
                one["name"],
                f"{one['seconds']:.3f}",
                f"{one['spread']:.1%}",
                f"{one['times_seconds']:.2f}",
                f"{one['times_flops']:.2f}",
                f"{one['share']:.0%}",
                f"{one['trace']:.1f}",
                f"{one['compile']:.1f}",
                f"{one['times_compile']:.2f}",
            ]
            for one in variants
        ]
        text += ["", *table(head, lines)]
    return "\n".join(text)
