"""Decoding of every kind of image, and the crop, the resize and the colours."""

import io
import math
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from sklearn.datasets import load_sample_images

from mimjax.data import augment, decode, scaled, upright
from mimjax.data.faults import Unusable
from mimjax.data.jpeg import read_header
from mimjax.data.quiet import tf

ANY = {"min_side": 1, "max_pixels": 10**7}
PHOTO = Image.fromarray(load_sample_images().images[0])
SMALL = PHOTO.resize((61, 43))
RGB = np.asarray(SMALL)
GREY = np.asarray(SMALL.convert("L"))
ALPHA = np.tile(np.linspace(0, 255, 61).astype(np.uint8), (43, 1))


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(content, channels=3, box=None):
    picture = decode.open_picture(content, **ANY)
    return decode.crop(picture, box or decode.whole(picture), channels)


def by_pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def over_white(colours, alpha):
    share = alpha[..., None] / 255.0
    return np.rint(colours * share + 255 * (1 - share))


def repeated(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, -1)


def with_alpha(colours):
    return Image.fromarray(np.dstack([colours, ALPHA]))


def transparent_palette():
    image = SMALL.quantize(16)
    image.info["transparency"] = 3
    content = encoded(image, "PNG", transparency=3)
    colours = np.asarray(image.convert("RGB")).copy()
    colours[np.asarray(image) == 3] = 255
    return content, colours


