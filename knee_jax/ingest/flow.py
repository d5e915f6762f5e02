"""Flow of knees from the study to the prepared set, with the number and reason of exclusions."""

from collections.abc import Mapping

import pandas as pd

IMAGE = "on an image that can be read"
STAGES = {
    "of a known subject and visit": (
        "bad_row",
        "no_row",
        "path_unknown",
        "split_contradicts",
        "subject_unknown",
        "subject_contradicts",
        "unknown_name",
        "visit_contradicts",
        "visit_unknown",
    ),
    "with a film or series of their own": (
        "dangling_link",
        "file_ambiguous",
        "file_missing",
        "film_missing",
        "index_of_files",
        "link_out",
        "no_crop",
        "no_film",
        "no_series",
        "not_listed",
        "not_on_disk",
        "pixels_of_another_knee",
        "repeated_film",
        "repeated_knee",
        "repeated_row",
        "repeated_series",
        "two_readings",
        "unreadable_folder",
    ),
    "of joints that were not replaced": (
        "prosthesis",
        "prosthesis_or_unreadable",
        "replaced",
    ),
    "with what the set asks for": (
        "bad_label",
        "baseline_kl4",
        "baseline_unread",
        "lost_to_follow_up",
        "no_baseline",
        "no_bmi",
        "not_wholly_read",
        "other_project",
        "unread",
    ),
    IMAGE: (
        "bad_spacing",
        "beyond_8_bits",
        "colour_image",
        "corrupt_header",
        "corrupt_pixels",
        "crashed_reader",
        "duplicate_slices",
        "empty_file",
        "empty_image",
        "flat_image",
        "flat_volume",
        "misaligned_slices",
        "missing_slices",
        "mixed_orientation",
        "mixed_polarity",
        "mixed_series",
        "mixed_sizes",
        "mixed_spacing",
        "multi_frame",
        "negative_values",
        "no_decoder",
        "no_position",
        "no_side",
        "no_spacing",
        "not_a_crop",
        "not_read_from_archive",
        "other_body_part",
        "other_view",
        "not_a_volume",
        "not_an_image",
        "not_dicom",
        "not_finite",
        "not_grey",
        "not_nifti",
        "not_sagittal",
        "oblique",
        "out_of_memory",
        "side_mismatch",
        "stream_contradicts",
        "timed_out",
        "too_few_slices",
        "too_large",
        "truncated_file",
        "truncated_pixels",
        "unequal_spacing",
        "unknown_polarity",
        "unreadable",
        "wrong_depth",
        "wrong_modality",
        "wrong_shape",
        "wrong_size",
    ),
    "with landmarks where they are asked for": (
        "box_implausible",
        "joint_covered",
        "joint_cut_off",
        "landmarks_count",
        "landmarks_implausible",
        "landmarks_nan",
        "landmarks_outside",
        "landmarks_reversed",
        "landmarks_unreadable",
        "letter_mismatch",
        "mirrored_film",
        "no_knee",
        "no_landmarks",
        "not_marked",
        "replaced_joint",
        "same_half",
        "sides_swapped",
        "turned",
        "upside_down",
        "wrong_half",
    ),
}
"""Requirements on a knee, in order, each with the reasons for failing it."""

COLUMNS = ("stage", "reason", "excluded", "left")

_STAGE_OF = {reason: stage for stage, reasons in STAGES.items() for reason in reasons}


def flow(kept: int, excluded: Mapping[str, int]) -> pd.DataFrame:
    """Count the knees through the stages.

    Args:
        kept: Number of knees in the set.
        excluded: Number of excluded knees by reason.

    Returns:
        Table with one row for all knees, one per reason that occurred and one per stage: `stage`,
        `reason` ('' for a stage), `excluded` (for the reason, or in the stage), `left` (after it).
        The last row's `left` is `kept`.
    """
    left = kept + sum(excluded.values())
    rows: list[tuple[str, str, int, int]] = [("in the tables or on an image", "", 0, left)]
    by_stage: dict[str, dict[str, int]] = {stage: {} for stage in STAGES}
    for reason, count in excluded.items():
        # A reason without a stage must not end hours of preparation.
        by_stage[_STAGE_OF.get(reason, IMAGE)][reason] = count
    for stage, reasons in by_stage.items():
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            left -= count
            rows.append((stage, reason, count, left))
        rows.append((stage, "", sum(reasons.values()), left))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def text(table: pd.DataFrame) -> str:
    """Format the flow as text: the knees left at each stage, and the reasons for exclusions."""
    lines = []
    for stage, rows in table.groupby("stage", sort=False):
        total = rows[rows["reason"] == ""].iloc[0]
        lines.append(f"{stage:<44}{total['left']:>10,}")
        lines += [
            f"    without {row['excluded']:>8,}  {row['reason']}"
            for row in rows[rows["reason"] != ""].to_dict("records")
        ]
    return "\n".join(lines)
