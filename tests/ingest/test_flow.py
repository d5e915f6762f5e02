import ast
import pathlib
import re

import knee_jax.ingest
from knee_jax.ingest import oai_images, progression
from knee_jax.ingest.flow import IMAGE, STAGES, flow, text

REASONED = ("UnusableKnee", "Exclusion", "exclude", "Failure", "Reading")
"""Names that are called with a reason and, last, its description."""

CONSTANTS = {name: getattr(oai_images, name) for name in ("NOT_ON_DISK", "UNREADABLE_FOLDER")}
REASONS = [reason for reasons in STAGES.values() for reason in reasons]


def test_the_knees_are_followed_to_the_set():
    table = flow(90, {"no_film": 3, "prosthesis": 2, "not_dicom": 4, "repeated_film": 1})
    assert table.iloc[0].to_dict() == {
        "stage": "in the tables or on an image",
        "reason": "",
        "excluded": 0,
        "left": 100,
    }
    left = table[table["reason"] == ""].set_index("stage")["left"]
    assert left.to_dict() == {
        "in the tables or on an image": 100,
        "of a known subject and visit": 100,
        "with a film or series of their own": 96,
        "of joints that were not replaced": 94,
        "with what the set asks for": 94,
        "on an image that can be read": 90,
        "with landmarks where they are asked for": 90,
    }
    reasons = table[table["reason"] != ""]
    assert reasons["reason"].tolist() == ["no_film", "repeated_film", "prosthesis", "not_dicom"]
    assert reasons["left"].tolist() == [97, 96, 94, 90]
    shown = text(table)
    assert "without        3  no_film" in shown
    assert shown.splitlines()[-1].endswith(" 90")


def test_a_reason_of_no_stage_is_not_lost():
    table = flow(1, {"of_no_stage": 2})
    assert table["left"].iloc[0] == 3
    assert table["left"].iloc[-1] == 1
    assert table.set_index("reason").loc["of_no_stage", "stage"] == IMAGE


def test_every_reason_of_the_ingest_has_one_stage_and_every_stage_s_reason_occurs():
    assert len(set(REASONS)) == len(REASONS)
    written, raised = set(), set(progression.REASONS)
    ingest = pathlib.Path(knee_jax.ingest.__file__).parent
    found = [ingest.parent / "inference" / f"{n}.py" for n in ("found", "locate", "side_marker")]
    for path in (*ingest.glob("*.py"), *found):
        if path.name == "flow.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.add(node.value)
            if isinstance(node, ast.Call) and len(node.args) >= 2:
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                reason = node.args[-2] if called in REASONED else None
                if isinstance(reason, ast.Constant):
                    raised.add(reason.value)
                elif isinstance(reason, ast.Name) and reason.id in CONSTANTS:
                    raised.add(CONSTANTS[reason.id])
            if isinstance(node, ast.FunctionDef) and "UnusableKnee:" in (
                documented := ast.get_docstring(node) or ""
            ):
                reasons = documented.partition("UnusableKnee:")[2].split("UserError:")[0]
                raised |= set(re.findall(r"(?<![`.\w])[a-z]+(?:_[a-z0-9]+)+", reasons))
    assert raised <= set(REASONS)
    assert set(REASONS) <= written
