"""The two sums that MACE spends its time with, as products of matrices: messages, and products of messages.

Stand-alone: needs torch and MACE only. For runs (``fuse``, by ``ipi_mace.py``) and for trainings
(``fused_for_training``, by ``mace_train.py``). The weights of a run do not change, and one derivative is all that it
takes, so that more can be made beforehand there, and derivatives are written out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import torch
from torch.autograd.function import once_differentiable

EDGE_ARCHITECTURES = ("MACE", "ScaleShiftMACE")
"""Models whose energy depends on positions through the edge vectors alone."""

BLOCK = 2**16
"""Numbers of an array that stays in the cache of a core together with some others like it."""


class FusedConvolution(torch.nn.Module):
    """The sum over edges of e3nn's product of features and spherical harmonics, for features that are scalars.

    With features x of the sender j, weights w^p and harmonics Y of every edge, the message of channel u and path p is
    m_iu = c_p sum_e w_eu^p x_ju Y_e. MACE writes out each term, an array (edges, channels, 9) for l up to 2, which
    costs memory traffic rather than arithmetic. Here the edges of an atom are rows of a matrix, and the sum is a
    product of matrices; it goes into MACE where its own fused kernels go (``conv_fusion``).

    The last layer of the network that makes the weights is linear, w^p = h W^p (``mixing``, with c_p in it), so that h,
    some tens of numbers an edge, is handed over instead of w. Where x_j depends on the element s of the sender alone,
    as it does in the first interaction, m_iu = sum_sk x_su W_ku^p sum_(e from s) h_ek Y_e, and no array of edges and
    channels is left (``know_elements``).

    Args:
        product: e3nn's.
        last: last layer of the network, if h is handed over.
        trained: whether that layer changes; else ``mixing`` is made of it once.

    Attributes:
        mixing: (paths, hidden, channels), None for weights that come whole.
    """

    def __init__(self, product: Any, last: Any = None, *, trained: bool = False) -> None:
        super().__init__()
        self.slices = [
            (product.irreps_in2.slices()[path.i_in2], product.irreps_in2[path.i_in2].ir.dim)
            for path in product.instructions
        ]
        self.channels = product.irreps_in1[0].mul
        ones = [torch.ones(1, irreps.dim, dtype=torch.float64) for irreps in (product.irreps_in1, product.irreps_in2)]
        weights = torch.ones(1, product.weight_numel, dtype=torch.float64)
        found = copy.deepcopy(product).to("cpu", torch.float64)(*ones, weights)[0]
        self.factors = [float(found[part][0]) for part in product.irreps_out.slices()]
        self.mixing: torch.Tensor | None = None if last is None else self._mixing(last).detach()
        self._last = (last,) if trained and last is not None else ()  # in a tuple, as it belongs to the model
        self._elements: torch.Tensor | None = None
        self._examples = torch.empty(0, dtype=torch.int64)

    @staticmethod
    def suits(product: Any) -> bool:
        """Return whether a product is of scalars of the sender and one path for each block of the output."""
        inputs, outputs = getattr(product, "irreps_in1", ()), getattr(product, "irreps_out", ())
        return (
            len(inputs) == 1
            and inputs[0].ir.l == 0
            and len(outputs) == len(product.instructions)
            and all(path.i_out == number for number, path in enumerate(product.instructions))
            and all(path.connection_mode == "uvu" and path.has_weight for path in product.instructions)
            and all(product.irreps_in2[path.i_in2].mul == 1 for path in product.instructions)
            and all(
                out.ir.dim == product.irreps_in2[path.i_in2].ir.dim
                for out, path in zip(outputs, product.instructions, strict=True)
            )
        )

    def know_elements(self, elements: torch.Tensor, examples: torch.Tensor) -> bool:
        """Let the features of an atom be those of its element in the next call; return whether that saves anything.

        Args:
            elements: (atoms,) number of the element of each atom.
            examples: (elements,) an atom of each element.
        """
        if self.mixing is None or len(examples) * self.mixing.shape[1] > self.channels * len(self.slices):
            return False
        self._elements, self._examples = elements, examples
        return True

    def forward(self, features: Any, harmonics: Any, weights: Any, edges: Any) -> Any:
        """Return (atoms, outputs).

        Args:
            features: (atoms, channels).
            harmonics: (edges, harmonics).
            weights: (edges, hidden), or (edges, paths x channels) without ``mixing``.
            edges: (2, edges) senders and receivers.
        """
        elements, self._elements = self._elements, None
        mixing = self._mixing(*self._last) if self._last else self.mixing
        n_atoms, n_elements = features.shape[0], 1 if elements is None else len(self._examples)
        groups = edges[1] if elements is None else edges[1] * n_elements + elements[edges[0]]
        rows, longest = _rows(groups, n_atoms * n_elements)
        shape = (n_atoms * n_elements, longest, -1)
        sphere = _padded(harmonics, rows, shape).transpose(1, 2)
        padded = _padded(weights, rows, shape)
        if elements is None:
            senders = edges.new_zeros(n_atoms * longest).index_copy(0, rows, edges[0])
            if mixing is not None and not self._last:
                return FixedMessages.apply(features, sphere, padded, senders, mixing, [part for part, _ in self.slices])
            parts = self._by_senders(features.index_select(0, senders), sphere, padded, mixing)
        else:
            summed = torch.bmm(sphere, padded).view(n_atoms, n_elements, sphere.shape[1], -1)
            parts = self._by_elements(features.index_select(0, self._examples), summed, mixing)
        return torch.cat([part.transpose(1, 2).reshape(n_atoms, -1) for part in parts], dim=1)

    def _mixing(self, last: Any) -> Any:
        """Return (paths, hidden, channels) of the last layer, with the factor of each path."""
        whole = last(torch.eye(last.h_in, dtype=last.weight.dtype, device=last.weight.device))
        by_path = whole.view(last.h_in, len(self.slices), self.channels).unbind(1)
        return torch.stack([part * factor for part, factor in zip(by_path, self.factors, strict=True)])

    def _by_senders(self, features: Any, sphere: Any, weights: Any, mixing: Any) -> list[Any]:
        """Return (atoms, 2l + 1, channels) by path from features of the sender, harmonics and weights of each edge."""
        parts = []
        features = features.view(*weights.shape[:2], self.channels)
        for path, (part, _) in enumerate(self.slices):
            if mixing is None:
                own = weights[:, :, path * self.channels : (path + 1) * self.channels] * self.factors[path]
            else:
                own = weights @ mixing[path]
            parts.append(torch.bmm(sphere[:, part], own * features))
        return parts

    def _by_elements(self, features: Any, summed: Any, mixing: Any) -> list[Any]:
        """Return (atoms, 2l + 1, channels) by path from features of elements and sums (atoms, elements, 9, hidden)."""
        parts = []
        n_atoms = len(summed)
        for path, (part, width) in enumerate(self.slices):
            mixed = (features[:, None] * mixing[path]).view(-1, self.channels)
            own = summed[:, :, part].transpose(1, 2).reshape(n_atoms * width, -1)
            parts.append((own @ mixed).view(n_atoms, width, -1))
        return parts


class FixedMessages(torch.autograd.Function):
    """The sum of ``FusedConvolution`` by senders, for weights that do not change: its derivative is written out.

    Some atoms at a time, so that what is made for their edges stays in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Any, sphere: Any, hidden: Any, senders: Any, mixing: Any, parts: list[slice]
    ) -> torch.Tensor:
        """Return (atoms, outputs).

        Args:
            ctx: of the derivative.
            features: (atoms, channels).
            sphere: (atoms, harmonics, edges) of the edges of each atom.
            hidden: (atoms, edges, hidden).
            senders: (atoms x edges,).
            mixing: (paths, hidden, channels).
            parts: harmonics of each path.
        """
        n_atoms, n_channels = features.shape
        n_edges = hidden.shape[1]
        out = features.new_empty(n_atoms, sphere.shape[1] * n_channels)
        blocks = list(_blocks(n_atoms, n_edges * n_channels))
        kept = []
        for block in blocks:
            rows = slice(block.start * n_edges, block.stop * n_edges)
            sent = features.index_select(0, senders[rows])
            flat = hidden[block].reshape(len(sent), -1)
            weights = [flat @ own for own in mixing]
            for part, own in zip(parts, weights, strict=True):
                terms = (own * sent).view(-1, n_edges, n_channels)
                summed = torch.bmm(sphere[block, part], terms)
                columns = slice(part.start * n_channels, part.stop * n_channels)
                out[block, columns] = summed.transpose(1, 2).reshape(len(summed), -1)
            kept.append((sent, weights))
        ctx.kept, ctx.blocks, ctx.parts = kept, blocks, parts
        ctx.save_for_backward(features, sphere, hidden, senders, mixing)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Any) -> tuple[Any, ...]:
        """Return the derivatives by features, harmonics and hidden."""
        features, sphere, hidden, senders, mixing = ctx.saved_tensors
        n_channels, n_edges = features.shape[1], hidden.shape[1]
        of_features, of_sphere = torch.zeros_like(features), torch.empty_like(sphere)
        of_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
        for block, (sent, weights) in zip(ctx.blocks, ctx.kept, strict=True):
            rows = slice(block.start * n_edges, block.stop * n_edges)
            of_sent = torch.zeros_like(sent)
            flat = of_hidden[block].view(len(sent), -1)
            for part, own, mixed in zip(ctx.parts, weights, mixing, strict=True):
                columns = slice(part.start * n_channels, part.stop * n_channels)
                of_sum = slope[block, columns].reshape(-1, n_channels, part.stop - part.start)
                terms = (own * sent).view(-1, n_edges, n_channels)
                of_sphere[block, part] = torch.bmm(terms, of_sum).transpose(1, 2)
                of_terms = torch.bmm(sphere[block, part].transpose(1, 2), of_sum.transpose(1, 2)).view_as(sent)
                of_sent.addcmul_(of_terms, own)
                flat.addmm_(of_terms.mul_(sent), mixed.T)
            of_features.index_add_(0, senders[rows], of_sent)
        return of_features, of_sphere, of_hidden, None, None, None


