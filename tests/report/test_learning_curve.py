"""The report of a learning curve: figure, numbers, what they say, and what is missing."""

from __future__ import annotations

import re

import pytest
from aiida import orm

from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.report.sections.learning_curve import learning_curve_svg
from tests.fixtures.curves import LEVEL, made_up_curve, made_up_errors
from tests.report import synthetic
from tests.report.test_report import Checker

FAILED = "naive_n80_s2"


def run_of(curve, *, failed: str | None = None):
    """Return the process of a learning curve with its trainings."""
    top = synthetic.process(
        orm.WorkChainNode,
        "LearningCurveWorkChain",
        inputs={"level": orm.Str(LEVEL.key)},
        type_="aiida.workflows:mlfinetune.learning_curve",
    )
    for label, errors in made_up_errors((10, 80), (1, 2)).items():
        child = synthetic.process(orm.WorkChainNode, "TrainingWorkChain", top, label)
        if label == failed:
            synthetic.finish(child, exit_status=301, message="the loss is <not> a number")
        else:
            synthetic.finish(child, {"errors": orm.Dict({"valid": errors}).store()})
    status = (360, "1 of 8 trainings failed") if failed else (0, "")
    outputs = {} if curve is None else {"curve": curve}
    for name, data in outputs.items():
        data.base.links.add_incoming(top, synthetic.LinkType.RETURN, name)
    return synthetic.finish(top, None, *status)


@pytest.fixture(scope="module")
def curve(aiida_profile):
    return made_up_curve(target={"forces_meV_A": 20.0})


@pytest.fixture(scope="module")
def page(curve):
    return collect(run_of(curve))


def test_the_headline_is_the_best_error_with_the_conclusion(page, curve):
    (headline,) = page.headlines
    assert headline.title == "Best force RMSE"
    assert headline.unit == "meV/Å"
    assert headline.conditions == "mode naive, 80 training frames, validation set"
    assert headline.note == curve.details["sentence"]
    assert headline.warnings


def test_the_page_is_well_formed_and_in_order(page):
    html = render(page)
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    shown = re.findall(r'<section id="([^"]+)"', html)
    assert shown[:3] == ["learning-curve", "sets", "trainings"]
    assert {"provenance", "processes", "how-to-cite"} <= set(shown)


def test_numbers_come_with_errors_and_percent(page):
    section = page.sections[0]
    titles = [table.caption for table in section.tables]
    assert titles[0].startswith("energy RMSE / (kJ/mol per molecule); in brackets %")
    assert [title.split(" /")[0] for title in titles[1:3]] == ["force RMSE of H", "force RMSE of O"]
    header, rows = section.tables[2].header, section.tables[2].rows
    assert header == ("frames", "scratch", "naive")
    assert [row[0] for row in rows] == ["10", "20", "40", "80"]
    assert re.fullmatch(r"\d+(\.\d+)? ± \d+(\.\d+)? \(\d+(\.\d+)? %\)", rows[0][1])
    assert section.paragraphs[1].startswith("scratch: No set meets the target")


def test_trainings_are_listed_with_their_numbers(page):
    (table,) = page.sections[2].tables
    assert len(table.rows) == 8
    assert {row[-1] for row in table.rows} == {"done"}


def test_what_failed_is_named(aiida_profile):
    curve = made_up_curve(missing=[FAILED])
    page = collect(run_of(curve, failed=FAILED))
    html = render(page)
    assert "The run failed: 1 of 8 trainings failed" in html
    assert f"{FAILED} is missing: the loss is not a number" in html
    assert "[301] the loss is &lt;not&gt; a number" in html


def test_a_run_without_a_curve_shows_its_trainings(aiida_profile):
    page = collect(run_of(None, failed=FAILED))
    assert page.headlines == ()
    assert 'id="trainings"' in render(page)


def test_the_figure_alone_is_one_svg_element(curve):
    svg = learning_curve_svg(curve, "alone")
    assert svg.startswith("<svg")
    for text in ("energy RMSE", "force RMSE of O", "% of the standard deviation", "training frames", "naive"):
        assert text in svg


def test_the_curve_leads_to_its_run(curve):
    process = run_of(made_up_curve(seeds=(1, 2)))
    made = process.outputs.curve
    assert made.creator is not None
    assert collect(process).headlines[0].pk == made.pk
