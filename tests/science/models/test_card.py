"""The card of a model holds what is needed to cite it and to make it again."""

from __future__ import annotations

import re

import pytest
import yaml

from aiida_mlfinetune.science.models.card import model_card
from aiida_mlfinetune.science.models.official import Licence
from tests.science.models.histories import foundation, trained

FILES = {"ice.model": "a" * 64, "train.xyz": "1" * 64, "mace.yaml": "2" * 64}
LICENCES = {
    "MIT": Licence("MIT", "MIT licence", True, False, "https://opensource.org/license/mit"),
    "ASL": Licence("ASL", "Academic Software License", False, True, "https://github.com/gabor1/ASL"),
}


def section(card: str, title: str) -> str:
    return re.search(rf"## {title}\n\n(.*?)(?=\n## |\Z)", card, re.DOTALL).group(1)


@pytest.fixture
def card() -> str:
    return model_card(trained(), FILES, LICENCES, "0.1.0")


def test_every_part_is_there(card):
    assert card.startswith("# ice\n")
    for title, wanted in {
        "The file": ["a" * 64, "ScaleShiftMACE", "5.0 Å", "float32", "0.3.16", "uuid-model"],
        "Level of theory": ["revPBE-D3(zero)", "1200 Ry", "CP2K 2023.1", "free", "cutoff_Ry: 1200"],
        "How it was made": ["mlfinetune.mace_train", "uuid-process", "2.9.4", "python@localhost", "Seeds: 7"],
        "Data and splits": ["| train | 4 | 4 × H16O8 | `revpbe-d3/cp2k`: 4, 4, 0 |", "| valid | 2 |", "`train.xyz`"],
        "Errors": ["| `Default` | valid | energy_rmse_meV_per_atom | 1.5 |"],
        "Reference energies": ["| `Default` | O | -432.250000000 |"],
        "Models it was made from": ["foundation", "f" * 64, "wb97m-d3/spice", "https://example.org/off.model"],
        "Make it again": ["mace.yaml", "uuid-process", "verdi archive create"],
        "Files": ["| `train.xyz` | `" + "1" * 64],
    }.items():
        for text in wanted:
            assert text in section(card, title), (title, text)


def test_parameters_and_splits_can_be_read_back(card):
    block = re.search(r"Inputs:\n\n```yaml\n(.*?)```", card, re.DOTALL).group(1)
    assert yaml.safe_load(block) == trained().settings


def test_what_to_cite_is_listed_once(card):
    lines = section(card, "References").splitlines()
    cited = [line for line in lines if line.startswith("- ")]
    assert len(cited) == len(set(cited))
    for name in ("AiiDA", "MACE", "CP2K", "revPBE", "D3", "arXiv:2312.15211"):
        assert any(name in line for line in cited), name


def test_the_licence_of_the_parent_holds_for_the_child():
    text = section(model_card(trained(licence="ASL"), FILES, LICENCES), "Licence")
    assert "who gives it away has to say it" in text
    assert "(foundation), which it was made from: ASL" in text
    assert "does not allow commercial use" in text
    assert "may be passed on under it only" in text
    assert "commercial" not in section(model_card(trained(), FILES, LICENCES), "Licence")


def test_a_difference_says_that_it_is_not_to_be_used_alone():
    history = trained(settings={"baseline": {"sha256": "b" * 64, "head": "Default"}})
    assert "Not to be used alone" in model_card(history, FILES, LICENCES)
    assert "b" * 64 in model_card(history, FILES, LICENCES)
    assert "alone" not in model_card(trained(), FILES, LICENCES)


def test_a_model_without_a_graph_has_a_card_that_says_so():
    card = model_card(foundation(), {"off.model": "f" * 64}, LICENCES)
    assert "how it was trained is not in the graph" in card
    assert "Not in the graph." in section(card, "Data and splits")
    assert "None are recorded." in section(card, "Errors")


def test_tables_are_whole(card):
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_the_example_is_python(card):
    compile(re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1), "card", "exec")
