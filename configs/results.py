"""MAE, SimMIM, BEiT and AIM: what their encoders are worth, on digits or letters.

    python -m mimjax.study --config=configs/results.py --workdir=runs/results
    python -m mimjax.study --config=configs/results.py:letters --workdir=runs/letters

Hardware: two CPU cores. Time: some 45 minutes. Expected: as in docs/results.md.
All encoders have 4 layers of width 128 and 4 heads and see as many images. That of AIM
is as its paper has it, the others are one ViT; "untrained" is it before it learns, read
where MAE is, and, fine-tuned, training from scratch. Rates, masks and the layers that
probes read are the quickstarts'. SEEDS are of fine-tuning: a method is pretrained once.
"""

import itertools
from typing import Any

BATCH, STEPS, TOKENIZER_STEPS, PROBE_STEPS, TUNE_STEPS = 32, 1600, 500, 300, 400
TUNE_RATE, SEEDS = 1e-3, (0, 1, 2)
PROBE_RATES = 5e-3, 1e-2, 2e-2  # the best on held-out images counts, as in AIM's paper
CLASSES = {"digits": 10, "letters": 26}

AIM = {
    "encoder.depth": 4,
    "encoder.cls": False,
    "encoder.bias": False,
    "encoder.patch_norm": True,
    "encoder.qkv_bias": "none",
    "encoder.start": "aim",
}
EARLY = {"evaluate.layers": (1,)}  # the last layers decode
# The config of each method, none of what learns from scratch, and further fields.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("configs/quickstart.py", {}),
    "simmim": ("configs/quickstart_simmim.py", EARLY),
    "beit": ("configs/quickstart_beit.py", EARLY),
    "aim": ("configs/quickstart_aim.py", AIM),
    "untrained": ("", {}),
    "aim_untrained": ("", AIM),
}
TABLE = {
    "loss": ("pretrain", "eval/loss"),  # of what each method predicts
    "kNN": ("attentive", "eval/knn"),
    "linear": ("attentive", "eval/linear"),
    "attentive": ("attentive", "eval/accuracy"),
    "fine-tuned": ("finetune", "eval/accuracy"),
}


def of(steps: int) -> dict[str, Any]:
    """A length; judged and saved at its end."""
    return {"steps": steps, "eval_every": steps, "checkpoint_every": steps}


def get_study(source: str = "digits") -> dict[str, tuple[str, dict[str, Any]]]:
    study, images = {}, {"data.source": source}
    labels = {**images, "objective.num_classes": CLASSES[source]}
    tokenizer = {**of(TOKENIZER_STEPS), **images}
    study["beit/tokenizer"] = "configs/quickstart_tokenizer.py", tokenizer
    fields = {"encoder.unroll": 0, "evaluate.pool": "max"}
    for method, (config, own) in METHODS.items():
        changes = {**of(STEPS), **images, **fields, **own, "batch_size": BATCH}
        changes["picture_every"] = STEPS
        if method == "beit":
            changes["objective.tokenizer"] = "@beit/tokenizer"
        if config:
            study[f"{method}/pretrain"] = config, changes
    for method, (config, own) in METHODS.items():
        start = f"@{method}/pretrain" if config else ""
        changes = {**of(PROBE_STEPS), **labels, **fields, **own, "init_from": start}
        changes["optim.rates"] = PROBE_RATES
        study[f"{method}/attentive"] = "configs/quickstart_attentive.py", changes
    for seed, (method, (config, own)) in itertools.product(SEEDS, METHODS.items()):
        start = f"@{method}/pretrain" if config else ""
        changes = {**of(TUNE_STEPS), **labels, **fields, **own, "init_from": start}
        changes |= {"seed": seed, "batch_size": BATCH, "optim.base_lr": TUNE_RATE}
        changes["evaluate.train_images"] = 0
        if not config:  # layers that were never trained are not held back
            changes["optim.layer_decay"] = 1.0
        name = f"{method}/finetune/seed{seed}"
        study[name] = "configs/quickstart_finetune.py", changes
    return study
