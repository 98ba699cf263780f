"""What the encoders of six objectives are worth, on digits; of four on letters.

    python -m mimjax.study --config=configs/results.py --workdir=runs/results --jobs=2

or configs/results.py:letters. Hardware: two CPU cores. Time: 31 and 24 minutes.
Expected: as in docs/results.md. "untrained", fine-tuned, is training from scratch.
"""

from typing import Any

Runs = dict[str, tuple[str, dict[str, Any]]]
SETS = {"digits": (1600, 10), "letters": (3200, 26)}  # updates, classes
# As many images as evaluate.train_images; the best rate counts, as in AIM's paper.
PROBE = {"data.num_images": 4096, "optim.rates": (1e-2, 2e-2, 4e-2)}
TUNE = {"batch_size": 32, "optim.base_lr": 1e-3, "evaluate.train_images": 0}
AIM = {"encoder.depth": 4, "encoder.cls": False, "encoder.bias": False}
AIM |= {"encoder.patch_norm": True, "encoder.qkv_bias": "none", "encoder.start": "aim"}
MEAN = {"evaluate.pool": "mean", "evaluate.layers": (1, 2, 3, 4)}
EARLY = {"evaluate.layers": (1,)}  # the last layers decode
METHODS: Runs = {  # "": it learns from scratch
    "mae": ("configs/quickstart.py", {}),
    "simmim": ("configs/quickstart_simmim.py", EARLY),
    "beit": ("configs/quickstart_beit.py", EARLY),
    "aim": ("configs/quickstart_aim.py", AIM),
    "mpp": ("configs/quickstart_mpp.py", {}),
    "beit2": ("configs/quickstart_beit2.py", EARLY),
    "untrained": ("", {}),
    "aim_untrained": ("", AIM),
}
SKIPPED = ("letters", "mpp"), ("letters", "beit2")
TOKENIZERS: Runs = {
    "beit": ("configs/quickstart_tokenizer.py", {}),
    "beit2": ("configs/quickstart_vqkd.py", {"objective.teacher": "@mae/pretrain"}),
}
# AIM's is read as in its paper, and by the attentive probe early layers of others.
FIRST = {"objective.layers": (1, 2)}
READ = {"beit": FIRST, "beit2": FIRST, "aim": MEAN, "aim_untrained": MEAN}
TABLE = {
    "loss": ("pretrain", "eval/loss"),  # of what each method predicts
    "kNN": ("attentive", "eval/knn"),
    "linear": ("attentive", "eval/linear"),
    "attentive": ("attentive", "eval/accuracy"),
    "fine-tuned": ("finetune", "eval/accuracy"),
}


def get_study(source: str = "digits") -> Runs:
    study: Runs = {}

    def of(n: int) -> dict[str, Any]:
        return {"data.source": source, "steps": n, "eval_every": n}

    steps, classes = SETS[source]
    shared = {"encoder.dtype": "bfloat16", "encoder.unroll": 0, "evaluate.pool": "max"}
    for method, (config, own) in METHODS.items():
        if (source, method) in SKIPPED:
            continue
        fields = {**shared, **own}
        learn = {**of(steps), **fields, "batch_size": 32, "picture_every": steps}
        judged = {**fields, "init_from": config and f"@{method}/pretrain"}
        judged["objective.num_classes"] = classes
        probe = {**of(300), **judged, **PROBE, **READ.get(method, {})}
        tune = {**of(400), **judged, **TUNE}
        if method in TOKENIZERS:
            path, more = TOKENIZERS[method]
            study[f"{method}/tokenizer"] = path, {**of(500), **more}
            learn["objective.tokenizer"] = f"@{method}/tokenizer"
        if config:
            study[f"{method}/pretrain"] = config, learn
        else:  # layers that were never trained are not held back
            tune["optim.layer_decay"] = 1.0
        study[f"{method}/attentive"] = "configs/quickstart_attentive.py", probe
        for seed in range(3):
            run = "configs/quickstart_finetune.py", {**tune, "seed": seed}
            study[f"{method}/finetune/seed{seed}"] = run
    return study
