import json

import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.checks import check_training, inputs_problem
from aiida_mlfinetune.science.training.heads import HeadSets, heads_problem, split_replay
from aiida_mlfinetune.science.training.inputs import e0s_problem, mace_config, parameters_problem, resolve_e0s
from aiida_mlfinetune.science.training.mace_arguments import ARGUMENTS, DEFAULTS, SET_BY_US
from aiida_mlfinetune.science.training.record import expected_record, record_differences

LEVEL = "pbe/vasp"
SCRATCH = {"mode": "scratch", "seed": 1, "batch_size": 1}
NAIVE = {"mode": "naive", "seed": 1, "batch_size": 1}
ESTIMATED = {"source": "estimated"}
REPLAY = {"mode": "multihead-replay", "seed": 1, "batch_size": 1, "replay_level": LEVEL}


def make_frames(n=3, shift=0.0, formula="H2O", forces=True, stress=True, energy=True, level=LEVEL):
    size = len(Atoms(formula))
    images = [
        Atoms(formula, positions=np.arange(3.0 * size).reshape(-1, 3) * (1 + 0.01 * i + shift), cell=[9] * 3, pbc=True)
        for i in range(n)
    ]
    frames = Frames.from_atoms(images)
    labels = Labels.build(
        Level(level),
        frames.offsets,
        np.full(n, -10.0) if energy else None,
        np.zeros((n * size, 3)) if forces else None,
        np.zeros((n, 3, 3)) if stress else None,
    )
    return frames.with_labels(labels)


def large_energies():
    """Return frames whose energies differ by less than float32 can tell."""
    frames = make_frames()
    labels = Labels.build(
        Level(LEVEL),
        frames.offsets,
        np.array([-2e5, -2e5 + 0.003, -2e5 + 0.005]),
        np.zeros((9, 3)),
        np.zeros((3, 3, 3)),
    )
    return frames.without_level(LEVEL).with_labels(labels)


def make_passport(elements=("H", "O"), heads=("Default",), levels=None):
    e0s = {head: dict.fromkeys(elements, -1.0 - i) for i, head in enumerate(heads)}
    return Passport("0" * 64, "0.3", 5.0, list(elements), list(heads), e0s, "float64", 10, levels=levels or {})


def check(train=None, valid=None, test=None, level=LEVEL, parameters=SCRATCH, e0s=ESTIMATED, foundation=None, **more):
    check_training(
        make_frames() if train is None else train,
        make_frames(shift=0.5) if valid is None else valid,
        test,
        level,
        parameters,
        e0s,
        foundation,
        **more,
    )


def test_the_table_of_arguments_is_that_of_the_installed_mace():
    from mace.tools.arg_parser import build_default_arg_parser, str2bool

    actions = {action.dest: action for action in build_default_arg_parser()._actions}
    for name, argument in ARGUMENTS.items():
        action = actions[name]
        boolean = action.type is str2bool or type(action).__name__ == "_StoreTrueAction"
        kind = bool if boolean else {None: str}.get(action.type, action.type)
        if name != "clip_grad":  # a number or "None"
            assert kind is argument.kind, name
        if argument.choices and action.choices:
            assert set(argument.choices) <= set(action.choices), name
    for name, value in DEFAULTS.items():
        assert actions[name].default == value, name
    options = {option.lstrip("-") for action in actions.values() for option in action.option_strings}
    assert set(SET_BY_US) <= options


