import hashlib

import numpy as np
import pytest

from aiida_mlfinetune.programs.mace_passport import describe_model
from aiida_mlfinetune.science.models.passport import Passport
from tests.fixtures.models import TINY_E0S, make_tiny_model


def test_passport_is_read_from_the_file(tiny_model_file):
    passport = Passport(**describe_model(tiny_model_file))
    assert passport.sha256 == hashlib.sha256(tiny_model_file.read_bytes()).hexdigest()
    assert (passport.elements, passport.heads, passport.dtype) == (["H", "O"], ["Default"], "float64")
    assert passport.r_max == pytest.approx(3.5)
    assert passport.e0s["Default"] == pytest.approx({"H": TINY_E0S["H"], "O": TINY_E0S["O"]}, abs=1e-12)
    assert passport.architecture["hidden_irreps"] == "4x0e+4x1o"
    assert passport.mace_version == ""


def test_every_head_has_its_reference_energies(tmp_path):
    path = make_tiny_model(tmp_path / "two.model", ("H", "C", "O"), heads=("first", "second"))
    described = describe_model(path)
    assert described["heads"] == ["first", "second"]
    assert all(set(described["e0s"][head]) == {"H", "C", "O"} for head in described["heads"])


def test_a_file_without_a_model_is_refused(tmp_path):
    import torch

    torch.save({"weights": torch.zeros(2)}, tmp_path / "no.model")
    with pytest.raises(ValueError, match="not a MACE model"):
        describe_model(tmp_path / "no.model")


def test_tiny_model_node_holds_the_file(tiny_model, tiny_model_file):
    assert tiny_model.content() == tiny_model_file.read_bytes()
    assert np.isclose(tiny_model.passport.e0s["Default"]["O"], TINY_E0S["O"])