class FusedContraction(torch.nn.Module):
    """Products of up to nu messages of an atom, summed with the weights of its element (MACE, eq. 10 and 11).

    The result is a polynomial of degree nu in the (2l + 1) components of a channel, with coefficients
    C_cij.. = sum_k U_ij..k W_ekc of that channel and element. MACE contracts U with the components of each atom before
    it applies W, for all k; here the coefficients come first, once for an element, and the polynomial of all its atoms
    is a product of matrices (Horner's scheme).

    Args:
        contraction: MACE's, of one irreducible representation.
    """

    def __init__(self, contraction: Any) -> None:
        super().__init__()
        self._of = (contraction,)  # in a tuple, as it belongs to the model

    @staticmethod
    def suits(contraction: Any) -> bool:
        """Return whether a module is MACE's own, not that of cuEquivariance."""
        return type(contraction).__name__ == "Contraction" and hasattr(contraction, "weights_max")

    def forward(self, x: Any, y: Any) -> Any:
        """Return (atoms, channels x (2L + 1)).

        Args:
            x: (atoms, channels, components).
            y: (atoms, elements), one of each row is 1.
        """
        order, counts = _by_element(y)
        parts = [
            self._of_element(element, own)
            for element, own in enumerate(x.index_select(0, order).split(counts))
            if len(own)
        ]
        return torch.cat(parts).index_select(0, torch.argsort(order))

    def _of_element(self, element: int, x: Any) -> Any:
        x = x.permute(1, 2, 0).contiguous()  # channels, components, atoms
        n_channels, n_components, n_atoms = x.shape
        highest, *lower = self._coefficients(element)
        value = torch.bmm(highest.view(n_channels, -1, n_components), x)
        for coefficients in lower:
            value = (value + coefficients[:, :, None]).view(n_channels, -1, n_components, n_atoms)
            value = (value * x[:, None]).sum(dim=2)
        return value.permute(2, 0, 1).reshape(n_atoms, -1)

    def _coefficients(self, element: int) -> list[torch.Tensor]:
        """Return (channels, all), the highest degree first."""
        (contraction,) = self._of
        weights, found = [contraction.weights_max, *contraction.weights], []
        for degree, weight in zip(range(contraction.correlation, 0, -1), weights, strict=True):
            table = contraction.U_tensors(degree)
            whole = torch.tensordot(weight[element], table, dims=([0], [table.dim() - 1]))
            found.append(whole.view(contraction.num_features, -1))
        return found


