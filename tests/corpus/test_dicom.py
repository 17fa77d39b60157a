"""DICOM: stock files that must work or be refused, and made ones whose displayed greys are known from the standard."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

from medweave.corpus import dicom
from medweave.corpus.images import decode, prepare
from medweave.corpus.limits import BadImage
from medweave.corpus.recipe import ImageRecipe, LimitsRecipe

LIMITS = LimitsRecipe()
HEAD = ImageRecipe(window=(40, 80), format="png")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stock(name: str) -> bytes:
    return Path(get_testdata_file(f"{name}.dcm", download=False)).read_bytes()


def made(values: np.ndarray, syntax: str = ExplicitVRLittleEndian, pixels: bytes | None = None, **fields: Any) -> bytes:
    """A DICOM file of grey [h,w], frames [n,h,w] or colour [h,w,3] values."""
    colour = values.ndim == 3 and values.shape[-1] == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = values.shape[:2] if colour else values.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if values.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(values)
    dataset.PixelData = pixels if pixels is not None else values.tobytes()
    dataset["PixelData"].VR = "OB" if pixels is not None or values.dtype.itemsize == 1 else "OW"
    for name, value in fields.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def item(**fields: Any) -> Dataset:
    dataset = Dataset()
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("name", "size", "colour"),
    [
        ("693_J2KI", (512, 512), False),
        ("CT_small", (128, 128), False),
        ("JPEG2000", (256, 1024), False),
        ("JPGExtended", (256, 1024), False),
        ("MR_small", (64, 64), False),
        ("MR_small_RLE", (64, 64), False),
        ("MR_small_bigendian", (64, 64), False),
        ("MR_small_jp2klossless", (64, 64), False),
        ("MR_small_jpeg_ls_lossless", (64, 64), False),
        ("SC_rgb_jpeg_dcmtk", (100, 100), True),
        ("SC_rgb_rle_2frame", (100, 100), True),
        ("examples_rgb_color", (320, 240), True),
        ("examples_ybr_color", (320, 240), True),
        ("examples_palette", (800, 350), True),
        ("liver_1frame", (512, 512), False),
        ("rtdose", (10, 10), False),
    ],
)
def test_stock_files_that_must_work(name: str, size: tuple[int, int], colour: bool) -> None:
    kept = prepare(stock(name), LIMITS, ImageRecipe())
    shown = decode(kept.data, grey=True)
    assert (kept.width, kept.height) == size and (shown.ndim == 3) == colour
    assert shown.std() > 5, "a blank picture"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MR_truncated", "bytes of pixel data is less"),
        ("badVR", "1A"),
        ("no_meta", "without its file header"),
        ("reportsi", r"without pixels \(modality SR\)"),
        ("rtplan", r"without pixels \(modality RTPLAN\)"),
    ],
)
def test_stock_files_that_must_be_refused(name: str, words: str) -> None:
    with pytest.raises(BadImage, match=words) as refused:
        prepare(stock(name), LIMITS, ImageRecipe())
    assert refused.value.remedy and "\n" not in str(refused.value)


def test_one_slice_in_four_codings_is_one_picture() -> None:
    shown = [dicom.pixels(stock(f"MR_small{end}"), LIMITS) for end in ("", "_RLE", "_bigendian", "_jp2klossless")]
    assert all(np.array_equal(shown[0], other) for other in shown[1:])


def test_window_in_rescaled_units() -> None:
    stored = np.arange(-1024, 1024, dtype=np.int16).reshape(32, 64)
    window = {"WindowCenter": ["40", "500"], "WindowWidth": ["400", "9"]}
    data = made(stored, RescaleSlope="2", RescaleIntercept="-100", Modality="CT", **window)
    for shown, centre, width in (
        (dicom.pixels(data, LIMITS), 40, 400),
        (dicom.pixels(data, LIMITS, window=(0, 100)), 0, 100),
    ):
        units = stored.astype(float) * 2 - 100
        expected = ((units - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
        assert np.abs(shown - expected).max() <= 0.5001


@pytest.mark.parametrize("modality", ["MR", "DX", "PT", ""])
def test_a_recipes_window_is_for_ct_alone(modality: str) -> None:
    stored = np.arange(2048, dtype=np.uint16).reshape(32, 64)
    table = item(LUTDescriptor=[2048, 0, 12], LUTData=(np.arange(2048) * 2).astype(np.uint16).tobytes())
    for own in ({"WindowCenter": "900", "WindowWidth": "500"}, {"VOILUTSequence": [table]}, {}):
        other, ct = (prepare(made(stored, Modality=m, **own), LIMITS, HEAD) for m in (modality, "CT"))
        plain = prepare(made(stored, Modality=modality, **own), LIMITS, ImageRecipe(format="png"))
        assert other.data == plain.data != ct.data
        assert decode(ct.data).max() == 255 and (decode(ct.data) == 255).mean() > 0.9


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions_equal_pydicom(function: str) -> None:
    stored = np.arange(2048, dtype=np.uint16).reshape(32, 64)
    data = made(stored, BitsStored=12, HighBit=11, WindowCenter="900", WindowWidth="500", VOILUTFunction=function)
    dataset = pydicom.dcmread(io.BytesIO(data))
    reference = pydicom.pixels.apply_windowing(stored, dataset) / 4095 * 255
    assert np.abs(dicom.pixels(data, LIMITS) - reference).max() <= 0.51


def test_lookup_tables() -> None:
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    table = (np.arange(256) ** 2 // 16).astype(np.uint16)  # 12 bits
    voi = item(LUTDescriptor=[256, 0, 12], LUTData=table.tobytes())
    shown = dicom.pixels(made(stored, VOILUTSequence=[voi], WindowCenter="1", WindowWidth="2"), LIMITS)
    assert np.abs(shown - table.reshape(16, 16) * (255 / 4095)).max() <= 0.51
    swapped = item(LUTDescriptor=[256, 0, 16], LUTData=table[::-1].tobytes(), ModalityLUTType="US")
    upside_down = dicom.pixels(made(stored, ModalityLUTSequence=[swapped]), LIMITS)
    assert upside_down[0, 0] == 255 and upside_down[-1, -1] == 0


def test_without_a_window_least_to_greatest() -> None:
    stored = np.linspace(-500, 3000, 64 * 64).reshape(64, 64).astype(np.int16)
    shown = dicom.pixels(made(stored), LIMITS)
    assert np.abs(shown - (stored.astype(float) + 500) * 255 / 3500).max() <= 0.51


def test_monochrome1_is_inverted() -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    plain = dicom.pixels(made(stored), LIMITS)
    assert np.array_equal(dicom.pixels(made(stored, PhotometricInterpretation="MONOCHROME1"), LIMITS), 255 - plain)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(dicom.pixels(made(eight, PhotometricInterpretation="MONOCHROME1"), LIMITS), 255 - eight)


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_floating_point_pixels_are_stretched(kind: str) -> None:
    values = np.linspace(-1.5, 2.5, 64).reshape(8, 8).astype(np.float32 if kind == "Float" else np.float64)
    dataset = pydicom.dcmread(io.BytesIO(made(np.zeros((8, 8), np.uint16))))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated = 8 * values.itemsize
    setattr(dataset, f"{kind}PixelData", values.tobytes())
    file = io.BytesIO()
    dataset.save_as(file)
    shown = dicom.pixels(file.getvalue(), LIMITS)
    np.testing.assert_array_equal(shown, np.rint((values + 1.5) * 255 / 4).astype(np.uint8))


def test_finished_8_bits_stay_as_they_are() -> None:
    eight = np.arange(50, 178, dtype=np.uint8).reshape(8, 16)
    assert np.array_equal(dicom.pixels(made(eight), LIMITS), eight)
    rgb = picture(20, 30)
    assert np.array_equal(dicom.pixels(made(rgb), LIMITS), rgb)


@pytest.mark.parametrize(("frame", "index"), [("first", 0), ("middle", 2), ("last", 3), (1, 1)])
def test_the_stated_frame(frame: Any, index: int) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 12, 16), dtype=np.uint8)
    assert np.array_equal(dicom.pixels(made(frames), LIMITS, frame), frames[index])
    with pytest.raises(BadImage, match="no frame 4"):
        dicom.pixels(made(frames), LIMITS, 4)
    with pytest.raises(BadImage, match=r"limits\.frames"):
        dicom.pixels(made(frames), LimitsRecipe(frames=3), frame)


def test_each_frame_has_its_own_rescale_and_window() -> None:
    frames = np.tile(np.arange(256, dtype=np.uint16).reshape(1, 16, 16), (2, 1, 1))
    groups = [item(FrameVOILUTSequence=[item(WindowCenter=c, WindowWidth=100)]) for c in ("250", "450")]
    shared = item(PixelValueTransformationSequence=[item(RescaleSlope="2", RescaleIntercept="0", RescaleType="US")])
    data = made(frames, PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=[shared])
    for index, centre in enumerate((250, 450)):
        expected = ((frames[0] * 2.0 - (centre - 0.5)) / 99 + 0.5).clip(0, 1) * 255
        assert np.abs(dicom.pixels(data, LIMITS, index) - expected).max() <= 0.51


def test_limits_are_seen_from_the_header() -> None:
    data = made(np.zeros((4, 4), np.uint8), Rows=60_000, Columns=60_000)
    with pytest.raises(BadImage, match=r"60,000 x 60,000 px, more than limits\.pixels"):
        prepare(data, LIMITS, ImageRecipe())


def test_a_frame_larger_than_its_header_says_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(picture(300, 300)).save(file, "JPEG")
    huge = file.getvalue()
    place = huge.index(b"\xff\xc0") + 5
    huge = huge[:place] + struct.pack(">2H", 60_000, 60_000) + huge[place + 4 :]
    data = made(np.zeros((16, 16), np.uint8), JPEGBaseline8Bit, encapsulate([huge]))
    with pytest.raises(BadImage, match="60000 x 60000 px in a file of 16 x 16"):
        dicom.pixels(data, LIMITS)


@pytest.mark.parametrize(
    "name", ["JPGExtended", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "examples_ybr_color"]
)
def test_the_size_in_a_coded_frame(name: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(stock(name)))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    assert dicom.coded_size(frame) == (dataset.Columns, dataset.Rows)


def test_a_deflated_file_is_refused_before_it_is_inflated() -> None:
    data = made(np.zeros((400, 400), np.uint16), DeflatedExplicitVRLittleEndian)
    with pytest.raises(BadImage, match="deflated"):
        prepare(data, LIMITS, ImageRecipe())


def test_facts_hide_the_patient(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    fields = {"Modality": "DX", "BodyPartExamined": "CHEST", "PatientID": "MRN 123", "StudyInstanceUID": "1.2.3.4"}
    path.write_bytes(made(picture(20, 30), **fields, PatientName="Doe^Jane"))
    facts = dicom.facts(path, "salt")
    assert (facts.modality, facts.anatomy, facts.frames) == ("xray", "chest", 1)
    assert facts.patient == dicom.facts(path, "salt").patient != dicom.facts(path, "pepper").patient
    assert not any(word in repr(facts) for word in ("123", "Doe", "1.2.3.4"))
    kept = prepare(path.read_bytes(), LIMITS, ImageRecipe()).data
    assert not any(word in kept for word in (b"MRN", b"Doe", b"CHEST", b"DICM"))


@pytest.mark.parametrize("name", ["ANONYMOUS", " unknown ", "Anonymized", ""])
def test_a_patient_that_stands_for_nobody_is_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(made(picture(20, 30), PatientID=name))
    assert dicom.facts(path, "salt").patient is None


def test_facts_that_are_not_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(made(picture(20, 30)))
    assert dicom.facts(path, "salt") == dicom.Facts("other", None, None, None, 1)
    path.write_bytes(b"not DICOM at all")
    with pytest.raises(BadImage):
        dicom.facts(path, "salt")


SEEDS = [stock(name) for name in ("MR_small_RLE", "MR_small_jp2klossless", "SC_rgb_jpeg_dcmtk")] + [made(picture(8, 8))]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 10_000),
)
def test_damage_is_refused_or_read_but_never_crashes(seed: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[132 + place % (len(data) - 132)] = value
    try:
        prepare(bytes(data[: len(data) - cut % 3000]), LIMITS, ImageRecipe())
    except BadImage as refused:
        assert refused.reason and refused.remedy
