"""Messages, and products of them, as products of matrices: the same function and gradients, and nothing left of it."""

from __future__ import annotations

import contextlib
import io

import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import numpy as np
import pytest
import torch
from ase.build import molecule
from e3nn import o3
from mace import data
from mace.modules.symmetric_contraction import SymmetricContraction
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric.dataloader import DataLoader

from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.programs import mace_fused
from tests.fixtures.waters import two_waters

ICE_XTB = FOUNDATIONS["ice-xtb"].path


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def load(file):
    model = torch.load(file, map_location="cpu", weights_only=False).to(torch.float64)
    return model.requires_grad_(True)


def batch(model, images):
    """Return graphs of all images as MACE's loader makes them."""
    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    graphs = []
    for atoms in images:
        configuration = data.config_from_atoms(atoms, key_specification=data.KeySpecification())
        graphs.append(data.AtomicData.from_config(configuration, table, cutoff=float(model.r_max), heads=model.heads))
    return next(iter(DataLoader(graphs, batch_size=len(graphs))))


def gradients(model, images):
    """Return a loss of energies, forces and stress, and its gradient by the weights."""
    output = model(batch(model, images).to_dict(), training=True, compute_force=True, compute_stress=True)
    loss = (output["energy"] ** 2).sum() + (output["forces"] ** 2).sum() + (output["stress"] ** 2).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def shaken(atoms, seed):
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("hidden", [True, False], ids=["hidden weights", "whole weights"])
def test_fused_convolutions_sum_the_same_messages(tiny_model_file, hidden):
    """All convolutions of the shipped foundation are of scalars; of the tiny model only the first is."""
    for file, expected in ((FOUNDATIONS["ice-xtb"].path, 2), (tiny_model_file, 1)):
        model = torch.load(file, map_location="cpu", weights_only=False).to(torch.float64)
        first = model.interactions[0]
        product, radial = first.conv_tp, first.conv_tp_weights
        if not hidden:  # a network of another class, which cannot be taken apart
            first.conv_tp_weights = torch.nn.Sequential(*radial)
        rng = torch.Generator().manual_seed(0)
        edges = torch.tensor([[0, 1, 2, 0, 1], [1, 0, 0, 2, 2]])  # nothing comes to atom 3
        elements, examples = torch.tensor([0, 1, 0, 1]), torch.tensor([2, 1])
        features = torch.randn(2, product.irreps_in1.dim, generator=rng, dtype=torch.float64)[elements]
        sphere = torch.randn(5, product.irreps_in2.dim, generator=rng, dtype=torch.float64)
        radii = torch.randn(5, radial.hs[0], generator=rng, dtype=torch.float64)
        terms = product(features[edges[0]], sphere, radial(radii))
        sums = torch.zeros(4, terms.shape[1], dtype=torch.float64).index_add(0, edges[1], terms)
        assert mace_fused.fuse(model)["convolutions"] == expected
        weights = first.conv_tp_weights(radii)
        assert weights.shape[1] == radial.hs[-1 - hidden]
        assert (first.conv_tp.mixing is not None) == hidden
        for known in (False, True):
            if known:
                assert first.conv_tp.know_elements(elements, examples) == (hidden and file != tiny_model_file)
            torch.testing.assert_close(first.conv_tp(features, sphere, weights, edges), sums)
            nothing = first.conv_tp(features, sphere[:0], weights[:0], edges[:, :0])
            torch.testing.assert_close(nothing, torch.zeros_like(sums))
        assert mace_fused.fuse(model) == {"convolutions": 0, "contractions": 0}


