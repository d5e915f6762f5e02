"""DICOM structured report of the knees of a film: template TID 1500, one group per knee.

Grades are qualitative evaluations; probabilities, expected grades, joint space widths and angles
are measurements. Concepts without a code in a public scheme have one of `SCHEME`, which the report
declares itself (PS3.3 C.12.1.1.1, Coding Scheme Identification).
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydicom
from pydicom.dataset import Dataset

import knee_jax
from knee_jax.inference.grade import DOUBT
from knee_jax.pacs.film import evidence, file_with
from knee_jax.targets.kinds import Classes, Ordinal, Target

SCHEME = "99KNEEJAX"
"""Coding scheme of the concepts that are ours alone; 99 marks it as private (PS3.16, 8)."""

SERIES_NUMBER = 9901
"""Number of the series of reports; high, to come after those of films."""

MEASURES = {
    "jsw_lateral_mm": "Minimum joint space width, lateral compartment",
    "jsw_medial_mm": "Minimum joint space width, medial compartment",
    "jsw_error_mm": "Expected error of joint space widths",
    "joint_angle_deg": "Joint line convergence angle, positive in varus",
    "joint_angle_error_deg": "Expected error of joint line convergence angle",
    "axis_angle_deg": "Femorotibial angle of a short film, positive in varus",
    "axis_angle_error_deg": "Expected error of femorotibial angle",
}
"""Columns of measures from landmarks, in mm and degrees, and their meanings."""

Row = Mapping[str, Any]


def report(film: Dataset, rows: Sequence[Row], targets: Sequence[Target]) -> Dataset:
    """Return the structured report of the graded knees of a film.

    Args:
        film: What refers to the film (`film.read`).
        rows: Rows of its graded knees, as `inference.grade.row_of` makes them; refused ones are
            left out.
        targets: Targets of the model.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    graded = [row for row in rows if row["status"] == "graded"]
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", knee_jax.__version__),
            name="knee_jax",
            manufacturer_name="knee_jax",
            model_name=str(graded[0]["model"])[:64],
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=code("radiograph", "Radiograph of the knee, graded by software"),
        imaging_measurements=[_group(film, row, targets) for row in graded],
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = sr.ComprehensiveSR(
        evidence=[evidence(film)],
        content=content[0],
        series_instance_uid=new_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer="knee_jax",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    made.ManufacturerModelName = "knee_jax"
    made.SoftwareVersions = knee_jax.__version__
    made.SeriesDescription = "knee_jax: grades, for research only, not a medical device"[:64]
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeName = "Grades and measurements of knee_jax"
    scheme.CodingSchemeResponsibleOrganization = "knee_jax"
    made.CodingSchemeIdentificationSequence = [scheme]
    return file_with(made, film)


def _group(film: Dataset, row: Row, targets: Sequence[Target]) -> Any:
    """Return the group of one knee."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    side = {"R": codes.SCT.Right, "L": codes.SCT.Left}.get(row["side"])
    numbers = [
        sr.Measurement(name=name, value=value, unit=unit)
        for name, value, unit in _measurements(row, targets)
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("knee", film.SOPInstanceUID, row["side"]),
            identifier=f"knee {row['side']}".strip(),
        ),
        finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.Knee, laterality=side)],
        algorithm_id=sr.AlgorithmIdentification(
            name=str(row["model"])[:64], version=str(row["knee_jax"])
        ),
        measurements=numbers,
        qualitative_evaluations=list(_grades(row, targets)),
        source_images=[
            sr.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=film.SOPClassUID,
                referenced_sop_instance_uid=film.SOPInstanceUID,
            )
        ],
    )


def _grades(row: Row, targets: Sequence[Target]) -> Iterator[Any]:
    """Yield doubt about the picture, and each target's most probable class, as evaluations."""
    from highdicom import sr

    if DOUBT in row["notes"]:
        yield sr.QualitativeEvaluation(
            name=code("doubt", "Doubt about the picture"),
            value=code("unlike_training", "Unlike most knees that the model was trained on"),
        )
    for target in targets:
        if isinstance(target, Classes):
            number = row[f"{target.name}_pred"]
            value = code(f"{target.name}_{number}", target.class_label(number))
            yield sr.QualitativeEvaluation(name=code(target.name, target.title), value=value)


def _measurements(row: Row, targets: Sequence[Target]) -> Iterator[tuple[Any, float, Any]]:
    """Yield name, value and unit of what is known of a knee in numbers."""
    from pydicom.sr.codedict import codes

    def of(column: str, meaning: str, unit: Any) -> Iterator[tuple[Any, float, Any]]:
        if row.get(column) is not None:
            yield code(column, meaning), float(row[column]), unit

    one, mm, degrees = codes.UCUM.NoUnits, codes.UCUM.Millimeter, codes.UCUM.Degree
    for target in targets:
        if not isinstance(target, Classes):
            yield from of(f"{target.name}_pred", target.title, one)
            continue
        for number, column in enumerate(target.output_columns()):
            yield from of(column, f"Probability of {target.class_label(number)}", one)
        if isinstance(target, Ordinal):
            yield from of(f"{target.name}_expected", f"Expected {target.title}", one)
        if row.get(f"{target.name}_calibrated"):
            meaning = f"Calibrated confidence in {target.title}"
            yield from of(f"{target.name}_confidence", meaning, one)
    for column, meaning in MEASURES.items():
        yield from of(column, meaning, mm if column.endswith("_mm") else degrees)
    yield from of("novelty", "Novelty; 1 is the limit of 99 % of held-out knees", one)


def code(value: str, meaning: str) -> Any:
    """Return a concept of our own scheme."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value=value, scheme_designator=SCHEME, meaning=meaning[:64])


def uid_of(*parts: str) -> str:
    """Return the UID of a thing that is the same whenever it is met (PS3.5 B.2, from a UUID)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(('knee_jax', *parts))).int}"


def new_uid() -> str:
    """Return a UID that no other object has."""
    return str(pydicom.uid.generate_uid(prefix=None))