class FixedContraction(FusedContraction):
    """The same for weights that do not change.

    With 1 as one more component of x all terms of the polynomial P have the degree nu, so that by Euler's theorem
    nu P = sum_a x_a dP/dx_a. The derivatives are sums over the products of nu - 1 components, which are fewer than
    all their orders, and come as one product of matrices with the value, whose own derivative they are.
    """

    def __init__(self, contraction: Any) -> None:
        super().__init__(contraction)
        self.known: dict[int, torch.Tensor] = {}
        self._factors: list[torch.Tensor] | None = None

    def _of_element(self, element: int, x: Any) -> Any:
        (contraction,) = self._of
        if element not in self.known:
            self.known[element] = self._slopes(element, x.shape[2], contraction.correlation)
        if self._factors is None:
            products = _products(x.shape[2] + 1, contraction.correlation - 1)
            self._factors = [torch.tensor(factor, device=x.device) for factor in zip(*products, strict=True)]
        return Polynomial.apply(x, self.known[element], self._factors).reshape(len(x), -1)

    def _slopes(self, element: int, n_components: int, degree: int) -> torch.Tensor:
        """Return (channels, outputs x (components + 1), products of degree - 1) coefficients of the derivatives."""
        one = n_components  # number of the component that is 1
        products, terms = _products(one + 1, degree - 1), _products(one + 1, degree)
        place = {term: number for number, term in enumerate(terms)}
        coefficients = self._coefficients(element)
        n_channels, n_outputs = len(coefficients[0]), coefficients[-1].shape[1] // n_components
        whole = coefficients[0].new_zeros(n_channels, n_outputs, len(terms))
        for missing, own in enumerate(coefficients):
            orders = itertools.product(range(n_components), repeat=degree - missing)
            number = torch.tensor([place[tuple(sorted((*order, *[one] * missing)))] for order in orders])
            whole.index_add_(2, number.to(own.device), own.detach().view(n_channels, n_outputs, -1))
        ways = [[(*product, a) for product in products] for a in range(one + 1)]
        number = torch.tensor([[place[tuple(sorted(way))] for way in of] for of in ways], device=whole.device)
        count = torch.tensor([[way.count(way[-1]) for way in of] for of in ways], device=whole.device)
        return (whole[:, :, number] * count).view(n_channels, -1, len(products))


