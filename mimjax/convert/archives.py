"""Zip files, which torch.save and numpy.savez both write, without unpacking bombs."""

import math
import mmap
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from mimjax.convert.pickles import DTYPES, Flaw, short
from mimjax.convert.states import BIG_ENDIAN, of_archive


def of_zip(path: pathlib.Path, whole: memoryview) -> dict[str, np.ndarray]:
    """The arrays of a zip file, which torch.save and numpy.savez both write."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise Flaw("its table of contents is missing: it is cut off") from None
    with archive:
        names = archive.namelist()
        # The folder in it has the name that the file once had.
        pickles = [n for n in names if n.partition("/")[2] == "data.pkl"]
        if pickles:
            root = pickles[0].removesuffix("data.pkl")
            order = f"{root}byteorder"  # PyTorch writes it since 2.1
            if order in names and member(archive, whole, order) != b"little":
                raise Flaw(BIG_ENDIAN)
            return of_archive(lambda name: member(archive, whole, root + name))
        if names and all(name.endswith(".npy") for name in names):
            return of_npz(archive, whole)
    raise Flaw("it is a zip file, but neither of torch.save nor of numpy.savez")


def member(archive: zipfile.ZipFile, whole: memoryview, name: str) -> memoryview:
    """The bytes of an uncompressed file in a zip file, checked by its checksum."""
    if name not in archive.NameToInfo:
        raise Flaw(f"{short(name)} is missing in it: it is cut off")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Flaw(f"{short(name)} in it is compressed: write it again by torch.save")
    # The local header (PKWARE's APPNOTE, 4.3.7): it ends with two lengths.
    header = whole[info.header_offset : info.header_offset + 30]
    signature, names, extra = struct.unpack("<4s22xHH", header)
    start = info.header_offset + 30 + names + extra
    data = whole[start : start + info.file_size]
    if signature != b"PK\3\4" or len(data) != info.file_size:
        raise Flaw(f"{short(name)} leaves the file: it is cut off")
    found = zlib.crc32(data)
    release(data)
    if found != info.CRC:
        raise Flaw(f"{short(name)} has not the checksum it was saved with: fetch again")
    return data


# Weights hardly compress; zeros do by 1000, which could fill any memory.
PACKED_LIMIT, PACKED_RATIO = 64 * 2**20, 20


def of_npz(archive: zipfile.ZipFile, whole: memoryview) -> dict[str, np.ndarray]:
    """The arrays of an npz file; of those with "params/" in front only these."""
    packed = (i for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED)
    claimed = sum(info.file_size for info in packed)
    if claimed > max(PACKED_LIMIT, PACKED_RATIO * len(whole)):
        raise Flaw(f"it claims to unpack to {claimed} bytes: write it by numpy.savez")
    found = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as file:
            shape, fortran, dtype = npy_header(file, name)
            start, size = file.tell(), math.prod(shape) * dtype.itemsize
            if start + size != info.file_size or min(shape, default=0) < 0:
                what = f"{short(name)} claims {size} bytes of {info.file_size - start}"
                raise Flaw(f"{what}: fetch it again")
            if info.compress_type == zipfile.ZIP_STORED:
                data = member(archive, whole, info.filename)[start:]
            else:
                data = memoryview(file.read())
        found[name] = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
    inner = {name: x for name, x in found.items() if name.startswith("params/")}
    return inner or found


def npy_header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type of the array that follows."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise Flaw(
            f"{short(name)} is of npy version {version}: write it by numpy.savez"
        )
    shape, fortran, dtype = readers[version](file)
    # How numpy writes bfloat16, of which it knows nothing.
    dtype = DTYPES["bfloat16"] if dtype.str == "|V2" else dtype
    if dtype not in DTYPES.values():
        raise Flaw(f"{short(name)} is of type {short(str(dtype))}, and no numbers")
    return shape, fortran, dtype


def release(part: Any) -> None:
    """Lets go of the pages of the file that an array or a view is of, until it is used.

    Without, all of a file that was looked at counts as this process's memory.
    """
    while getattr(part, "base", None) is not None:  # an array, or what it is a view of
        part = part.base
    whole = getattr(part, "obj", part)
    if isinstance(whole, mmap.mmap):
        whole.madvise(mmap.MADV_DONTNEED)
