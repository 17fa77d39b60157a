"""DICOM: the pixels of one frame as a viewer would show them, and the few facts that may leave the file.

The order is the standard's (PS3.3 C.11, C.7.6.3): stored values, modality rescale or LUT, VOI LUT or window, then
MONOCHROME1 inverted. Nothing of the header is stored but `Facts`: patient and study only as keyed hashes.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

from medweave.corpus.limits import BadImage, check_shape, frame_index, one_reason, to_8_bit
from medweave.corpus.recipe import LimitsRecipe
from medweave.corpus.sample import somebody

MODALITIES = {
    **dict.fromkeys(("CR", "DX", "RG", "RF", "XA", "PX", "IO", "DR"), "xray"),
    "CT": "ct",
    "MR": "mri",
    "MG": "mammography",
    "PT": "pet",
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "SM": "pathology",
    "GM": "microscopy",
    "OP": "fundus",
    "OPT": "oct",
    "IVOCT": "oct",
    "OCT": "oct",
    "DMS": "dermoscopy",
    "ES": "endoscopy",
}
DAMAGED = "a damaged or unsupported DICOM file", "export it again, uncompressed"
DEFLATED = b"1.2.840.10008.1.2.1.99"
FIRST_TAGS = (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")
TAGS = ["Modality", "BodyPartExamined", "PatientID", "StudyInstanceUID", "NumberOfFrames"]


@dataclass(frozen=True)
class Facts:
    """What a DICOM file says of itself. modality: our word. patient, study: keyed hashes of the owner's identifiers."""

    modality: str
    anatomy: str | None
    patient: str | None
    study: str | None
    frames: int


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM file, or a DICOM data set that lost its file header."""
    return data[128:132] == b"DICM" or any(tag in data[:5] for tag in FIRST_TAGS)


def facts(path: Path, salt: str) -> Facts:
    """The facts of a DICOM file, read from its header alone. Equal salts give equal hashes for equal identifiers.

    Raises BadImage when it is no readable DICOM file.
    """
    with path.open("rb") as file:
        _check_readable(file.read(4096))
    with one_reason(*DAMAGED):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        return Facts(
            modality=modality_of(header),
            anatomy=str(header.get("BodyPartExamined") or "").strip().lower() or None,
            patient=_pseudonym(somebody(header.get("PatientID")), salt),
            study=_pseudonym(header.get("StudyInstanceUID"), salt),
            frames=int(header.get("NumberOfFrames") or 1),
        )


def pixels(
    data: bytes,
    limits: LimitsRecipe,
    frame: Literal["first", "middle", "last"] | int = "middle",
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """One frame as uint8 [h,w] or [h,w,3].

    window: centre and width in rescaled units, for CT alone; None, and for all else: the file's own LUT or first
    window, or least to greatest value.
    Raises BadImage when it has no pixels, is beyond the limits (seen from the header) or does not decode.
    """
    _check_readable(data)
    with one_reason(*DAMAGED):
        dataset = pydicom.dcmread(io.BytesIO(data))
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            kind = str(dataset.get("Modality", "unknown"))
            raise BadImage(f"a DICOM file without pixels (modality {kind})", "leave it out of the manifest")
        frames = int(dataset.get("NumberOfFrames") or 1)
        check_shape(int(dataset.Columns), int(dataset.Rows), limits, frames)
        index = frame_index(frame, frames)
        _check_compressed(dataset, index, frames)
        values = pixel_array(dataset, index=index)
        if values.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            return _colour(values, dataset)
        return _grey(values, dataset, index, window if modality_of(dataset) == "ct" else None)


def modality_of(dataset: pydicom.Dataset) -> str:
    """The modality of a data set in our word; "other" for one that has none, or one that is no imaging of ours."""
    return MODALITIES.get(str(dataset.get("Modality", "")).strip().upper(), "other")


def _check_readable(start: bytes) -> None:
    if start[128:132] != b"DICM":
        raise BadImage("a DICOM data set without its file header", "export it again as a DICOM file (part 10)")
    if DEFLATED in start[:4096]:
        raise BadImage("a deflated DICOM file, whose size cannot be limited", "save it as explicit VR little endian")


def _check_compressed(dataset: pydicom.Dataset, index: int, frames: int) -> None:
    """The frame's own header must announce the size that the data set does: what was checked is what gets decoded."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    size = coded_size(get_frame(dataset.PixelData, index, number_of_frames=frames))
    if size not in (None, (dataset.Columns, dataset.Rows)):
        raise BadImage(
            f"a frame of {size[0]} x {size[1]} px in a file of {dataset.Columns} x {dataset.Rows} px", "export it again"
        )


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a JPEG, JPEG-LS or JPEG 2000 stream; None for other streams."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return right - left, bottom - top
    place = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while place + 9 <= len(frame):
        marker, length = frame[place + 1], struct.unpack_from(">H", frame, place + 2)[0]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">2H", frame, place + 5)
            return width, height
        place += 2 + length
    return None


def _colour(values: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """RGB of 8 bits: of deeper ones the upper eight."""
    bits = int(dataset.BitsStored)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        bits = 8 * values.dtype.itemsize
    return (values >> max(bits - 8, 0)).astype(np.uint8)


def _grey(values: np.ndarray, dataset: pydicom.Dataset, index: int, window: tuple[float, float] | None) -> np.ndarray:
    """Stored values -> what is displayed, uint8 of the same shape."""
    if dataset.get("BitsStored", 32) < 8:  # floating-point pixels have none
        values = values.astype(np.uint16)  # few greys: stretched like deep ones, not taken for finished 8 bits
    values = apply_modality_lut(values, _group(dataset, index, "PixelValueTransformationSequence"))
    voi = _group(dataset, index, "FrameVOILUTSequence")
    if window is None and "VOILUTSequence" in voi:
        depth = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        shown = (apply_voi(values, voi) * (255 / (2**depth - 1))).clip(0, 255).round().astype(np.uint8)
    else:
        shown = _windowed(values, window or _own_window(voi), str(voi.get("VOILUTFunction", "LINEAR")))
    return 255 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def _group(dataset: pydicom.Dataset, index: int, name: str) -> pydicom.Dataset:
    """Where the attributes of one frame lie: its own functional group, the shared one, or the data set itself."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[index : index + 1], shared[:1]):
        for group in groups:
            if group.get(name):
                return group[name][0]
    return dataset


def _own_window(voi: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width of the file's first window; None where it has none, or one of no width."""
    pair = [np.atleast_1d(np.asarray(voi.get(name), dtype=object))[0] for name in ("WindowCenter", "WindowWidth")]
    if None in pair or float(pair[1]) < 1:
        return None
    return float(pair[0]), float(pair[1])


def _windowed(values: np.ndarray, window: tuple[float, float] | None, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2-3: the window's lower end black, its upper end white; without one, least to greatest."""
    if window is None:
        return to_8_bit(values)
    centre, width = window
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT" or width <= 1:
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _pseudonym(identifier: object, salt: str) -> str | None:
    text = str(identifier or "").strip()
    return (
        hashlib.blake2b(text.encode(), key=hashlib.sha256(salt.encode()).digest(), digest_size=12).hexdigest()
        if text
        else None
    )
