"""Whether a model was assessed is known by its checksum."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.data.assessments import NAME, assessment_problem, latest_assessment
from aiida_mlfinetune.data.observable import ObservableData
from tests.fixtures.models import make_tiny_model

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


def verdict(sha256: str, *failed: str) -> ObservableData:
    checks = [{"name": "volume_minima", "of": "ice", "passed": True}]
    checks += [{"name": name, "of": "H-O", "passed": False} for name in failed]
    return ObservableData(
        name=NAME,
        value=len(failed),
        error=0.0,
        conditions={"model_sha256": sha256},
        details={"passed": not failed, "n_judged": len(checks), "checks": checks},
    ).store()


def test_the_last_verdict_on_the_file_counts(tiny_model, tmp_path, make_model_data):
    assert latest_assessment(tiny_model.sha256) is None
    assert "has not been assessed" in assessment_problem(tiny_model)
    verdict(tiny_model.sha256, "distance_hole")
    problem = assessment_problem(tiny_model)
    assert "failed 1 of 2 checks (distance_hole H-O)" in problem
    last = verdict(tiny_model.sha256)
    assert latest_assessment(tiny_model.sha256).uuid == last.uuid
    assert assessment_problem(tiny_model) is None
    other = make_model_data(make_tiny_model(tmp_path / "other.model", ("H", "O"), seed=7))
    assert "has not been assessed" in assessment_problem(other)
