"""Preparing and decoding pictures: what is kept, what is changed, and what is refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medweave.corpus.images import decode, prepare
from medweave.corpus.limits import BadImage, pillow_allows
from medweave.corpus.recipe import ImageRecipe, LimitsRecipe

LIMITS = LimitsRecipe()
JPG = ImageRecipe()
PNG = ImageRecipe(format="png")


def picture(height: int = 60, width: int = 80, colour: bool = True) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)]
    return np.stack(waves, -1).astype(np.uint8) if colour else waves[0].astype(np.uint8)


def saved(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def close(left: np.ndarray, right: np.ndarray, mean: float = 2.0) -> bool:
    return left.shape == right.shape and np.abs(left.astype(int) - right.astype(int)).mean() < mean


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 2}])
@pytest.mark.parametrize("colour", [True, False])
def test_a_sound_jpeg_is_kept_byte_for_byte(options: dict, colour: bool) -> None:
    data = saved(picture(colour=colour), "JPEG", **options)
    kept = prepare(data, LIMITS, PNG)
    assert (kept.data, kept.format, kept.width, kept.height) == (data, "jpg", 80, 60)


def test_a_turned_jpeg_is_stored_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise to see it upright
    made = prepare(saved(picture(), "JPEG", exif=exif, quality=95), LIMITS, PNG)
    assert close(decode(made.data), np.rot90(picture(), -1))


def test_cmyk_jpeg_becomes_rgb() -> None:
    cmyk = Image.fromarray(picture()).convert("CMYK")
    made = prepare(saved(cmyk, "JPEG", quality=95), LIMITS, PNG)
    assert close(decode(made.data), picture(), mean=4)


def test_a_longer_side_over_the_cap_is_shrunk_with_its_shape() -> None:
    made = prepare(saved(picture(300, 400), "JPEG", quality=95), LIMITS, ImageRecipe(longest=100))
    assert (made.width, made.height) == (100, 75)
    stock = Image.fromarray(picture(300, 400)).resize((100, 75), Image.Resampling.LANCZOS)
    assert close(decode(made.data), np.asarray(stock), mean=4)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000"])
def test_other_formats_are_encoded_anew(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    made = prepare(saved(picture(colour=False), format, **options), LIMITS, PNG)
    assert made.format == "png"
    assert np.array_equal(decode(made.data, grey=True), picture(colour=False))


def test_arrays_are_taken_as_they_are() -> None:
    for array in (picture(), picture(colour=False)):
        assert np.array_equal(decode(prepare(array, LIMITS, PNG).data, grey=True), array)
    grey_in_colour = np.repeat(picture(colour=False)[..., None], 3, axis=2)
    assert Image.open(io.BytesIO(prepare(grey_in_colour, LIMITS, PNG).data)).mode == "L"


@pytest.mark.parametrize("shape", [(5,), (5, 5, 4), (2, 5, 5, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadImage, match="is no image"):
        prepare(np.zeros(shape, np.uint8), LIMITS, PNG)


@pytest.mark.parametrize(("format", "top"), [("PNG", 4095), ("TIFF", 4095), ("TIFF", 65535)])
def test_deep_greys_are_stretched_and_none_saturates(format: str, top: int) -> None:
    values = np.linspace(100, top, 60 * 80).reshape(60, 80).astype(np.uint16)
    grey = decode(prepare(saved(values, format), LIMITS, PNG).data, grey=True)
    expected = (values.astype(float) - 100) * 255 / (top - 100)
    assert np.abs(grey - expected).max() <= 0.51
    assert (grey == 255).mean() < 0.01 and (grey == 0).mean() < 0.01


def test_a_deep_tiff_whose_zero_is_white_is_inverted() -> None:
    values = np.linspace(0, 60000, 60 * 80).reshape(60, 80).astype(np.uint16)
    white_is_zero = saved(values, "TIFF", tiffinfo={262: 0})
    grey = decode(prepare(white_is_zero, LIMITS, PNG).data, grey=True)
    assert grey[0, 0] == 255 and grey[-1, -1] == 0


def test_not_a_number_is_refused() -> None:
    values = picture(colour=False).astype(np.float32)
    values[3, 3] = np.nan
    with pytest.raises(BadImage, match="not finite"):
        prepare(saved(values, "TIFF"), LIMITS, PNG)


def test_one_bit_palette_and_transparency() -> None:
    bits = Image.fromarray(picture(colour=False)).convert("1")
    assert set(np.unique(decode(prepare(saved(bits, "PNG"), LIMITS, PNG).data))) == {0, 255}
    palette = Image.fromarray(picture()).quantize(200)
    assert close(decode(prepare(saved(palette, "PNG"), LIMITS, PNG).data), picture(), mean=4)
    clear = np.dstack([picture(), np.full((60, 80), 255, np.uint8)])
    clear[:30, :, 3] = 0
    shown = decode(prepare(saved(clear, "PNG"), LIMITS, PNG).data)
    assert not shown[:30].any() and np.array_equal(shown[30:], picture()[30:])


@pytest.mark.parametrize(("frame", "grey"), [("first", 0), ("middle", 120), ("last", 160), (1, 40)])
def test_the_frame_of_a_stack_is_the_stated_one(frame: str | int, grey: int) -> None:
    pages = [Image.new("L", (20, 20), 40 * k) for k in range(5)]
    stack = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    stack_of_four = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:4])
    assert decode(prepare(stack, LIMITS, ImageRecipe(frame=frame, format="png")).data)[5, 5, 0] == (
        80 if frame == "middle" else grey
    )
    with pytest.raises(BadImage, match="no frame 4"):
        prepare(stack_of_four, LIMITS, ImageRecipe(frame=4))
    with pytest.raises(BadImage, match=r"5 frames, more than limits\.frames = 4"):
        prepare(stack, LimitsRecipe(frames=4), JPG)


def test_a_pyramid_is_its_first_page() -> None:
    pages = [Image.new("L", (80, 80), 200), Image.new("L", (40, 40), 100), Image.new("L", (20, 20), 50)]
    made = prepare(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]), LIMITS, PNG)
    assert (made.width, decode(made.data)[0, 0, 0]) == (80, 200)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (60_000, 60_000, r"60,000 x 60,000 px, more than limits\.pixels = 100,000,000"),
        (12_000, 10_000, r"12,000 x 10,000 px, more than limits\.pixels"),
        (4000, 100, "limits.aspect"),
        (100, 4000, "limits.aspect"),
    ],
)
def test_limits_are_seen_from_the_header(width: int, height: int, words: str) -> None:
    with pytest.raises(BadImage, match=words) as refused:
        prepare(bomb(width, height), LIMITS, JPG)
    assert refused.value.remedy


def huge_tiff(width: int, height: int) -> bytes:
    """A TIFF of a few bytes that announces any size; its pixels are not there."""
    data = bytearray(saved(picture(2, 3, colour=False), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        new = {256: width, 257: height, 278: height}.get(struct.unpack_from("<H", data, entry)[0])
        if new:
            struct.pack_into("<HII", data, entry + 2, 4, 1, new)
    return bytes(data)


@pytest.mark.parametrize("data", [bomb(60_000, 60_000), huge_tiff(60_000, 60_000)], ids=["PNG", "TIFF"])
def test_the_recipes_limit_on_pixels_holds_and_not_pillows(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImage, match=r"60,000 x 60,000 px, more than limits\.pixels = 3,599,999,999"):
        prepare(data, LimitsRecipe(pixels=60_000**2 - 1), JPG)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for format in ("PNG", "TIFF", "GIF", "WEBP", "BMP"):
        made = prepare(saved(picture(), format), LIMITS, PNG)
        assert (made.height, made.width) == (60, 80)
    assert Image.MAX_IMAGE_PIXELS == 1000


def huge_jpeg(width: int, height: int) -> bytes:
    """A sound JPEG of a few bytes, but for the size that its header announces."""
    data = bytearray(saved(picture(16, 16), "JPEG"))
    struct.pack_into(">2H", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize("data", [bomb(60_000, 60_000), huge_jpeg(60_000, 60_000)], ids=["PNG", "JPEG"])
@pytest.mark.parametrize("at_least", [None, 64])
def test_what_is_stored_is_held_to_the_limit_on_pixels_too(data: bytes, at_least: int | None) -> None:
    for grey in (False, True):
        with pytest.raises(BadImage, match=r"more than limits\.pixels = 100,000,000"):
            decode(data, at_least, grey=grey)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_limit_on_what_is_stored_is_the_corpus_own(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = saved(picture(), format)
    assert decode(data, limits=LimitsRecipe(pixels=4800)).shape == (60, 80, 3)
    with pytest.raises(BadImage, match=r"80 x 60 px, more than limits\.pixels = 4,799"):
        decode(data, limits=LimitsRecipe(pixels=4799))


def test_what_a_reader_takes_before_it_tells_the_size_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImage, match=r"4,800 pixels, more than limits\.pixels = 4,000"):
        prepare(saved(picture(), "WEBP"), LimitsRecipe(pixels=4000), JPG)


def test_pillows_limit_is_put_back_by_the_last_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pillow_allows(6000):
        with pytest.raises(BadImage, match="boom"), pillow_allows(9001):
            assert Image.MAX_IMAGE_PIXELS == 4501
            raise BadImage("boom", "")
        assert Image.MAX_IMAGE_PIXELS == 3000
        with pillow_allows(10):
            assert Image.MAX_IMAGE_PIXELS == 3000
    assert Image.MAX_IMAGE_PIXELS == 1000
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: prepare(saved(picture(), "PNG"), LIMITS, PNG), range(64)))
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_empty_and_large_files() -> None:
    with pytest.raises(BadImage, match="empty"):
        prepare(b"", LIMITS, JPG)
    with pytest.raises(BadImage, match=r"limits\.bytes = 100"):
        prepare(saved(picture(), "JPEG"), LimitsRecipe(bytes=100), JPG)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = saved(picture(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    with pytest.raises(BadImage, match="scans"):
        prepare(data[:start] + data[start:-2] * 20 + b"\xff\xd9", LIMITS, JPG)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_truncated_files_are_refused(format: str) -> None:
    data = saved(picture(), format)
    ends = range(1, len(data) - len(data) // 50 - 20, max(1, len(data) // 60))
    kept = [end for end in ends if not refused(data[:end])]
    assert kept == []


def refused(data: bytes) -> bool:
    try:
        prepare(data, LIMITS, JPG)
    except BadImage:
        return True
    return False


def test_a_jpeg_cut_before_its_last_rows_is_refused() -> None:
    data = saved(picture(200, 200), "JPEG")
    assert refused(data[: len(data) * 98 // 100])
    assert refused(data[: len(data) // 2] + b"\xff\xd9" + data[len(data) // 2 :])
    assert refused(data[: len(data) // 2] + data[len(data) // 2 + 99 :])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["", "JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "PPM"]))
def test_random_bytes_are_refused_or_read_but_never_crash(noise: bytes, format: str) -> None:
    head = saved(picture(8, 8), format)[:60] if format else b""
    refused(head + noise)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes_are_refused_or_read_and_what_is_kept_decodes(
    format: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(saved(picture(24, 32), format))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        made = prepare(bytes(data), LIMITS, JPG)
    except BadImage:
        return
    assert decode(made.data).shape == (made.height, made.width, 3)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_decoding_damage_is_a_bad_image(noise: bytes) -> None:
    for head in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(BadImage):
            decode(head + noise)


def test_decoding_equals_pillow() -> None:
    for data in (saved(picture(), "JPEG"), saved(picture(colour=False), "JPEG"), saved(picture(), "PNG")):
        assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert decode(saved(picture(colour=False), "JPEG"), grey=True).shape == (60, 80)
    assert decode(saved(picture(), "JPEG"), grey=True).shape == (60, 80, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 700), st.integers(16, 700), st.integers(8, 400))
def test_scaled_decoding_never_goes_below_the_asked_side(height: int, width: int, side: int) -> None:
    data = simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8))
    found = decode(data, side).shape[:2]
    assert min(found) >= min(side, height, width)
    assert max(found) <= max(height, width)
    assert min(height, width) < 4 * side or min(found) <= min(height, width) / 2 + 1
