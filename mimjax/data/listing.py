"""Which files of a folder may be images, and which of its folders are the parts.

Hidden files, and files whose names end as texts, tables, archives or raw photographs
do, are no images; what the others are, their bytes say.
"""

import os
from collections.abc import Iterator
from pathlib import Path

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "valid", "validation", "test")
# fmt: off
NOT_IMAGES = (
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml",
    ".html", ".pdf", ".py", ".log", ".npy", ".npz", ".mat", ".pkl", ".parquet", ".db",
    ".ipynb", ".sh", ".m", ".ini", ".cfg", ".toml", ".lock", ".pth", ".pt", ".h5",
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".wav", ".mp3", ".docx", ".xlsx", ".pptx",
    ".zip", ".tar", ".gz", ".tgz", ".7z", ".bz2", ".xz", ".sha256", ".md5",
    # Pillow would take their thumbnails for them.
    ".nef", ".dng", ".cr2", ".arw", ".orf", ".rw2",
)
IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
)
# fmt: on
# What systems and archivers leave behind, in lower case.
NO_FOLDERS = (
    "lost+found",
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "system volume information",
)
# What says of a folder that it is the workdir of a run, or of a study, and the folders
# with pictures there.
RECORDS = ("run.json", "study.json")
DRAWN = ("pictures", "shown")


def part_folders(top: Path) -> tuple[Path, Path | None]:
    """Where the training images and, if they lie apart, the held-out ones are.

    A class may be named train (PASCAL VOC and COCO have it): its folder is the part
    only with a held-out one beside it, or where no other folder holds files named as
    images. Those that runs have drawn do not count, as a run is often kept there.
    """
    entries = visible(top)
    inside = {e.name.lower(): Path(e.path) for e in entries if is_folder(e)}
    train, held = (
        next((inside[name] for name in names if name in inside), None)
        for names in (TRAIN_NAMES, HELD_OUT_NAMES)
    )
    drawn = DRAWN if is_run(entries) else ()
    others = [p for n, p in inside.items() if p != train and n not in drawn]
    if train and (held or not any(map(holds_images, others))):
        return train, held
    return top, None


def holds_images(folder: Path) -> bool:
    """Whether files below are named as images, but for those of runs."""
    found = walk(folder, into_runs=False)
    return any(name.lower().endswith(IMAGES) for name in found)


def is_run(entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder with these files is the workdir of a run or of a study."""
    return any(entry.name in RECORDS for entry in entries)


def walk(
    root: Path, inside: str = "", seen: tuple[str, ...] = (), into_runs: bool = True
) -> Iterator[str]:
    """Relative paths, with `/`, of all files that may be images, sorted.

    Links are followed; a folder linked into itself is entered once, and the workdir of
    a run only if `into_runs`.
    """
    here = os.path.realpath(root / inside)
    if here in seen:
        return
    entries = visible(root / inside)
    if not into_runs and is_run(entries):
        return
    for entry in entries:
        if is_folder(entry):
            further = f"{inside}{entry.name}/", (*seen, here)
            yield from walk(root, *further, into_runs)
        elif readable(entry) and not entry.name.lower().endswith(NOT_IMAGES):
            yield inside + entry.name


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round, or where nobody may look
        return False


def readable(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to where one may have been: that is counted.

    Reading from a pipe would wait for ever.
    """
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:
        return True


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted, but for what is hidden or a system's own."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name.lower() not in NO_FOLDERS
    ]
