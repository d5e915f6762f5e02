"""Small DICOM films."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def small_film(pixels: np.ndarray, spacing: float = 0.8) -> bytes:
    """DICOM file of a film, uint16 [rows, columns]."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    film.PatientName = "Planted^Name"
    film.Modality = "DX"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 16, 15, 0
    film.ImagerPixelSpacing = [spacing, spacing]
    film.PixelData = pixels.astype("<u2").tobytes()
    film["PixelData"].VR = "OW"
    data = io.BytesIO()
    film.save_as(data, enforce_file_format=True)
    return data.getvalue()