def test_good_parameters_pass():
    assert parameters_problem({**SCRATCH, "num_channels": 8, "loss": "stress", "stress_weight": 10, "lr": 1}) is None
    stage_two = {"swa": True, "start_swa": 5, "swa_lr": 1e-4, "max_num_epochs": 10, "swa_energy_weight": 100.0}
    assert parameters_problem({**NAIVE, **stage_two, "foundation_head": "Default", "molecule": "H2O"}) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seed": 1}, "'mode' must be one of"),
        ({"mode": "replay", "seed": 1}, "'mode' must be one of"),
        ({"mode": "scratch"}, "'seed' is missing"),
        ({**SCRATCH, "learning_rate": 1}, "unknown parameter 'learning_rate'"),
        ({**SCRATCH, "batchsize": 1}, "did you mean 'batch_size'"),
        ({**SCRATCH, "E0s": "average"}, "it is the input 'e0s'"),
        ({**SCRATCH, "lr": "0.1"}, "'lr' must be of type float"),
        ({**SCRATCH, "batch_size": 2.0}, "'batch_size' must be of type int"),
        ({**SCRATCH, "ema": 1}, "'ema' must be of type bool"),
        ({**SCRATCH, "max_num_epochs": True}, "'max_num_epochs' must be of type int"),
        ({**SCRATCH, "max_num_epochs": 0}, "at least 1"),
        ({**SCRATCH, "lr": float("nan")}, "at least 0"),
        ({**SCRATCH, "loss": "dipole"}, "'loss' must be one of"),
        ({**SCRATCH, "foundation_head": "Default"}, "no effect in mode 'scratch'"),
        ({**NAIVE, "num_channels": 8}, "fixed by the foundation"),
        ({**SCRATCH, "stress_weight": 1.0}, "'stress_weight' has no effect unless 'loss' is"),
        ({**SCRATCH, "ema_decay": 0.9}, "'ema_decay' has no effect unless 'ema' is True"),
        ({**SCRATCH, "lr_scheduler_gamma": 0.9}, "no effect unless 'scheduler' is 'ExponentialLR'"),
        ({**SCRATCH, "swa_lr": 1e-4}, "'swa_lr' has no effect unless 'swa'"),
        ({**SCRATCH, "swa": True, "start_swa": 5}, "needs 'start_swa'"),
        ({**SCRATCH, "swa": True, "start_swa": 9, "swa_lr": 1e-4, "max_num_epochs": 9}, "would never start"),
        (
            {**SCRATCH, "swa": True, "start_swa": 5, "swa_lr": 1e-4, "max_num_epochs": 8, "eval_interval": 4},
            "before its first validation",
        ),
        (
            {**SCRATCH, "swa": True, "start_swa": 5, "swa_lr": 1e-4, "max_num_epochs": 9, "loss": "huber"},
            "silently replaces the loss 'huber'",
        ),
        (
            {**SCRATCH, "swa": True, "start_swa": 5, "swa_lr": 1e-4, "max_num_epochs": 9, "forces_weight": 0.0},
            "'swa_forces_weight'",
        ),
        ({**SCRATCH, "loss": "ef"}, "'loss' must be one of"),
        ({**SCRATCH, "freeze": 6}, "no effect without a foundation"),
        ({**NAIVE, "freeze": 7}, "'freeze' must be one of [1, 5, 6]"),
        ({**NAIVE, "lora_rank": 2}, "no effect unless 'lora' is True"),
        ({**NAIVE, "lora": True, "freeze": 1}, "no effect with LoRA"),
        ({**NAIVE, "replay_level": "pbe"}, "no effect in mode 'naive'"),
        ({**SCRATCH, "baseline_level": "pbe"}, "no effect in mode 'scratch'"),
        ({**REPLAY, "replay_valid": 1.5}, "fraction between 0 and 1"),
        ({**REPLAY, "replay_seed": -1}, "at least 0"),
        ({**REPLAY, "pt_train_file": "x"}, "it is the input 'replay'"),
        ({**REPLAY, "heads": "x"}, "it is the input 'heads'"),
        ({**REPLAY, "num_channels": 4}, "fixed by the foundation in mode 'multihead-replay'"),
        (
            {**SCRATCH, "swa": True, "start_swa": 5, "swa_lr": 1e-4, "swa_stress_weight": 1.0},
            "'swa_stress_weight' has no effect",
        ),
        ({**SCRATCH, "molecule": 3}, "'molecule' must be a string"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    assert message in parameters_problem(parameters)


@pytest.mark.parametrize(
    ("e0s", "mode", "message"),
    [
        ({"source": "guess"}, "scratch", "must be one of"),
        ({"source": "average"}, "multi-level", "'estimated' is the same least-squares fit, made for each head"),
        ({"source": "estimated", "heads": {"low": {"source": "average"}}}, "multi-level", "of head 'low'"),
        ({"source": "estimated", "heads": ["low"]}, "multi-level", "source and values by head"),
        ({"source": "estimated", "heads": {"low": {"value": 1}}}, "multi-level", "of head 'low' are given as"),
        ({"source": "estimated", "value": {}}, "scratch", "unknown entries ['value']"),
        ({"source": "foundation"}, "scratch", "cannot be those of the foundation"),
        ({"source": "given"}, "naive", "'values'"),
        ({"source": "estimated", "values": {"H": 1.0}}, "naive", "'values'"),
        ({"source": "given", "values": {"Xx": 1.0}}, "naive", "element: eV"),
        ({"source": "given", "values": {"H": "1"}}, "naive", "element: eV"),
    ],
)
def test_bad_reference_energies_are_named(e0s, mode, message):
    assert message in e0s_problem(e0s, mode)


def test_good_training_passes():
    check()
    check(parameters=NAIVE, foundation=make_passport(("H", "C", "O")), test=make_frames(shift=0.7))
    check(parameters={**SCRATCH, "loss": "universal"})
    energies_only = make_frames(forces=False, stress=False)
    check(train=energies_only, parameters={**SCRATCH, "forces_weight": 0.0, "scaling": "std_scaling"})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"parameters": NAIVE}, "give the input 'foundation'"),
        ({"foundation": make_passport()}, "remove the input 'foundation'"),
        ({"valid": make_frames(1, shift=0.5)}, "validation set has 1 frames"),
        (
            {"parameters": {**SCRATCH, "mode": "multihead-replay"}, "foundation": make_passport()},
            "needs the input 'replay'",
        ),
        ({"replay": make_frames(6, shift=3)}, "'replay' has no effect in mode 'scratch'"),
        (
            {"parameters": REPLAY, "foundation": make_passport(), "replay": make_frames(6, shift=3, level="pbe")},
            "the replay set has no labels at level 'pbe/vasp'",
        ),
        (
            {
                "parameters": REPLAY,
                "foundation": make_passport(),
                "replay": Frames.concatenate([make_frames(6, shift=3), make_frames(2, shift=0.5)]),
            },
            "validation frames are replay frames",
        ),
        (
            {"parameters": {**NAIVE, "mode": "transfer"}, "foundation": make_passport()},
            "does not say at which level",
        ),
        (
            {"parameters": {**NAIVE, "mode": "transfer"}, "foundation": make_passport(levels={"Default": LEVEL})},
            "was trained at 'pbe/vasp' itself",
        ),
        ({"parameters": {**SCRATCH, "mode": "multi-level"}}, "needs the input 'heads'"),
        (
            {"parameters": {**SCRATCH, "mode": "multi-level"}, "heads": {"lower": "pbe"}},
            "no labels at level 'pbe'",
        ),
        (
            {"parameters": {**SCRATCH, "mode": "multi-level", "freeze": 6}, "heads": {"lower": "pbe"}},
            "'freeze' has no effect without a foundation",
        ),
        (
            {"parameters": {**SCRATCH, "loss": "l1l2energyforces"}, "valid": make_frames(shift=1, forces=False)},
            "use 'weighted' instead",
        ),
        (
            {"train": large_energies(), "parameters": {**SCRATCH, "default_dtype": "float32"}},
            "set 'default_dtype' to 'float64'",
        ),
        ({"level": "pbe"}, "no labels at level 'pbe'"),
        ({"valid": make_frames()}, "3 of the validation frames are training frames"),
        ({"test": make_frames(shift=0.5)}, "test frames are validation frames"),
        ({"train": make_frames(energy=False)}, "training frames have no energy"),
        ({"valid": make_frames(shift=1, formula="CO2")}, "validation frames hold \\['C'\\]"),
        ({"parameters": NAIVE, "foundation": make_passport(("H", "C"))}, "does not know the elements \\['O'\\]"),
        ({"parameters": NAIVE, "foundation": make_passport(heads=("a", "b"))}, "say in 'foundation_head'"),
        ({"parameters": {**NAIVE, "foundation_head": "c"}, "foundation": make_passport()}, "no head 'c'"),
        ({"train": make_frames(forces=False)}, "set 'forces_weight' to 0"),
        (
            {"train": make_frames(forces=False), "parameters": {**SCRATCH, "forces_weight": 0.0}},
            "set 'scaling' to 'std_scaling'",
        ),
        ({"train": make_frames(stress=False), "parameters": {**SCRATCH, "loss": "stress"}}, "has a stress"),
        (
            {
                "train": Frames.concatenate([make_frames(), make_frames(shift=2, stress=False)]),
                "parameters": {**SCRATCH, "loss": "huber"},
            },
            "'huber' takes missing labels for zeros",
        ),
        ({"parameters": {**SCRATCH, "batch_size": 4}}, "'batch_size' 4 is larger"),
        ({"e0s": {"source": "given", "values": {"H": -1.0}}}, "given for \\['H'\\]"),
        ({"e0s": {"source": "given", "values": {"H": -1.0, "O": 1.0, "C": 2.0}}}, "one value for each"),
        ({"e0s": {"source": "isolated"}}, "a single H atom"),
    ],
)
def test_bad_trainings_are_refused(inputs, message):
    with pytest.raises(MlFinetuneError, match=message):
        check(**inputs)


