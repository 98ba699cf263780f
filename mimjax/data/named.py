"""Data sets prepared by tensorflow-datasets, images left encoded until they are drawn.

Files of the array_record format are read by number. TFRecord files cannot be: there an
epoch is the files in a seeded order, sixteen at a time, through a seeded shuffle
buffer, and a run that resumes skips the records it has had, undecoded. Every host reads
all of them and decodes its own.
"""

import bisect
import contextlib
import hashlib
import itertools
import os
import resource
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from mimjax.data import Data, Part, order
from mimjax.data.faults import BadDataError, Unusable, persistent
from mimjax.data.prepared import Prepared, find
from mimjax.data.quiet import graph, reading, tf

FILES_AT_ONCE = 16
OTHER_FILES = 256  # that a process may have open


class Stretch(NamedTuple):
    """Consecutive records of one file."""

    file: str
    skip: int
    take: int


class Numbered(NamedTuple):
    """Records of array_record files, read by number."""

    prepared: Prepared
    split: str
    files: Any  # the random-access data source
    start: int
    length: int

    def path(self, index: int) -> str:
        return f"{self.prepared.name}:{self.split}#{self.start + index}"

    def read(self, index: int) -> tuple[bytes, int]:
        def record() -> tuple[bytes, int]:
            return parse(self.prepared, self.files[self.start + index])

        # The reader has no errors of its own kind: damage and a failing store look
        # alike, so both are tried again.
        return persistent(record, Exception)


class InOrder(NamedTuple):
    """Records of TFRecord files, read from first to last."""

    prepared: Prepared
    stretches: list[Stretch]
    shuffle_buffer: int

    @property
    def length(self) -> int:
        return sum(stretch.take for stretch in self.stretches)

    def path(self, index: int) -> str:
        """File and record in it of the record of that number in file order."""
        ends = list(itertools.accumulate(s.take for s in self.stretches))
        at = bisect.bisect_right(ends, index)
        stretch = self.stretches[at]
        number = stretch.skip + index - (ends[at] - stretch.take)
        return f"{os.path.basename(stretch.file)}#{number}"

    def stream(self, start: int, seed: int) -> Any:
        """tf.data.Dataset of (number, record) from position `start` on, without end."""
        buffer = self.shuffle_buffer
        mix = order.replacement(0, seed, 0, 2**31)

        @graph
        def epoch_records(epoch: Any) -> Any:
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            u = tf.random.stateless_uniform([len(self.stretches)], key, alg="philox")
            records = self._records(tf.argsort(u))
            return records.shuffle(buffer, mix + epoch, reshuffle_each_iteration=False)

        first, done = divmod(start, self.length)
        epochs = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        return epochs.flat_map(epoch_records).skip(done)

    def head(self, limit: int, size: int) -> Iterator["Listed"]:
        """The first records, read into memory, so many at a time."""
        records = self._records(tf.range(len(self.stretches)), files_at_once=1)
        count = min(limit, self.length)
        left = records.take(count).as_numpy_iterator()
        for first in range(0, max(count, 1), size):
            with reading():
                found = [*itertools.islice(left, size)]
            yield Listed([record for _, record in found], first, self)

    def parse(self, record: bytes) -> tuple[bytes, int]:
        """Encoded image and label of one record; raises Unusable."""
        return parse(self.prepared, record)

    def _records(self, which: Any, files_at_once: int = FILES_AT_ONCE) -> Any:
        """Records of the stretches in the order of the numbers `which`."""
        files = tf.constant([s.file for s in self.stretches], tf.string)
        skips = tf.constant([s.skip for s in self.stretches], tf.int64)
        takes = np.asarray([s.take for s in self.stretches], np.int64)
        firsts = tf.constant(np.cumsum(takes) - takes)

        @graph
        def records(i: Any) -> Any:
            content = tf.data.TFRecordDataset(files[i]).skip(skips[i])
            content = content.take(tf.constant(takes)[i])
            return content.enumerate(firsts[i])

        return tf.data.Dataset.from_tensor_slices(which).interleave(
            records,
            cycle_length=files_at_once,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


class Listed(NamedTuple):
    """Records in memory, the first of which has that number in their source."""

    records: list[bytes]
    first: int
    source: InOrder

    @property
    def length(self) -> int:
        return len(self.records)

    def path(self, index: int) -> str:
        return self.source.path(self.first + index)

    def read(self, index: int) -> tuple[bytes, int]:
        return self.source.parse(self.records[index])


def parse(prepared: Prepared, record: bytes) -> tuple[bytes, int]:
    """Encoded image and label of one record, nothing decoded; raises Unusable."""
    try:
        feature = tf.train.Example.FromString(record).features.feature
        label = feature[prepared.label].int64_list.value[0] if prepared.label else -1
        return feature[prepared.image].bytes_list.value[0], int(label)
    except (DecodeError, IndexError) as error:
        raise Unusable("unreadable") from error


def open_records(data: Data, part: Part) -> Numbered | InOrder:
    """The records of a part of a prepared data set."""
    prepared = find(data.source, data.tfds_dir)
    builder = _builder(prepared)
    apart = part == "test" and prepared.held_out
    split = prepared.held_out if apart else prepared.split
    try:
        found = builder.info.splits[split].file_instructions
    except (ValueError, KeyError) as error:
        first = str(error).strip("\"'").partition("\n")[0]
        raise BadDataError(f"config.data.source: {split!r}: {first}") from None
    stretches = [Stretch(str(f.filename), f.skip, f.take) for f in found]
    total = sum(stretch.take for stretch in stretches)
    start, stop = 0, total
    if not prepared.held_out:
        kept = total - round(total * data.holdout_fraction)
        start, stop = (kept, total) if part == "test" else (0, kept)
    if not prepared.random_access:
        cut = _between(stretches, start, stop)
        return InOrder(prepared, cut, data.shuffle_buffer)
    import tensorflow_datasets as tfds

    make_room(len({stretch.file for stretch in stretches}))
    whole = tfds.decode.DeserializeMethod.RAW_BYTES
    files = builder.as_data_source(split, deserialize_method=whole)
    return Numbered(prepared, split, files, start, stop - start)


def make_room(files: int) -> None:
    """Lets this process have so many files of array_record open, if it may.

    Each stays open once it was read from, for training, to learn from and to judge by.
    Raises BadDataError where too few are allowed to train.
    """
    endless = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * files + OTHER_FILES
    if soft != endless and soft < wanted:
        wanted = wanted if hard == endless else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # what a system may say to it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft < files + OTHER_FILES:
            told = f"its {files} files stay open, more than this system allows"
            raise BadDataError(f"config.data.source: {told} ({soft}; see ulimit -n)")


def identity(data: Data) -> tuple[int, str]:
    """Length of the training part and a hash of what the data set says of itself."""
    found = open_records(data, "train")
    digest = hashlib.sha256(f"{found.prepared.split} {found.length}".encode())
    for name in ("dataset_info.json", "features.json"):
        digest.update((found.prepared.directory / name).read_bytes())
    return found.length, digest.hexdigest()


def _between(stretches: list[Stretch], start: int, stop: int) -> list[Stretch]:
    """The records `start` .. `stop` - 1 of all of them."""
    found, at = [], 0
    for file, skip, take in stretches:
        first, last = max(start - at, 0), min(stop - at, take)
        if first < last:
            found.append(Stretch(file, skip + first, last - first))
        at += take
    return found


def _builder(prepared: Prepared) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(str(prepared.directory))
