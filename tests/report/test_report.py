"""The report of a whole run, of a failed one, and of a single result."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from aiida import orm

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, provenance, render
from aiida_mlfinetune.report.graph import owner
from tests.report import synthetic

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects tags, identifiers and addresses, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "data"):
                self.addresses.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(aiida_profile):
    return synthetic.sublimation()


@pytest.fixture(scope="module")
def page(run):
    return collect(run.top)


def test_headlines_hold_numbers_with_errors_conditions_and_warnings(page):
    enthalpy, density = page.headlines
    assert (enthalpy.title, enthalpy.value, enthalpy.unit) == ("Sublimation enthalpy", "58.31 ± 0.42", "kJ/mol")
    assert (density.value, density.unit) == ("0.9942 ± 0.0031", "g/cm³")
    assert density.conditions == "100 K, 1 bar, NPT with flexible cell, classical nuclei"
    assert enthalpy.warnings == ("the gas run is short: <2 ps>",)


def test_page_is_well_formed_and_loads_nothing_from_elsewhere(page):
    html = render(page)
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert "script" not in checker.tags
    assert all(address.startswith("#") for address in checker.addresses)
    assert not re.search(r"url\((?!#)", html)
    assert len(checker.ids) == len(set(checker.ids)), "identifiers of two figures clash"


def test_every_section_that_has_something_to_show_is_there(page):
    html = render(page)
    shown = re.findall(r'<section id="([^"]+)"', html)
    assert shown == [
        "conditions-and-method",
        "density",
        "training",
        "sampling",
        "labels",
        "quality-of-the-labels",
        "dynamics",
        "provenance",
        "processes",
        "codes-and-versions",
        "how-to-cite",
    ]
    assert "positive for a stable crystal" in html
    assert "frame 2: the SCF cycle did not converge &lt;50 steps&gt;" in html
    assert "energy RMSE / (meV/atom)" in html
    assert "CP2K 2023.1" in html
    assert "/opt/cp2k/bin/cp2k.psmp" in html


def test_provenance_leads_from_the_result_to_the_cp2k_runs(run):
    path = provenance.trace([run.sublimation_enthalpy])
    assert {run.md_job.pk, run.label_job.pk, run.crystal.pk} <= set(path.nodes)
    assert not any(isinstance(node, orm.AbstractCode | orm.Dict) for node in path.nodes.values())
    starts = {start for start, _, _ in path.edges}
    assert starts | {run.sublimation_enthalpy.pk} == set(path.nodes)


def test_provenance_is_a_tree_of_text_where_graphviz_is_missing(run, monkeypatch):
    monkeypatch.setattr(provenance.shutil, "which", lambda _: None)
    section = provenance.provenance_section([run.density, run.sublimation_enthalpy])
    assert not section.figures
    assert section.lines[0] == f"density <{run.density.pk}>"
    assert any(line.strip() == f"← Cp2kMd <{run.md_job.pk}>" for line in section.lines)
    assert any("(see above)" in line for line in section.lines)


def test_a_result_leads_to_the_report_of_its_run(run):
    assert owner(run.density) == run.top


def test_a_labelling_shows_the_quality_of_its_labels(run):
    html = render(collect(run.labelled))
    assert 'id="quality-of-the-labels"' in html
    assert "net force of a frame / (meV/Å)" in html
    assert "robust score of the energy" in html
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids)), "identifiers of two figures clash"


def test_a_dataset_shows_its_levels_against_each_other(aiida_profile):
    node = DatasetData(synthetic.frames(12, (synthetic.TARGET, synthetic.MODEL))).store()
    html = render(collect(node))
    assert f"{synthetic.MODEL} minus {synthetic.TARGET}, 12 frames" in html
    assert "force component / (meV/Å)" in html
    assert "independent errors of" in html


def test_data_without_a_process_is_refused(aiida_profile):
    with pytest.raises(ValueError, match="no process made"):
        collect(orm.Int(1).store())


def test_a_failed_run_gives_a_page_of_what_there_is(aiida_profile):
    html = render(collect(synthetic.sublimation(failed=True).top))
    assert "The run failed: the training failed &amp; stopped" in html
    assert 'id="labels"' in html
    assert 'id="density"' not in html