def chunk(name, content):
    """Of a PNG."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def grey_with_one_transparent(bits):
    """A PNG of all greys of so many bits in a line; the second is transparent."""
    count = 2**bits
    line = int("".join(f"{n:0{bits}b}" for n in range(count)), 2)
    header = struct.pack(">IIBBBBB", count, 1, bits, 0, 0, 0, 0)
    content = b"\0" + line.to_bytes(count * bits // 8, "big")
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", 1))
    chunks += chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    expected = np.rint(np.linspace(0, 255, count))[None]
    expected[0, 1] = 255
    return b"\x89PNG\r\n\x1a\n" + chunks, repeated(expected)


def sixteen_bits(byte_order):
    values = np.linspace(0, 65535, 43 * 61).reshape(43, 61).astype(np.uint16)
    kind = "TIFF" if byte_order == ">" else "PNG"
    image = Image.fromarray(values)
    return encoded(image, kind), repeated(np.rint(values / 257))


def jpeg(image, **options):
    content = encoded(image, "JPEG", quality=90, **options)
    return content, by_pillow(content)


def turned_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(SMALL, "JPEG", quality=90, exif=exif.tobytes())
    return content, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))


def animation():
    frames = [SMALL.quantize(64), SMALL.rotate(90).quantize(64)]
    options = {"save_all": True, "append_images": frames[1:]}
    return encoded(frames[0], "GIF", **options), np.asarray(frames[0].convert("RGB"))


def webp(image):
    return encoded(image, "WEBP", lossless=True, exact=True)


KINDS = {
    "jpeg": lambda: jpeg(SMALL),
    "jpeg 4:4:4": lambda: jpeg(SMALL, subsampling=0),
    "jpeg progressive": lambda: jpeg(SMALL, progressive=True),
    "jpeg grey": lambda: jpeg(SMALL.convert("L")),
    "jpeg cmyk": lambda: jpeg(SMALL.convert("CMYK")),
    "jpeg turned": turned_jpeg,
    "jpeg and trailing bytes": lambda: (jpeg(SMALL)[0] + b"\0" * 99, jpeg(SMALL)[1]),
    "png": lambda: (encoded(SMALL, "PNG"), RGB),
    "png grey": lambda: (encoded(SMALL.convert("L"), "PNG"), repeated(GREY)),
    "png 1 bit": lambda: (
        encoded(Image.fromarray(GREY > 99), "PNG"),
        repeated(255 * (GREY > 99)),
    ),
    "png 16 bits": lambda: sixteen_bits("<"),
    "png 2 bits, one transparent": lambda: grey_with_one_transparent(2),
    "png 4 bits, one transparent": lambda: grey_with_one_transparent(4),
    "png 8 bits, one transparent": lambda: grey_with_one_transparent(8),
    "png alpha": lambda: (encoded(with_alpha(RGB), "PNG"), over_white(RGB, ALPHA)),
    "png grey and alpha": lambda: (
        encoded(with_alpha(GREY), "PNG"),
        over_white(repeated(GREY), ALPHA),
    ),
    "png palette": lambda: (
        encoded(SMALL.quantize(50), "PNG"),
        np.asarray(SMALL.quantize(50).convert("RGB")),
    ),
    "png palette and transparency": transparent_palette,
    "webp": lambda: (webp(SMALL), RGB),
    "webp alpha": lambda: (webp(with_alpha(RGB)), over_white(RGB, ALPHA)),
    "bmp": lambda: (encoded(SMALL, "BMP"), RGB),
    "gif animation": animation,
    "tiff 16 bits": lambda: sixteen_bits(">"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image(kind):
    content, expected = KINDS[kind]()
    image = pixels(content)
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image - expected.astype(float)).max() <= 1
    grey = pixels(content, channels=1)
    weights = np.asarray([0.299, 0.587, 0.114])
    assert grey.shape == (*expected.shape[:2], 1)
    # Grey of a JPEG is its own luma, not that of colours rounded before.
    assert np.abs(grey[..., 0] - expected @ weights).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_is_cut_from_the_upright_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG"):
        content = encoded(SMALL, kind, exif=exif.tobytes())
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        box = augment.Box(top=7, left=5, height=20, width=30)
        np.testing.assert_array_equal(
            pixels(content, box=box), np.asarray(upright)[7:27, 5:35]
        )


def with_orientation(exif, xmp):
    """A JPEG whose orientation is told in either block, or in both; 0: not there."""
    content = encoded(SMALL, "JPEG", quality=90)
    blocks = b""
    if exif:
        value, kind = exif
        tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack(
            "<HHIII", 0x0112, kind, 1, value, 0
        )
        blocks += b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    if xmp:
        text = b"http://ns.adobe.com/xap/1.0/\0<x " + xmp + b"/>"
        blocks += b"\xff\xe1" + struct.pack(">H", len(text) + 2) + text
    return content[:2] + blocks + content[2:]


SHORT, LONG = 3, 4


@pytest.mark.parametrize(
    ("exif", "xmp"),
    [
        ((6, SHORT), b""),
        ((6, LONG), b""),
        (None, b'tiff:Orientation="6"'),
        (None, b"><tiff:Orientation>8</tiff:Orientation><x"),
        ((1, SHORT), b'tiff:Orientation="6"'),
        ((0, SHORT), b'tiff:Orientation="6"'),
        ((9, SHORT), b'tiff:Orientation="6"'),
        ((3, LONG), b'tiff:Orientation="1"'),
        (None, b'tiff:Orientation="0"'),
    ],
)
def test_jpegs_are_turned_as_by_pillow(exif, xmp):
    content = with_orientation(exif, xmp)
    header = read_header(content)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert header is not None
    np.testing.assert_array_equal(pixels(content), np.asarray(expected))


def test_an_image_that_fits_is_not_copied():
    for mode, channels in (("L", 1), ("RGB", 3)):
        image = SMALL.convert(mode)
        assert upright.to_eight_bits(image, "PNG") is image
        assert upright.pixels(image, channels).shape == (43, 61, channels)


SIXTEEN = Image.fromarray(np.arange(0, 64_000, 1000, np.uint16).reshape(8, 8))

BAD = {
    "empty": lambda: b"",
    "not an image": lambda: b"<html><body>404 Not Found</body></html>",
    "truncated": lambda: encoded(PHOTO, "JPEG")[:9000],
    "truncated ": lambda: encoded(PHOTO, "PNG")[:9000],
    "truncated  ": lambda: encoded(SMALL, "WEBP")[:11],
    "too small": lambda: encoded(SMALL.resize((40, 7)), "PNG"),
    "too large": lambda: encoded(Image.new("1", (4000, 3000)), "PNG"),
    "unsupported": lambda: b"\0\0\0\x18ftypheic" + bytes(99),
    "unsupported ": lambda: encoded(Image.fromarray(GREY * 1.5), "TIFF"),
    "unsupported   ": lambda: encoded(SIXTEEN, "TIFF").replace(
        b"\x02\x01\x03\0\x01\0\0\0\x10\0", b"\x02\x01\x03\0\x01\0\0\0\x0c\0"
    ),
    "unsupported  ": lambda: encoded(SIXTEEN, "TIFF", tiffinfo={262: 0}),
    "damaged": lambda: encoded(SMALL, "JPEG").replace(b"\xff\xdb", b"\xff\xfe"),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_have_their_reason(reason):
    with pytest.raises(Unusable) as caught:
        picture = decode.open_picture(BAD[reason](), min_side=8, max_pixels=10**7)
        decode.crop(picture, decode.whole(picture), 3)
    assert caught.value.reason == reason.strip()


def test_an_image_past_the_limit_is_never_decoded(monkeypatch):
    """400 million pixels in 50 kB."""
    content = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    for owner in (Image.Image, ImageFile.ImageFile):
        monkeypatch.setattr(owner, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Unusable, match="too large"):
        decode.open_picture(content, min_side=8, max_pixels=64_000_000)


def test_damaged_files_never_raise_anything_else():
    """Cut at every 1/16, and 40 times with a few bytes changed."""
    random = np.random.default_rng(0)
    contents = [encoded(SMALL, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    contents.append(encoded(SMALL, "JPEG", progressive=True))
    variants = [c[: len(c) * n // 16] for c in contents for n in range(16)]
    for content in contents:
        for _ in range(40):
            noisy = np.frombuffer(content, np.uint8).copy()
            noisy[random.integers(0, len(noisy), 3)] = random.integers(0, 256, 3)
            variants.append(noisy.tobytes())
    decoded = 0
    for content in variants:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert pixels(content).ndim == 3
                decoded += 1
            except Unusable:
                continue
    assert 0 < decoded < len(variants)


def torchvision_box(random, height, width, scale, ratio):
    """The published procedure, written anew: (top, left, height, width)."""
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = random.integers(0, height - h + 1)
            return int(top), int(random.integers(0, width - w + 1)), h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(375, 500), (300, 90)])
def test_random_boxes_are_distributed_as_those_of_torchvision(height, width):
    random, count = np.random.default_rng(1), 4000
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    uniforms = random.random((count, augment.NUM_UNIFORMS), np.float32)
    ours = [augment.random_box(u, height, width, scale, ratio) for u in uniforms]
    theirs = [
        torchvision_box(random, height, width, scale, ratio) for _ in range(count)
    ]
    share = np.mean([box is None for box in theirs])
    central = np.mean([b.width == width and b.height == 120 for b in ours])
    if width == 90:  # where a tenth and more of all end as the central crop
        assert share > 0.05
        assert abs(central - share) < 0.03
    tries = np.asarray([b for b in theirs if b is not None], float)
    got = np.asarray(
        [b for b in ours if width == 500 or (b.width, b.height) != (90, 120)], float
    )
    assert (got[:, 0] + got[:, 2] <= height).all()
    assert (got[:, 1] + got[:, 3] <= width).all()

    def figures(boxes):
        top, left, h, w = boxes.T
        return [h * w / (height * width), np.log(w / h), top / height, left / width]

    for a, b in zip(figures(got), figures(tries), strict=True):
        assert abs(a.mean() - b.mean()) < 0.1 * b.std()
        assert abs(a.std() - b.std()) < 0.1 * b.std()


@pytest.mark.parametrize(("height", "width"), [(8, 400), (400, 8)])
def test_the_central_crop_of_a_strip_is_not_empty(height, width):
    """Where the limits of the ratio leave less than half a pixel."""
    u = np.full(augment.NUM_UNIFORMS, 0.7, np.float32)
    shape = height / width
    ratio = (0.75 / 32, 1.33 / 32) if shape < 1 else (0.75 * 32, 1.33 * 32)
    box = augment.random_box(u, height, width, (0.2, 1.0), ratio)
    assert box.height >= 1 and box.width >= 1
    assert augment.cut(np.zeros((height, width, 3), np.uint8), box).size


def test_a_whole_image_of_the_right_size_is_left_alone():
    u = np.full(augment.NUM_UNIFORMS, 0.7, np.float32)
    for height, width in ((32, 32), (32, 96)):
        ratio = (width / height,) * 2
        box = augment.random_box(u, height, width, (1.0, 1.0), ratio)
        assert box == (0, 0, height, width)
    image = RGB[:32, :48]
    assert scaled.resize(image, (32, 48), "bicubic", True) is image


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_is_that_of_pillow(interpolation):
    photo = np.asarray(PHOTO)
    kind = Image.Resampling[interpolation.upper()]
    for size in ((100, 150), (600, 700)):
        expected = np.asarray(PHOTO.resize(size[::-1], kind))
        resized = scaled.resize(photo, size, interpolation, True)
        np.testing.assert_array_equal(resized, expected)
    enlarged = scaled.resize(photo, (600, 700), interpolation, False)
    assert np.abs(enlarged - expected.astype(float)).mean() < 0.5
    shrunk = scaled.resize(photo, (100, 150), interpolation, False)
    smooth = scaled.resize(photo, (100, 150), interpolation, True)
    assert (
        np.diff(shrunk.astype(float), axis=1).std()
        > 1.1 * np.diff(smooth.astype(float), axis=1).std()
    )


def test_flip_mirrors_half_of_the_images():
    uniforms = np.random.default_rng(0).random((40, augment.NUM_UNIFORMS), np.float32)
    flipped = [augment.flip(RGB, u) for u in uniforms]
    mirrored = [np.array_equal(image, RGB[:, ::-1]) for image in flipped]
    assert 10 < sum(mirrored) < 30
    for image, other in zip(flipped, mirrored, strict=True):
        np.testing.assert_array_equal(image, RGB[:, ::-1] if other else RGB)


def jittered(u, strengths, rate=1.0, image=RGB):
    return augment.jitter(tf.constant(image), tf.constant(u), strengths, rate).numpy()


def test_jitter_changes_what_it_is_asked_to():
    u = np.random.default_rng(3).random(augment.NUM_UNIFORMS, np.float32)
    factor = 1 + 0.4 * (2 * u[augment.FACTORS] - 1)
    photo = RGB.astype(float)
    grey = photo @ [0.299, 0.587, 0.114]
    expected = {
        0: photo * factor[0],
        1: grey.mean() + (photo - grey.mean()) * factor[1],
        2: grey[..., None] + (photo - grey[..., None]) * factor[2],
    }
    for which, wanted in expected.items():
        strengths = tuple(0.4 if i == which else 0.0 for i in range(4))
        got = jittered(u, strengths)
        assert np.abs(got - np.clip(wanted, 0, 255)).max() <= 1
    turned = jittered(u, (0.0, 0.0, 0.0, 0.5))
    np.testing.assert_allclose(turned.max(-1), RGB.max(-1), atol=1)  # value is kept
    assert np.abs(turned - photo).mean() > 3
    np.testing.assert_array_equal(jittered(u, (0.4, 0.4, 0.4, 0.1), rate=0.0), RGB)


def test_jitter_of_grey_images_leaves_hue_and_saturation():
    u = np.random.default_rng(3).random(augment.NUM_UNIFORMS, np.float32)
    image = GREY[..., None]
    np.testing.assert_array_equal(jittered(u, (0.0, 0.0, 0.4, 0.1), image=image), image)
