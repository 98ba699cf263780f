"""What was measured, as Markdown."""

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


def of_step(row: dict[str, Any]) -> str:
    """The tables of a row."""
    sides = [side for side in ("ours", "peer") if row[side]]
    names = {"ours": "ours", "peer": f"{row.get('kind')} ({row.get('way')})"}
    found = {side: row[f"{side}_found"] for side in sides}
    lines = [
        f"| | {' | '.join(names[side] for side in sides)} |",
        "|---|" + "---:|" * len(sides),
    ]

    def add(what: str, told: Any) -> None:
        lines.append(f"| {what} | {' | '.join(told(found[s]) for s in sides)} |")

    add("images/s, median", lambda f: f"{f['images']:.2f}")
    add("images/s, best process", lambda f: f"{f['best']:.2f}")
    add("spread over processes", lambda f: f"{f['spread']:.1%}")
    add("TFLOP/s", lambda f: f"{f['flops'] / 1e12:.3f}")
    add("of the datasheet", lambda f: f"{f['mfu']:.1%}" if f["mfu"] else "-")
    add("of the probe", lambda f: f"{f['of_probe']:.1%}")
    add("images/s at 100 % of the probe", lambda f: f"{row['limit']:.2f}")
    add("peak memory, GiB", lambda f: f"{f['memory'] / 2**30:.2f}")
    starts = {"start, cold": row["ours"][0]["start"]}
    if len(row["ours"]) > 1:
        starts["start, compiled before"] = row["ours"][1]["start"]
    if row["peer"]:
        starts["start of the peer, cold"] = row["ways"][row["way"]]["start"]
        starts["start of the peer, warm"] = row["peer"][0]["start"]
    lines += ["", f"| seconds | {' | '.join(PARTS.values())} | all |"]
    lines.append("|---|" + "---:|" * (len(PARTS) + 1))
    for name, start in starts.items():
        told = [f"{start[p]:.2f}" if p in start else "-" for p in PARTS]
        lines.append(f"| {name} | {' | '.join(told)} | {sum(start.values()):.2f} |")
    lines.append("")
    if "ratio" in row:
        middle, low, high = row["ratio"]
        lines.append(f"Ours is {middle:.3f} times as fast ({low:.3f} to {high:.3f}).")
        lines.append(
            f"Largest relative difference of the first {len(row['ours'][0]['losses'])} "
            f"losses: {row['loss_difference']:.2g}."
        )
    if "no_peer" in row:
        lines.append(f"No peer: {row['no_peer']}.")
    return "\n".join(lines)
