"""The process that measures a model of transformers; it does not import JAX."""

import itertools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, cast

from mimjax.bench import child

# What may decay beside matrices, by our names.
ALSO = {
    "cls_token": "cls_token",
    "mask_token": "mask_token",
    "pos_embed": "position_embeddings",
    "relative_table": "relative_position_bias_table",
}


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Loads what was prepared and updates for a while."""
    laps = child.Laps(spec["spawned"])
    # It is built for other PyTorches here and there, and nothing needs it.
    sys.modules.setdefault("torchvision", cast(Any, None))
    import numpy as np
    import torch
    import transformers

    laps.end("import")
    folder = pathlib.Path(spec["folder"])
    facts = json.loads((folder / "facts.json").read_text())
    device = "cuda" if facts["platform"] == "gpu" else "cpu"
    kind = getattr(transformers, facts["kind"])
    config = transformers.AutoConfig.from_pretrained(folder)
    model, optimiser = load(folder, facts, kind, config, spec["attention"])
    model.to(device)
    given = {
        name: torch.from_numpy(array).to(device)
        for name, array in np.load(folder / "batch.npz").items()
    }
    laps.end("state")
    forward = torch.compile(model) if spec["compile"] else model
    update = training(forward, optimiser, given, facts, device)

    def marked() -> Any:
        update()
        event = torch.cuda.Event() if device == "cuda" else None
        if event:
            event.record()
        return event

    losses = [update().item()]
    laps.end("first")
    losses += [update().item() for _ in range(spec["checked"] - 1)]
    times = child.paced(
        marked, lambda e: e and e.synchronize(), spec["seconds"], device
    )
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        **times,
        "start": laps.seconds,
        "losses": losses,
        "memory": memory or child.resident(),
        "probe": probe(torch, getattr(torch, facts["dtype"]), device),
    }


def training(
    forward: Any, optimiser: Any, given: Any, facts: dict[str, Any], device: str
) -> Callable[[], Any]:
    """The update, each with the masks and the rate of its number; it gives the loss."""
    import torch

    mean, std = (
        torch.tensor(facts[name], device=device)[:, None, None]
        for name in ("mean", "std")
    )
    half = torch.autocast(device, torch.bfloat16, enabled=facts["dtype"] == "bfloat16")
    numbers, last = itertools.count(), len(facts["rates"]) - 1
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]

    def update() -> Any:
        number = next(numbers)
        for group in optimiser.param_groups:
            group["lr"] = facts["rates"][min(number, last)]
        image = (given["image"].permute(0, 3, 1, 2) / 255 - mean) / std
        taken = inputs(given, facts["takes"], number % (last + 1))
        with half:
            loss = forward(image, **taken).loss
        optimiser.zero_grad()
        loss.backward()
        if facts["clip"]:
            torch.nn.utils.clip_grad_norm_(weights, facts["clip"])
        optimiser.step()
        return loss.detach()

    return update


def load(
    folder: pathlib.Path, facts: dict[str, Any], kind: Any, config: Any, attention: str
) -> tuple[Any, Any]:
    """The model with the weights of the folder, and its optimiser."""
    import torch

    # Some say nothing of it in their configuration, and drop by default.
    for name in (
        "drop_path_rate",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
    ):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model, told = kind.from_pretrained(
        folder,
        config=config,
        attn_implementation=attention,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if any(told.values()):
        raise ValueError(f"it did not take the weights as they are: {told}")
    for name in facts["fixed"]:
        # Loading makes them trained.
        model.get_parameter(name).requires_grad_(False)
    if facts["remat"]:
        model.gradient_checkpointing_enable()
    model.train()
    also = tuple(ALSO[name] for name in facts["decay_also"])
    decays, rest = [], []
    for module in model.modules():
        matrix = isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        for name, weight in module.named_parameters(recurse=False):
            if weight.requires_grad:
                decaying = (matrix and name == "weight") or name in also
                (decays if decaying else rest).append(weight)
    count = sum(weight.numel() for weight in decays)
    if count != facts["decayed"]:
        raise ValueError(f"{count} numbers decay, not {facts['decayed']}")
    o = facts["optim"]
    groups = [{"params": decays}, {"params": rest, "weight_decay": 0.0}]
    betas = o["b1"], o["b2"]
    return model, torch.optim.AdamW(
        groups, betas=betas, eps=o["eps"], weight_decay=o["decay"], fused=True
    )


def inputs(given: dict[str, Any], takes: list[str], row: int) -> dict[str, Any]:
    """What the model is handed beside the images."""
    if "noise" in takes:
        return {"noise": given["noise"][row]}
    if "label" in takes:
        return {"labels": given["label"].long()}
    hidden = given["hidden"][row]
    found = {"bool_masked_pos": hidden}
    if "tokens" in takes:
        found["labels"] = given["tokens"].long()[hidden]
    return found


def probe(torch: Any, dtype: Any, device: str) -> float:
    """FLOP/s of products of two large matrices."""
    side = child.SIDES["gpu" if device == "cuda" else "cpu"]
    left, right = (
        torch.randn((side, side), device=device, dtype=dtype) for _ in range(2)
    )

    def product() -> None:
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    return child.probed(product, side)


if __name__ == "__main__":
    child.main(measure)