class Polynomial(torch.autograd.Function):
    """A polynomial whose terms have one degree, from its derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Any, slopes: Any, factors: list[torch.Tensor]) -> torch.Tensor:
        """Return (atoms, channels, outputs).

        Args:
            ctx: of the derivative.
            x: (atoms, channels, components).
            slopes: (channels, outputs x (components + 1), products), of the derivatives.
            factors: for every factor of the products, the number of its component; the last component is 1.
        """
        n_atoms, n_channels, n_components = x.shape
        values = x.new_ones(n_channels, n_components + 1, n_atoms)
        values[:, :-1] = x.permute(1, 2, 0)
        product = values.new_ones(n_channels, 1, n_atoms)
        for factor in factors:
            product = product * values.index_select(1, factor)
        found = torch.bmm(slopes, product).view(n_channels, -1, n_components + 1, n_atoms)
        ctx.save_for_backward(found)
        return (found * values[:, None]).sum(dim=2).div_(len(factors) + 1).permute(2, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Any) -> tuple[Any, ...]:
        """Return the derivative by x."""
        (found,) = ctx.saved_tensors
        return (slope.permute(1, 2, 0)[:, :, None] * found[:, :, :-1]).sum(dim=1).permute(2, 0, 1), None, None


class LinearByElement(torch.nn.Module):
    """e3nn's product of features and the element of each atom, which is a linear layer for each element.

    From the elements, rows with one 1, e3nn makes a matrix of weights for every atom; here the atoms of an element are
    multiplied by its matrix together.

    Args:
        product: e3nn's, whose weights stay what they are.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        ones = [torch.ones(1, irreps.dim, dtype=torch.float64) for irreps in (product.irreps_in1, product.irreps_in2)]
        same = copy.deepcopy(product).to("cpu", torch.float64)
        n_elements, first = product.irreps_in2.dim, 0
        self.parts: list[tuple[slice, int, int]] = []
        self.weights: list[torch.Tensor] = []
        for path in product.instructions:
            length = product.irreps_in1[path.i_in1].mul * n_elements * product.irreps_out[path.i_out].mul
            of_path = product.weight.detach()[first : first + length].view(path.path_shape).transpose(0, 1)
            first += length
            out = product.irreps_out.slices()[path.i_out]
            found = same(*ones, torch.ones(product.weight_numel, dtype=torch.float64))[0, out.start]
            inputs = product.irreps_in1[path.i_in1]
            self.parts.append((product.irreps_in1.slices()[path.i_in1], inputs.mul, inputs.ir.dim))
            self.weights.append(of_path * float(found / (inputs.mul * n_elements)))

    @staticmethod
    def suits(product: Any) -> bool:
        """Return whether a product is of features and scalars, with one path for each block of the output, in order."""
        paths = getattr(product, "instructions", ())
        outputs = getattr(product, "irreps_out", ())
        return (
            type(product).__name__ == "FullyConnectedTensorProduct"
            and product.internal_weights
            and len(product.irreps_in2) == 1
            and product.irreps_in2[0].ir.is_scalar()
            and [path.i_out for path in paths] == list(range(len(outputs)))
            and all(path.connection_mode == "uvw" and path.has_weight for path in paths)
        )

    def forward(self, x: Any, y: Any) -> Any:
        """Return (atoms, outputs).

        Args:
            x: (atoms, inputs).
            y: (atoms, elements), one of each row is 1.
        """
        order, counts = _by_element(y)
        ordered = x.index_select(0, order)
        blocks = []
        for (part, mul, width), weights in zip(self.parts, self.weights, strict=True):
            block = ordered[:, part].view(-1, mul, width).transpose(1, 2).reshape(-1, mul)
            of_elements = block.split([count * width for count in counts])
            parts = [own @ matrix for own, matrix in zip(of_elements, weights, strict=True) if len(own)]
            blocks.append(torch.cat(parts).view(len(x), width, -1).transpose(1, 2).reshape(len(x), -1))
        return torch.cat(blocks, dim=1).index_select(0, torch.argsort(order))


