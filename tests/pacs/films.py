"""Small films, rows of their knees, and what an object says."""

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from knee_jax.phantom.dicom import Header, write_film
from knee_jax.targets import get_all

TARGETS = get_all(("kl",))

ROW = {
    "file": "001",
    "side": "R",
    "status": "graded",
    "reason": "",
    "notes": "",
    "model": "kl-kneekl224",
    "knee_jax": "0.2.0",
    "kl_pred": 2,
    "kl_p0": 0.1,
    "kl_p1": 0.2,
    "kl_p2": 0.512345,
    "kl_p3": 0.137655,
    "kl_p4": 0.05,
    "kl_expected": 1.837655,
    "kl_confidence": 0.554321,
    "kl_calibrated": True,
    "jsw_lateral_mm": 4.5,
    "jsw_medial_mm": 3.218,
    "jsw_error_mm": 0.31,
    "joint_angle_deg": -1.25,
    "joint_angle_error_deg": 2.1,
    "axis_angle_deg": None,
    "axis_angle_error_deg": None,
    "novelty": 0.734,
}


def film(path, barcode="01234501", **changes):
    """A film of noise, with elements of its header changed, or removed by None."""
    pixels = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    header = Header("9000099", barcode, "20050131", "FUJI", 0.2, 12, False, ExplicitVRLittleEndian)
    write_film(path, pixels, header)
    made = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for keyword, value in changes.items():
            if value is None:
                del made[keyword]
            else:
                setattr(made, keyword, value)
        made.save_as(path)
    return path


def groups(report):
    """Measurement groups of a report: concept → value, with the names of the codes in between."""
    (measured,) = [
        each
        for each in report.ContentSequence
        if each.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    return [_values(group) for group in measured.ContentSequence]


def _values(group):
    found = {}
    for item in group.ContentSequence:
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found[name] = (float(measured.NumericValue), unit)
        elif item.ValueType == "CODE":
            found[name] = item.ConceptCodeSequence[0].CodeMeaning
            for below in item.get("ContentSequence", []):
                below_name = below.ConceptNameCodeSequence[0].CodeMeaning
                found[below_name] = below.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "IMAGE":
            found[name] = str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        else:
            found[name] = str(item.get("TextValue", item.get("UID")))
    return found
