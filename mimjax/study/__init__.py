"""Many runs under one command, and what they show together: tables, scaling laws.

A study is a Python file. Its `get_study()` returns the runs in their order, by name:

    {"mae/pretrain": ("configs/quickstart.py", {"steps": 600}),
     "mae/probe/seed0": ("configs/quickstart_attentive.py",
                         {"init_from": "@mae/pretrain"})}

that is a config file and changes to its fields. "@NAME" stands for the workdir of an
earlier run, which is WORKDIR/NAME. Runs whose names differ in what follows the second
slash alone are the same but for their seed.

The file may hold two more things:

    TABLE = {"attentive": ("probe", "eval/accuracy")}

makes a table: a row for each first part of the names ("mae"), a column for each entry,
which says of which second part ("probe") it takes which value of metrics.jsonl.

    SCALING = ("eval/loss", "eval/linear")

fits the first, of runs of one objective, against parameters, images and FLOPs, and
draws the second against it.
"""