@pytest.mark.parametrize("correlation", [1, 2, 3])
@pytest.mark.parametrize("out", ["0e", "1o", "2e"])
@pytest.mark.parametrize("fixed", [False, True])
def test_fused_contractions_are_the_same_polynomials(correlation, out, fixed):
    """Of scalars, vectors and tensors, of each degree, for atoms in any order and elements that are absent."""
    irreps = o3.Irreps("3x0e + 3x1o + 3x2e")
    whole = SymmetricContraction(irreps, o3.Irreps(f"3x{out}"), correlation, num_elements=4, shared_weights=True)
    (contraction,) = whole.contractions
    fused = (mace_fused.FixedContraction if fixed else mace_fused.FusedContraction)(contraction)
    x = torch.randn(7, 3, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.eye(4)[[2, 0, 0, 3, 2, 0, 3]]
    for _ in range(2):  # the second time from what is known
        expected, found = contraction(x, y), fused(x, y)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad((one**2).sum(), x)[0] for one in (expected, found)]
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("block", [1, 10, 2**16], ids=["atom by atom", "blocks", "whole"])
def test_slopes_of_fixed_messages_are_those_of_the_sum(block, monkeypatch):
    """For all that they depend on, and however many atoms are taken at a time."""
    monkeypatch.setattr(mace_fused, "BLOCK", block)
    model = load(ICE_XTB)
    convolution = model.interactions[1].conv_tp
    last = list(model.interactions[1].conv_tp_weights)[-1]
    rng = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 9, (2, 60), generator=rng)
    widths = (convolution.irreps_in1.dim, convolution.irreps_in2.dim, last.h_in)
    values = [
        torch.randn(length, width, generator=rng, requires_grad=True)
        for length, width in zip((10, 60, 60), widths, strict=True)
    ]
    results = []
    for trained in (True, False):
        summed = mace_fused.FusedConvolution(convolution, last, trained=trained)(*values, edges)
        results.append((summed, *torch.autograd.grad((summed**2).sum(), values)))
    for expected, found in zip(*results, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("irreps", ["3x0e", "3x0e + 4x1o + 2x2e"])
def test_layers_by_element_are_the_same(irreps):
    """With the weights of each element, in any order of the atoms."""
    product = o3.FullyConnectedTensorProduct(irreps, "4x0e", "5x" + irreps.replace("3x", "", 1))
    assert mace_fused.LinearByElement.suits(product)
    x = torch.randn(7, product.irreps_in1.dim, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.eye(4)[[2, 0, 0, 3, 2, 0, 3]]
    results = []
    for one in (product, mace_fused.LinearByElement(product)):
        out = one(x, y)
        results.append((out, *torch.autograd.grad((out**2).sum(), x)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("elements", ["4x1o", "2x0e + 2x0e"])
def test_layers_of_other_products_are_left_alone(elements):
    assert not mace_fused.LinearByElement.suits(o3.FullyConnectedTensorProduct("3x0e + 3x1o", elements, "3x0e + 3x1o"))


def test_elements_that_would_cost_more_than_channels_are_not_told_apart(tiny_model_file):
    model = torch.load(tiny_model_file, map_location="cpu", weights_only=False)
    mace_fused.fuse(model)
    fused = model.interactions[0].conv_tp
    most = fused.channels * len(fused.slices) // fused.mixing.shape[1]
    for number, wanted in ((most, True), (most + 1, False)):
        assert fused.know_elements(torch.arange(number), torch.arange(number)) == wanted


@pytest.mark.parametrize("scalars", [True, False])
def test_gradients_of_a_training_are_those_of_mace(scalars, tiny_model_file):
    """Elements are told apart in the foundation alone; of the tiny model only the first convolution is of scalars."""
    model = load(ICE_XTB if scalars else tiny_model_file)
    images = [shaken(two_waters(), 0), shaken(molecule("H2O"), 1), shaken(molecule("H2"), 2), shaken(two_waters(), 3)]
    expected = gradients(model, images)
    with mace_fused.fused_for_training(model) as count:
        assert count == {"convolutions": 1 + scalars, "contractions": 2 + (not scalars)}
        found = gradients(model, images)
        only_hydrogen = gradients(model, images[2:3])
    torch.testing.assert_close(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(only_hydrogen, gradients(model, images[2:3]))


def test_a_model_is_as_it_was_after_its_training(tiny_model_file):
    for file in (ICE_XTB, tiny_model_file):
        model = load(file)
        keys, before, after = list(model.state_dict()), io.BytesIO(), io.BytesIO()
        torch.save(model, before)
        with mace_fused.fused_for_training(model):
            assert list(model.state_dict()) == keys
            gradients(model, [two_waters()])
            model.zero_grad()
        torch.save(model, after)
        assert after.getvalue() == before.getvalue()
        assert mace_fused.fuse(model)["contractions"] > 0


def test_a_step_of_the_optimiser_changes_what_is_summed():
    """The last layer of the radial network is read anew at every step."""
    losses = []
    for way in (contextlib.nullcontext, mace_fused.fused_for_training):
        model = load(ICE_XTB)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-9)
        with way(model):
            before, _ = gradients(model, [two_waters()])
            optimiser.step()
            losses.append(gradients(model, [two_waters()])[0])
    assert losses[0] < before
    torch.testing.assert_close(*losses)