def test_reference_energies_are_resolved_by_mode_and_source():
    head = HeadSets("Default", LEVEL, make_frames(), make_frames(shift=0.5))
    two, elements = make_passport(heads=("a", "b")), ["H", "O"]
    assert resolve_e0s(head, elements, NAIVE, ESTIMATED, make_passport()) is None
    assert resolve_e0s(head, elements, SCRATCH, ESTIMATED, None) == pytest.approx({"H": -4.0, "O": -2.0})
    named = {**NAIVE, "foundation_head": "b"}
    assert resolve_e0s(head, elements, named, {"source": "foundation"}, two) == {"H": -2.0, "O": -2.0}
    given = {"source": "given", "values": {"O": -2.5, "H": -1}}
    assert resolve_e0s(head, elements, named, given, two) == {"H": -1.0, "O": -2.5}
    lower = HeadSets("lower", LEVEL, make_frames(), make_frames(shift=0.5))
    both = {**given, "heads": {"lower": {"source": "foundation"}}}
    assert resolve_e0s(lower, elements, named, both, two) == {"H": -2.0, "O": -2.0}
    with pytest.raises(MlFinetuneError, match="for head 'Default' only"):
        resolve_e0s(lower, elements, named, given, two)
    replay = HeadSets("pt_head", LEVEL, make_frames(), make_frames(shift=0.5))
    assert resolve_e0s(replay, elements, named, given, two) == {"H": -2.0, "O": -2.0}
    with pytest.raises(MlFinetuneError, match="hold no \\['C'\\]"):
        resolve_e0s(head, ["H", "C", "O"], SCRATCH, ESTIMATED, None)


