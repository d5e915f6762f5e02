from knee_jax.metrics.summary import summarise
from knee_jax.report.sections import cohorts_section, selection_section


def test_cohorts_have_a_figure_for_each_side(table):
    section = cohorts_section({"OAI": table, "MOST": table[table["kl"] > 0]})
    assert [d.name for d in section.drawings] == ["cohorts_kl", "cohorts_lateral", "cohorts_medial"]
    titles = [axes.get_title(loc="left") for axes in section.drawings[2].content.axes]
    assert titles == [
        *("Osteophytes, femur medial", "Osteophytes, tibia medial"),
        "Joint space narrowing, medial",
    ]
    assert section.tables[0].rows[5][:3] == ("MOST", "0", "0")


def test_cohorts_of_kl_alone_have_one_figure(table):
    section = cohorts_section({"OAI": table, "crops": table[["kl"]]})
    assert [drawing.name for drawing in section.drawings] == ["cohorts_kl"]


def test_the_model_selection_has_kappa_and_balanced_accuracy(table):
    section = selection_section({"ensemble": summarise(table, 5)})
    assert [t.title for t in section.tables] == ["Quadratic kappa", "Balanced accuracy"]
    assert "out-of-fold knees" in section.notes[0]
