"""The two sums that MACE spends its time with, as products of matrices: messages, and products of messages.

Stand-alone: needs torch and MACE only. For runs (``fuse``, by ``ipi_mace.py``) and for trainings
(``fused_for_training``, by ``mace_train.py``).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import torch

EDGE_ARCHITECTURES = ("MACE", "ScaleShiftMACE")
"""Models whose energy depends on positions through the edge vectors alone."""


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


class FusedContraction(torch.nn.Module):
    """Products of up to nu messages of an atom, summed with the weights of its element (MACE, eq. 10 and 11).

    The result is a polynomial of degree nu in the (2l + 1) components of a channel, with coefficients
    C_cij.. = sum_k U_ij..k W_ekc of that channel and element. MACE contracts U with the components of each atom before
    it applies W, for all k; here the coefficients come first, once for an element, and the polynomial of all its atoms
    is a product of matrices (Horner's scheme).

    Args:
        contraction: MACE's, of one irreducible representation.
        trained: whether its weights change; else the coefficients of an element are made once.
    """

    def __init__(self, contraction: Any, *, trained: bool = False) -> None:
        super().__init__()
        self._of = (contraction,)  # in a tuple, as it belongs to the model
        self.trained = trained
        self.known: dict[int, list[torch.Tensor]] = {}

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
        elements = y.argmax(dim=1)
        order = torch.argsort(elements, stable=True)
        counts = torch.bincount(elements, minlength=y.shape[1]).tolist()
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
        value = torch.bmm(highest, x)
        for coefficients in lower:
            value = (value + coefficients[:, :, None]).view(n_channels, -1, n_components, n_atoms)
            value = (value * x[:, None]).sum(dim=2)
        return value.permute(2, 0, 1).reshape(n_atoms, -1)

    def _coefficients(self, element: int) -> list[torch.Tensor]:
        """Return (channels, rest, components) of the highest degree, and (channels, all) of each that is lower."""
        if not self.trained and element in self.known:
            return self.known[element]
        (contraction,) = self._of
        degrees = range(contraction.correlation, 0, -1)
        weights = [contraction.weights_max, *contraction.weights]
        n_channels, found = contraction.num_features, []
        for degree, weight in zip(degrees, weights, strict=True):
            table = contraction.U_tensors(degree)
            found.append(torch.tensordot(weight[element], table, dims=([0], [table.dim() - 1])).view(n_channels, -1))
        found[0] = found[0].view(n_channels, -1, contraction.U_tensors(contraction.correlation).shape[-2])
        if not self.trained:
            self.known[element] = found = [one.detach() for one in found]
        return found


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
    """Put fused sums in the place of all of a model's that they suit, for good; return how many there are of each."""
    convolutions, contractions = _suited(model)
    for interaction in convolutions:
        hidden, last = _taken_apart(interaction.conv_tp_weights)
        if last is not None:
            interaction.conv_tp_weights = hidden
        interaction.conv_tp = FusedConvolution(interaction.conv_tp, last)
        interaction.conv_fusion = True
    for siblings, number in contractions:
        siblings[number] = FusedContraction(siblings[number])
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
        siblings[number].forward = FusedContraction(siblings[number], trained=True).forward
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