def test_maces_input_holds_exact_reference_energies():
    config = mace_config(
        {**SCRATCH, "molecule": "H2O"}, ["Default"], fine_tuned=False, e0s={"H": -13.1234567890123, "O": -432.0}
    )
    assert config["E0s"] == "{1: -13.1234567890123, 8: -432.0}"
    assert not {"mode", "molecule"} & set(config)
    assert (config["plot"], config["num_workers"]) == (False, 0)
    naive = mace_config(NAIVE, ["Default"], fine_tuned=True, e0s=None)
    assert (naive["E0s"], naive["multiheads_finetuning"]) == ("foundation", False)
    json.dumps(naive)
    with pytest.raises(MlFinetuneError, match="needs reference energies"):
        mace_config(SCRATCH, ["Default"], fine_tuned=False, e0s=None)
    replay = mace_config(REPLAY, ["pt_head", "Default"], fine_tuned=True, e0s=None)
    assert "E0s" not in replay
    assert replay["multiheads_finetuning"] is False


@pytest.mark.parametrize(
    ("heads", "mode", "message"),
    [
        (None, "multi-level", "needs the input 'heads'"),
        ({"low": "a"}, "naive", "no effect in mode 'naive'"),
        ({}, "multi-level", "at least one further head"),
        ({"low": "a", "high": "b"}, "multi-fidelity", "takes one in 'heads'"),
        ({"low level": "a"}, "multi-level", "starts with a letter"),
        ({"Default": "a"}, "multi-level", "is taken by the head of the target level"),
        ({"pt_head": "a"}, "multi-level", "is taken by the head of the replay set"),
        ({"low": 3}, "multi-level", "give the key of a level"),
        ({"low": "a", "other": "a"}, "multi-level", "level 'a' is listed twice in 'heads', by ['low', 'other']"),
        ({"low": LEVEL}, "multi-level", "which head 'Default' is trained on already"),
    ],
)
def test_bad_heads_are_named(heads, mode, message):
    assert message in heads_problem(heads, mode, LEVEL)


@pytest.mark.parametrize(
    ("e0s", "message"),
    [
        ({"lower": ESTIMATED, "hihger": ESTIMATED}, "names the heads ['hihger'], which the model does not have"),
        ({"Default": ESTIMATED}, "not in 'heads'"),
    ],
)
def test_reference_energies_of_heads_that_do_not_exist_are_refused(e0s, message):
    assert inputs_problem({"mode": "multi-level"}, ESTIMATED, {"lower": "a"}) is None
    assert message in inputs_problem({"mode": "multi-level"}, {**ESTIMATED, "heads": e0s}, {"lower": "a"})
    assert "are the foundation's" in inputs_problem(REPLAY, {**ESTIMATED, "heads": {"pt_head": ESTIMATED}}, None)


def test_a_replay_set_is_split_alike_each_time():
    train, valid = split_replay(40, 0.1, seed=3)
    assert len(valid) == 4
    assert sorted([*train, *valid]) == list(range(40))
    again = split_replay(40, 0.1, seed=3)
    assert (again[0].tolist(), again[1].tolist()) == (train.tolist(), valid.tolist())
    assert split_replay(40, 0.1, seed=4)[1].tolist() != valid.tolist()
    assert [len(part) for part in split_replay(5, 0.1, seed=0)] == [3, 2]


def test_a_record_that_says_what_was_asked_for_has_no_differences():
    head = HeadSets("Default", LEVEL, make_frames(), make_frames(shift=0.5))
    expected = expected_record({**SCRATCH, "loss": "weighted", "ema": True}, [head])
    assert expected["sets"]["train"]["Default"] == {"n": 3, "energy": 3, "forces": 3, "stress": 0}
    found = json.loads(json.dumps(expected))
    assert record_differences(expected, {**found, "n_weights": 3}) == []
    assert record_differences(expected, {**found, "ema_decay": None}) == ["ema_decay: 0.99 asked for, None done"]
    del found["loss"]["class"]
    assert record_differences(expected, found) == ["loss.class is missing"]
