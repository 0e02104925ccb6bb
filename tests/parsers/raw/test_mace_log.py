import json

import numpy as np

from aiida_mlfinetune.parsers.raw.mace_log import parse_loss_curve


def opt(epoch, loss):
    return {"mode": "opt", "epoch": epoch, "loss": loss, "time": 0.1}


def valid(epoch, loss, **metrics):
    return {"mode": "eval", "epoch": epoch, "head": "Default", "loss": loss, "rmse_f": loss / 10, **metrics}


def text(*entries):
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


def test_every_epoch_has_the_mean_of_its_batches_and_its_validation():
    curve = parse_loss_curve(
        text(valid(None, 9.0), opt(0, 2.0), opt(0, 4.0), valid(0, 5.0, rmse_e_per_atom=0.5), opt(1, 1.0), valid(1, 4.0))
    )
    assert curve["epoch"].tolist() == [-1, 0, 1]
    np.testing.assert_equal(curve["train_loss"], [np.nan, 3.0, 1.0])
    assert curve["valid_loss"].tolist() == [9.0, 5.0, 4.0]
    assert curve["valid_rmse_forces_eV_A"].tolist() == [0.9, 0.5, 0.4]
    np.testing.assert_equal(curve["valid_rmse_energy_eV_per_atom"], [np.nan, 0.5, np.nan])
    assert np.isnan(curve["valid_rmse_stress_eV_A3"]).all()


def test_epochs_repeated_by_a_restart_count_once():
    curve = parse_loss_curve(
        text(
            valid(None, 9.0),
            *(opt(0, 3.0), valid(0, 5.0), opt(1, 2.0), valid(1, 4.0), opt(2, 1.9)),
            valid(None, 5.0),
            *(opt(1, 2.5), opt(1, 3.5), valid(1, 4.5), opt(2, 1.0), valid(2, 3.0)),
        )
    )
    assert curve["epoch"].tolist() == [-1, 0, 1, 2]
    np.testing.assert_equal(curve["train_loss"], [np.nan, 3.0, 3.0, 1.0])
    assert curve["valid_loss"].tolist() == [9.0, 5.0, 4.5, 3.0]


def test_a_restart_within_an_epoch_drops_the_batches_before_it():
    curve = parse_loss_curve(
        text(opt(0, 3.0), valid(0, 5.0), opt(1, 8.0), valid(None, 5.0), opt(1, 2.0), valid(1, 4.0))
    )
    np.testing.assert_equal(curve["train_loss"][-1], 2.0)


def test_validation_at_intervals_leaves_gaps():
    curve = parse_loss_curve(text(opt(0, 3.0), valid(0, 5.0), opt(1, 2.0), opt(2, 1.0), valid(2, 4.0)))
    np.testing.assert_equal(curve["valid_loss"], [5.0, np.nan, 4.0])


def test_truncated_and_empty_text():
    whole = text(opt(0, 3.0), valid(0, 5.0), opt(1, 2.0))
    assert parse_loss_curve(whole[:-9])["epoch"].tolist() == [0]
    assert len(parse_loss_curve("")["epoch"]) == 0
    assert np.isnan(parse_loss_curve('{"mode": "opt", "epoch": 0, "loss": NaN}\n')["train_loss"]).all()


def test_every_head_has_its_own_validation_and_the_last_is_the_target():
    def heads(epoch, first, last):
        return ({**valid(epoch, first), "head": "pt_head"}, valid(epoch, last))

    curve = parse_loss_curve(
        text(
            *heads(None, 1.0, 9.0),
            *(opt(0, 3.0), *heads(0, 1.1, 5.0), opt(1, 2.0), *heads(1, 1.2, 4.0)),
            *heads(None, 1.1, 5.0),
            *(opt(1, 2.5), *heads(1, 1.3, 4.5)),
        )
    )
    assert curve["epoch"].tolist() == [-1, 0, 1]
    assert curve["valid_loss"].tolist() == [9.0, 5.0, 4.5]
    assert curve["pt_head_valid_loss"].tolist() == [1.0, 1.1, 1.3]
    np.testing.assert_allclose(curve["pt_head_valid_rmse_forces_eV_A"], [0.1, 0.11, 0.13])
    assert curve["train_loss"][2] == 2.5
