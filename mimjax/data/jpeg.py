"""The header of a JPEG file, read without decoding (ITU-T T.81 B.1, Exif 2.32 4.6)."""

import re
import struct
from typing import NamedTuple

# Start-of-frame markers that TensorFlow's decoder knows: baseline, extended and
# progressive with Huffman coding.
FRAMES = {0xC0, 0xC1, 0xC2}
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
ORIENTATION = 0x0112
KINDS = {3: "H", 4: "I"}  # short and long, the latter against the standard
XMP = b"http://ns.adobe.com/xap/1.0/\0"
IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class Header(NamedTuple):
    """Size as stored, before the orientation is applied."""

    height: int
    width: int
    orientation: int  # 1 to 8, as in Exif


def read_header(content: bytes) -> Header | None:
    """The header, or None where the file needs a decoder more patient than ours.

    That is every file that is not a plain 8-bit grey or three-channel JPEG with its end
    marker in place.
    """
    exif, xmp, frame, at = None, 1, None, 2
    if content[:2] != b"\xff\xd8":
        return None
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        size = int.from_bytes(content[at + 2 : at + 4], "big")
        body = content[at + 4 : at + 2 + size]
        if marker in OTHER_FRAMES or size < 2:
            return None
        if marker == 0xE1 and body[:6] == b"Exif\0\0" and exif is None:
            exif = _orientation(body[6:])
        if marker == 0xE1 and body.startswith(XMP) and (found := IN_XMP.search(body)):
            xmp = int(found[1])
        if marker in FRAMES:
            frame = body
        at += 2 + size
        if marker == 0xDA:
            break
    else:
        return None
    if frame is None or len(frame) < 6 or content.rfind(b"\xff\xd9") < at:
        return None
    precision, height, width, channels = struct.unpack(">BHHB", frame[:6])
    if precision != 8 or channels not in (1, 3) or not height or not width:
        return None
    # What the Exif block says comes first, as with Pillow.
    orientation = xmp if exif is None else exif
    known = 1 <= orientation <= 8
    return Header(height, width, orientation if known else 1)


def _orientation(tiff: bytes) -> int | None:
    """The orientation named in the first directory of an Exif block, if any."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    (start,) = struct.unpack(order + "I", tiff[4:8])
    if start + 2 > len(tiff):
        return None
    (count,) = struct.unpack(order + "H", tiff[start : start + 2])
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack(order + "HH", tiff[entry : entry + 4])
        if tag == ORIENTATION and kind in KINDS:
            end = entry + 8 + struct.calcsize(KINDS[kind])
            return struct.unpack(order + KINDS[kind], tiff[entry + 8 : end])[0]
    return None
