"""MAE, AIM, SimMIM and BEiT: what their encoders are worth, on digits or letters.

    python -m mimjax.study --config=configs/results.py --workdir=runs/results
    python -m mimjax.study --config=configs/results.py:letters --workdir=runs/letters

Hardware: two CPU cores. Time: an hour. Expected: as in docs/results.md.
All encoders have 4 layers of width 128 with 4 heads and see as many images; what else
differs between the papers' encoders stays as each has it, and so do rates, masks, and
layer and pool of kNN and linear probe. SEEDS are those of fine-tuning: pretraining is
one run a method. "random" is the encoder before it.
"""

import itertools
from typing import Any

BATCH, STEPS, TOKENIZER_STEPS, PROBE_STEPS, TUNE_STEPS = 32, 1600, 500, 300, 400
TUNE_RATE, SEEDS = 1e-3, (0, 1, 2)
PROBE_RATES = 5e-3, 1e-2, 2e-2  # the best on held-out images counts, as in AIM's paper
CLASSES = {"digits": 10, "letters": 26}

AIM = {"depth": 4, "cls": False, "bias": False, "patch_norm": True, "start": "aim"}
BEIT = {"position": "relative", "layer_scale": 0.1, "start": "beit"}
# The config of each method, and its encoder's fields beside width and heads.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("configs/quickstart.py", {}),
    "aim": ("configs/quickstart_aim.py", {**AIM, "qkv_bias": "none"}),
    "simmim": ("configs/quickstart_simmim.py", {}),
    "beit": ("configs/quickstart_beit.py", {**BEIT, "qkv_bias": "qv"}),
}
TABLE = {
    "loss": ("pretrain", "eval/loss"),  # of what each method predicts
    "kNN": ("pretrain", "eval/knn"),
    "random kNN": ("random", "eval/knn"),
    "linear": ("pretrain", "eval/linear"),
    "random linear": ("random", "eval/linear"),
    "attentive": ("attentive", "eval/accuracy"),
    "random attentive": ("random", "eval/accuracy"),
    "fine-tuned": ("finetune", "eval/accuracy"),
    "from scratch": ("scratch", "eval/accuracy"),
}


def of(steps: int) -> dict[str, Any]:
    """A length; judged and saved at its end."""
    return {"steps": steps, "eval_every": steps, "checkpoint_every": steps}


def get_study(source: str = "digits") -> dict[str, tuple[str, dict[str, Any]]]:
    study, images = {}, {"data.source": source}
    labels = {**images, "objective.num_classes": CLASSES[source]}
    tokenizer = {**of(TOKENIZER_STEPS), **images}
    study["beit/tokenizer"] = "configs/quickstart_tokenizer.py", tokenizer
    fields: dict[str, dict[str, Any]] = {}
    for method, (config, encoder) in METHODS.items():
        fields[method] = {f"encoder.{k}": v for k, v in encoder.items()}
        fields[method] |= {"encoder.unroll": 0, "evaluate.pool": "max"}
        if method == "simmim":  # its last layers decode
            fields[method]["evaluate.layers"] = (1,)
        changes = {**of(STEPS), **images, **fields[method], "batch_size": BATCH}
        changes["picture_every"] = STEPS
        if method == "beit":
            changes["objective.tokenizer"] = "@beit/tokenizer"
        study[f"{method}/pretrain"] = config, changes
    for method in METHODS:
        for part in ("attentive", "random"):
            start = f"@{method}/pretrain" if part == "attentive" else ""
            changes = {**of(PROBE_STEPS), **labels, **fields[method]}
            changes |= {"init_from": start, "optim.rates": PROBE_RATES}
            study[f"{method}/{part}"] = "configs/quickstart_attentive.py", changes
    for seed, method in itertools.product(SEEDS, METHODS):
        # Layers that were never trained are not held back.
        afresh = {"init_from": "", "optim.layer_decay": 1.0}
        trained = {"init_from": f"@{method}/pretrain"}
        for part, start in (("finetune", trained), ("scratch", afresh)):
            changes = {**of(TUNE_STEPS), **labels, **fields[method], **start}
            changes |= {"seed": seed, "batch_size": BATCH, "optim.base_lr": TUNE_RATE}
            changes["evaluate.train_images"] = 256
            name = f"{method}/{part}/seed{seed}"
            study[name] = "configs/quickstart_finetune.py", changes
    return study
