"""MAE, SimMIM, BEiT and AIM: what their encoders are worth, on digits or letters.

    python -m mimjax.study --config=configs/results.py --workdir=runs/results --jobs=2

or configs/results.py:letters. Hardware: two CPU cores. Time: not yet measured.
Expected: as in docs/results.md. Encoders have 4 layers of width 128 and see as many
images: AIM's is its paper's, the others are one ViT; "untrained" is it before it learns
and, fine-tuned, training from scratch. Rates and masks are the quickstarts'.
"""

import itertools
from typing import Any

BATCH, TOKENIZER_STEPS, PROBE_STEPS, TUNE_STEPS = 32, 500, 300, 400
STEPS = {"digits": 1600, "letters": 3200}  # letters are harder
PROBED = 4096  # images that a probe learns from, as many as evaluate.train_images
PROBE_RATES = 1e-2, 2e-2, 4e-2  # the best on held-out images counts, as in AIM's paper
TUNE_RATE, SEEDS = 1e-3, (0, 1, 2)  # of fine-tuning
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
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # "": it learns from scratch
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
    images: dict[str, Any] = {"data.source": source}
    labels = {**images, "objective.num_classes": CLASSES[source]}
    tokenizer = {**of(TOKENIZER_STEPS), **images}
    study = {"beit/tokenizer": ("configs/quickstart_tokenizer.py", tokenizer)}
    fields = {"encoder.dtype": "bfloat16", "encoder.unroll": 0, "evaluate.pool": "max"}
    for method, (config, own) in METHODS.items():
        changes = {**of(STEPS[source]), **images, **fields, **own, "batch_size": BATCH}
        changes["picture_every"] = STEPS[source]
        if method == "beit":
            changes["objective.tokenizer"] = "@beit/tokenizer"
        if config:
            study[f"{method}/pretrain"] = config, changes
        start = config and f"@{method}/pretrain"
        changes = {**of(PROBE_STEPS), **labels, **fields, **own, "init_from": start}
        changes |= {"optim.rates": PROBE_RATES, "data.num_images": PROBED}
        if method == "beit":
            changes["objective.layers"] = 1, 2
        study[f"{method}/attentive"] = "configs/quickstart_attentive.py", changes
    for seed, (method, (config, own)) in itertools.product(SEEDS, METHODS.items()):
        start = config and f"@{method}/pretrain"
        changes = {**of(TUNE_STEPS), **labels, **fields, **own, "init_from": start}
        changes |= {"seed": seed, "batch_size": BATCH, "optim.base_lr": TUNE_RATE}
        changes["evaluate.train_images"] = 0
        if not config:  # layers that were never trained are not held back
            changes["optim.layer_decay"] = 1.0
        name = f"{method}/finetune/seed{seed}"
        study[name] = "configs/quickstart_finetune.py", changes
    return study
