"""Where a tensorflow-datasets data set lies prepared, and what its own files say of it.

Read with the standard library, so that a wrong name is noticed before anything heavy is
imported. Nothing is ever downloaded.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

SPEC = re.compile(
    r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<version>\d+\.\d+\.\d+))?(:(?P<split>[^:].*))?"
)
MOUNTED = "{!r}: only folders that are mounted can be read"
OWN_IMAGES = "point at your own images with --config.data.source=folder:/path/to/images"
HELD_OUT_SPLITS = ("validation", "test", "val")
RANDOM_ACCESS, STREAMED = "array_record", "tfrecord"


class Prepared(NamedTuple):
    """A data set on disk."""

    name: str
    directory: Path
    split: str  # what to train on, slices and sums allowed
    held_out: str  # the split kept for evaluation, "" where there is none
    random_access: bool
    image: str  # names of the features
    label: str  # "" where there is none
    class_names: list[str]


def find(source: str, tfds_dir: str) -> Prepared:
    """The data set of `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`, its newest version.

    Raises LookupError, one line, where it is not there or has no images.
    """
    spec = SPEC.fullmatch(source.removeprefix("tfds:"))
    if spec is None:
        raise LookupError(
            f"{source!r} is not of the form tfds:NAME[/CONFIG][:VERSION][:SPLIT]; "
            f"{OWN_IMAGES}"
        )
    name, split = spec["name"], spec["split"] or "train"
    top = tfds_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    if "://" in top:
        raise LookupError(f"config.data.tfds_dir {MOUNTED.format(top)}")
    directory = _newest(name, Path(top), spec["version"])
    info = json.loads((directory / "dataset_info.json").read_text())
    splits = [found["name"] for found in info.get("splits", [])]
    parts = [part.partition("[")[0].strip() for part in split.split("+")]
    for part in parts:
        if part not in splits:
            known = ", ".join(splits)
            raise LookupError(f"{name} has no split {part!r}; it has {known}")
    others = [s for s in HELD_OUT_SPLITS if s in splits and s not in parts]
    written = info.get("fileFormat") or STREAMED
    if written not in (RANDOM_ACCESS, STREAMED):
        raise LookupError(
            f"{name} is prepared as {written}, of which nothing is read; prepare it "
            f"with `tfds build {name} --file_format={RANDOM_ACCESS}`"
        )
    image, label = _features(directory)
    if not image:
        raise LookupError(f"{name} has no image among its features")
    class_names = _class_names(directory, label)
    return Prepared(
        name,
        directory,
        split,
        others[0] if others else "",
        written == RANDOM_ACCESS,
        image,
        label if class_names else "",
        class_names,
    )


def _newest(name: str, top: Path, wanted: str | None) -> Path:
    """The folder of the newest version, or of that wanted."""
    versions = _versions(Path(os.path.expanduser(top), name), wanted)
    if not versions:
        raise LookupError(
            f"{name} is not prepared under {top}; set --config.data.tfds_dir, prepare "
            f"it with `tfds build {name} --file_format=array_record`, or {OWN_IMAGES}"
        )
    configs = sorted({version.parent.name for version in versions})
    if len(configs) > 1:
        known = ", ".join(f"tfds:{name}/{config}" for config in configs)
        raise LookupError(f"{name} is prepared in several ways; name one: {known}")
    return versions[-1]


def _versions(folder: Path, wanted: str | None) -> list[Path]:
    """Folders of the prepared versions, oldest first; one level of configs is tried."""
    for pattern in ("*", "*/*"):
        found = [
            info.parent
            for info in folder.glob(f"{pattern}/dataset_info.json")
            if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
            and wanted in (None, info.parent.name)
        ]
        if found:
            return sorted(found, key=lambda v: [int(n) for n in v.name.split(".")])
    return []


def _features(directory: Path) -> tuple[str, str]:
    """Names of the first image feature and of the class label."""
    tree = json.loads((directory / "features.json").read_text())
    features = tree.get("featuresDict", {}).get("features", {})
    kinds = {key: f.get("pythonClassName", "") for key, f in features.items()}
    images = [key for key, kind in kinds.items() if kind.endswith(".Image")]
    labels = [key for key, kind in kinds.items() if kind.endswith(".ClassLabel")]
    return _preferred(images, "image"), _preferred(labels, "label")


def _preferred(keys: list[str], usual: str) -> str:
    return usual if usual in keys else (keys or [""])[0]


def _class_names(directory: Path, label: str) -> list[str]:
    if not label:
        return []
    file = directory / f"{label}.labels.txt"
    if file.exists():
        return file.read_text(encoding="utf-8").splitlines()
    tree = json.loads((directory / "features.json").read_text())
    kind = tree["featuresDict"]["features"][label].get("classLabel", {})
    # A label may leave open how many classes there are: it is of no use then.
    return [str(number) for number in range(int(kind.get("numClasses", 0)))]
