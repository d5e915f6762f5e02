"""Films and MR series as DICOM files, in the dialects of several machines."""

import dataclasses
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pydicom.encaps
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

_COMPRESSED = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, *_COMPRESSED)
"""Transfer syntaxes that the phantom writes, all lossless."""
SHARES = (0.6, 0.14, 0.1, 0.08, 0.02, 0.06)
"""Probabilities of these syntaxes: JPEG 2000 takes seconds per film."""


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a film.

    Attributes:
        subject, barcode: Ids; the barcode is the accession number.
        date: Date as YYYYMMDD.
        maker: Manufacturer of the machine.
        spacing: Pixel size, mm.
        bits: Bits stored per pixel, 10 to 16.
        inverted: Whether the film is MONOCHROME1, where the lowest value is white.
        syntax: Transfer syntax, one of `SYNTAXES`.
        study, series: Descriptions of the study and series.
        laterality: 'L' or 'R', '' for a film of both knees.
        body: Examined part of the body.
    """

    subject: str
    barcode: str
    date: str
    maker: str
    spacing: float
    bits: int
    inverted: bool
    syntax: UID
    study: str = "OAI^KNEE"
    series: str = "Bilateral PA Fixed Flexion Knee"
    laterality: str = ""
    body: str = "KNEE"


def write_film(path: Path, film: np.ndarray, header: Header) -> None:
    """Write a film, [rows, columns] with 0 black and 1 white, as uint16 DICOM."""
    top = 2**header.bits - 1
    counts = np.clip(film, 0, 1.1) * np.float32(0.9 * top)
    counts = np.minimum(counts, top).astype(np.uint16)
    if header.inverted:
        counts = np.uint16(top) - counts

    ds = _dataset(path, ComputedRadiographyImageStorage, ["film", header.barcode], counts, header)
    if header.syntax == ImplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = header.syntax
    ds.Modality = "CR"
    ds.StudyDescription = header.study
    ds.SeriesDescription = header.series
    ds.BodyPartExamined = header.body
    if header.laterality:
        ds.Laterality = header.laterality
    ds.ViewPosition = "PA"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.ImagerPixelSpacing = [header.spacing, header.spacing]
    ds.PhotometricInterpretation = "MONOCHROME1" if header.inverted else "MONOCHROME2"
    ds.BitsStored, ds.HighBit = header.bits, header.bits - 1
    ds.WindowCenter, ds.WindowWidth = (top + 1) // 2, top + 1

    if header.syntax in _COMPRESSED:
        frame = _encode(counts, header.bits, header.syntax)
        ds.PixelData = pydicom.encaps.encapsulate([frame])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = header.syntax
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


@dataclasses.dataclass(frozen=True)
class SeriesHeader:
    """Header of an MR series.

    Attributes:
        subject, barcode: Ids; the barcode is the accession number.
        date: Date as YYYYMMDD.
        maker: Manufacturer of the scanner.
        side: 'L' or 'R'.
        spacing_mm: Distances of rows, columns and slices, mm.
        turn: Angle by which the slices are rotated about the leg's axis, radians.
    """

    subject: str
    barcode: str
    date: str
    maker: str
    side: str
    spacing_mm: tuple[float, float, float]
    turn: float = 0.0


def write_series(folder: Path, volume: np.ndarray, header: SeriesHeader) -> None:
    """Write a sagittal series like OAI's: files 001, 002 … from the patient's right to the left.

    Args:
        folder: Folder of the series, created if missing.
        volume: Volume, uint16 [slices, rows, columns]; slices lateral to medial.
        header: Header of the series.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = {"L": "LEFT", "R": "RIGHT"}[header.side]
    from_right = volume if header.side == "R" else volume[::-1]
    right = np.array([np.sin(header.turn), np.cos(header.turn), 0])  # Along a row: to the back.
    down = np.array([0, 0, -1.0])
    rows, columns, slices = header.spacing_mm
    middle = np.array([-90.0 if header.side == "R" else 90.0, 10.0, -20.0])
    corner = middle - right * columns * volume.shape[2] / 2 - down * rows * volume.shape[1] / 2
    for number, picture in enumerate(from_right):
        # The normal, right x down, points to the patient's right, where the first slice lies.
        along = ((len(volume) - 1) / 2 - number) * slices
        position = corner + along * np.cross(right, down)
        path = folder / f"{number + 1:03d}"
        instance = ["slice", header.barcode, str(number)]
        ds = _dataset(path, MRImageStorage, instance, picture, header)
        ds.Modality = "MR"
        ds.StudyDescription = "OAI^KNEE"
        ds.SeriesDescription = f"SAG_3D_DESS_{name}"
        ds.BodyPartExamined = "KNEE"
        ds.SeriesNumber, ds.InstanceNumber = 1, number + 1
        ds.ImagePositionPatient = [f"{value:.4f}" for value in position]
        ds.ImageOrientationPatient = [f"{value:.6f}" for value in (*right, *down)]
        ds.PixelSpacing = [f"{rows:.6f}", f"{columns:.6f}"]
        ds.SliceThickness = f"{slices:.4f}"
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.BitsStored, ds.HighBit = 12, 11
        pydicom.dcmwrite(path, ds, enforce_file_format=True)


def _dataset(
    path: Path, kind: UID, instance: list[str], pixels: np.ndarray, header: Header | SeriesHeader
) -> FileDataset:
    """Return what films and slices have in common; the file's own id is made of `instance`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=instance)
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = kind
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study", header.barcode])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", header.barcode])
    ds.StudyDate = ds.SeriesDate = header.date
    ds.AccessionNumber = header.barcode
    ds.Manufacturer = header.maker
    ds.PatientName = ds.PatientID = header.subject
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.PixelRepresentation = 16, 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _encode(counts: np.ndarray, bits: int, syntax: UID) -> bytes:
    """Compress uint16 counts [rows, columns]."""
    if syntax == JPEGLosslessSV1:
        return bytes(
            imagecodecs.jpeg8_encode(counts, lossless=True, predictor=1, bitspersample=bits)
        )
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(counts))
    if syntax == JPEG2000Lossless:
        return bytes(
            imagecodecs.jpeg2k_encode(
                counts, level=0, codecformat="j2k", reversible=True, bitspersample=bits
            )
        )
    return _encode_rle(counts)


def _encode_rle(counts: np.ndarray) -> bytes:
    """Compress as DICOM PS3.5 G: the planes of high and low bytes, by PackBits, row by row."""
    planes = []
    for plane in (counts >> 8, counts & 255):
        packed = imagecodecs.packbits_encode(np.ascontiguousarray(plane, np.uint8), axis=-1)
        planes.append(packed + b"\0" * (len(packed) % 2))
    places = [64, 64 + len(planes[0])]
    return struct.pack("<16I", len(planes), *places, *[0] * 13) + b"".join(planes)
