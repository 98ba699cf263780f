"""MAE, AIM, SimMIM and BEiT on digits: what their encoders are worth, with spread.

    python -m mimjax.study --config=configs/results_digits.py --workdir=runs/results

Hardware: two CPU cores. Time: not yet measured, meant to be under an hour. Expected:
not yet measured; the table is results.md in the workdir.
All encoders have 4 layers of width 128 with 4 heads and see as many images; what else
differs between the papers' encoders stays as each has it, and so do rates, masks, and
layer and pool of kNN and linear probe. SEEDS are those of fine-tuning: pretraining is
one run a method.
"""

from typing import Any

STEPS, BATCH, TOKENIZER_STEPS = 900, 32, 1000
PROBE_STEPS, TUNE_STEPS, SEEDS = 400, 300, (0, 1, 2)

# The config of each method, and its encoder's fields beside width and heads.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("configs/quickstart.py", {}),
    "aim": (
        "configs/quickstart_aim.py",
        {
            "encoder.depth": 4,
            "encoder.cls": False,
            "encoder.qkv_bias": "none",
            "encoder.bias": False,
            "encoder.patch_norm": True,
            "encoder.start": "aim",
        },
    ),
    "simmim": ("configs/quickstart_simmim.py", {}),
    "beit": (
        "configs/quickstart_beit.py",
        {
            "encoder.position": "relative",
            "encoder.qkv_bias": "qv",
            "encoder.layer_scale": 0.1,
            "encoder.start": "beit",
        },
    ),
}
TABLE = {
    "loss": ("pretrain", "eval/loss"),
    "kNN": ("pretrain", "eval/knn"),
    "linear": ("pretrain", "eval/linear"),
    "attentive": ("attentive", "eval/accuracy"),
    "fine-tuned": ("finetune", "eval/accuracy"),
    "from scratch": ("scratch", "eval/accuracy"),
}


def of(steps: int) -> dict[str, Any]:
    """A length; judged, drawn and saved at its end."""
    periods = "eval_every", "picture_every", "checkpoint_every"
    return {"steps": steps, **dict.fromkeys(periods, steps)}


def get_study() -> dict[str, tuple[str, dict[str, Any]]]:
    study = {"beit/tokenizer": ("configs/quickstart_tokenizer.py", of(TOKENIZER_STEPS))}
    for method, (config, encoder) in METHODS.items():
        changes = {**of(STEPS), "batch_size": BATCH, **encoder}
        if method == "beit":
            changes["objective.tokenizer"] = "@beit/tokenizer"
        study[f"{method}/pretrain"] = config, changes
    for method, (_, encoder) in METHODS.items():
        begin = {"init_from": f"@{method}/pretrain", **encoder}
        probe = {**of(PROBE_STEPS), **begin}
        study[f"{method}/attentive"] = "configs/quickstart_attentive.py", probe
        for seed in SEEDS:
            for part, changed in (("finetune", {}), ("scratch", {"init_from": ""})):
                tune = {**of(TUNE_STEPS), **begin, "seed": seed, **changed}
                name = f"{method}/{part}/seed{seed}"
                study[name] = "configs/quickstart_finetune.py", tune
    return study