@functools.cache
def _products(n_components: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Return the components of each product of some, in ascending order."""
    return tuple(itertools.combinations_with_replacement(range(n_components), degree))


def _by_element(y: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Return the order of atoms in which those of an element follow each other, and how many of each there are."""
    elements = y.argmax(dim=1)
    return torch.argsort(elements, stable=True), torch.bincount(elements, minlength=y.shape[1]).tolist()


def _blocks(n_atoms: int, numbers: int) -> Iterator[slice]:
    """Return some atoms after others, with as many ``numbers`` each as half a megabyte of them allows."""
    length = max(1, BLOCK // max(1, numbers))
    for first in range(0, n_atoms, length):
        yield slice(first, min(first + length, n_atoms))


def _rows(groups: torch.Tensor, n_groups: int) -> tuple[torch.Tensor, int]:
    """Return where each edge goes in a table in which every group has as many rows as the largest, and that number."""
    order = torch.argsort(groups, stable=True)
    counts = torch.bincount(groups, minlength=n_groups)
    longest = max(1, int(counts.max()))
    ordered = groups[order]
    rank = torch.arange(len(order), device=order.device) - (torch.cumsum(counts, 0) - counts)[ordered]
    return torch.empty_like(order).index_copy(0, order, ordered * longest + rank), longest


def _padded(values: torch.Tensor, rows: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    table = values.new_zeros((shape[0] * shape[1], values.shape[1])).index_copy(0, rows, values)
    return table.view(shape[0], shape[1], values.shape[1])


def fuse(model: Any) -> dict[str, int]:
    """Put fused sums, and layers by element, in the place of all of a model's that they suit, for good.

    Return how many sums there are of each.
    """
    convolutions, contractions = _suited(model)
    for interaction in convolutions:
        hidden, last = _taken_apart(interaction.conv_tp_weights)
        if last is not None:
            interaction.conv_tp_weights = hidden
        interaction.conv_tp = FusedConvolution(interaction.conv_tp, last)
        interaction.conv_fusion = True
    for siblings, number in contractions:
        siblings[number] = FixedContraction(siblings[number])
    for interaction in getattr(model, "interactions", ()):
        if LinearByElement.suits(getattr(interaction, "skip_tp", None)):
            interaction.skip_tp = LinearByElement(interaction.skip_tp)
    return {"convolutions": len(convolutions), "contractions": len(contractions)}


def tell_elements(model: Any, elements: torch.Tensor, examples: torch.Tensor) -> None:
    """Tell the first interaction the elements of all atoms, see ``know_elements``: nothing else is known of them there.

    Nothing is done for models of which that is not known, and for those whose first convolution is not fused.
    """
    if type(model).__name__ not in EDGE_ARCHITECTURES or hasattr(model, "joint_embedding"):
        return
    product = getattr(model.interactions[0], "conv_tp", None)
    fused = getattr(getattr(product, "forward", None), "__self__", None)  # itself, or what calls it while it is trained
    if isinstance(fused, FusedConvolution):
        fused.know_elements(elements, examples)


@contextlib.contextmanager
def fused_for_training(model: Any) -> Iterator[dict[str, int]]:
    """Let a model compute its sums fused within; the value is how many there are of each.

    Its modules, parameters and their names stay what they are, and gradients are those of the same function: only the
    methods of single objects are replaced, which is undone in the end.
    """
    convolutions, contractions = _suited(model)
    replaced: list[tuple[Any, str]] = []
    for interaction in convolutions:
        hidden, last = _taken_apart(interaction.conv_tp_weights)
        interaction.conv_tp.forward = FusedConvolution(interaction.conv_tp, last, trained=True).forward
        interaction.conv_fusion = True
        replaced += [(interaction.conv_tp, "forward"), (interaction, "conv_fusion")]
        if last is not None:
            interaction.conv_tp_weights.forward = hidden.forward
            replaced.append((interaction.conv_tp_weights, "forward"))
    for siblings, number in contractions:
        siblings[number].forward = FusedContraction(siblings[number]).forward
        replaced.append((siblings[number], "forward"))
    hook = model.register_forward_pre_hook(_tell_elements_of_batch)
    try:
        yield {"convolutions": len(convolutions), "contractions": len(contractions)}
    finally:
        hook.remove()
        for where, name in replaced:
            delattr(where, name)


def _tell_elements_of_batch(model: Any, arguments: tuple[Any, ...]) -> None:
    numbers, elements = torch.unique(arguments[0]["node_attrs"].argmax(dim=1), return_inverse=True)
    same = elements[None] == torch.arange(len(numbers), device=elements.device)[:, None]
    tell_elements(model, elements, same.int().argmax(dim=1))


def _suited(model: Any) -> tuple[list[Any], list[tuple[Any, int]]]:
    """Return the interactions whose convolution can be fused, and the lists and places of the contractions that can."""
    convolutions = [
        interaction
        for interaction in getattr(model, "interactions", ())
        if getattr(interaction, "conv_tp", None) is not None
        and not hasattr(interaction, "conv_fusion")
        and FusedConvolution.suits(interaction.conv_tp)
    ]
    contractions = [
        (siblings, number)
        for product in getattr(model, "products", ())
        for siblings in [getattr(getattr(product, "symmetric_contractions", None), "contractions", ())]
        for number, contraction in enumerate(siblings)
        if FusedContraction.suits(contraction)
    ]
    return convolutions, contractions


def _taken_apart(radial: Any) -> tuple[Any, Any]:
    """Return a network of e3nn without its last layer, and that layer; nothing of another, or if it is not linear."""
    layers = list(radial) if type(radial).__name__ == "FullyConnectedNet" else []
    if not layers or type(layers[-1]).__name__ != "_Layer" or layers[-1].act is not None:
        return None, None
    return torch.nn.Sequential(*layers[:-1]), layers[-1]
