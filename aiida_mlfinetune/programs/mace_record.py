"""Read from MACE's own objects what is about to be trained: heads, frames by label, loss, learning rates.

Stand-alone: needs nothing but what it is given.
"""

from __future__ import annotations

from typing import Any


def describe_training(parts: dict[str, Any]) -> dict[str, Any]:
    """Return what the arguments of ``mace.tools.train`` say is about to be trained.

    ``sets`` counts the frames of each set and head that have a weight on energy, forces and stress; frames that MACE
    repeats count as often as it repeats them.
    """
    model, groups, swa, ema = parts["model"], parts["optimizer"].param_groups, parts["swa"], parts["ema"]
    heads = [str(head) for head in model.heads]
    valid = {head: list(loader.dataset) for head, loader in parts["valid_loaders"].items()}
    weights = list(model.parameters())
    return {
        "heads": heads,
        "sets": {
            "train": _count(list(parts["train_loader"].dataset), heads),
            "valid": {head: _count(graphs, heads).get(head, {}) for head, graphs in valid.items()},
        },
        "loss": _describe_loss(parts["loss_fn"]),
        "optimizer": type(parts["optimizer"]).__name__,
        "lr": {group["name"]: float(group["lr"]) for group in groups},
        "frozen": [
            group["name"]
            for group in groups
            if group["params"] and not any(weight.requires_grad for weight in group["params"])
        ],
        "lora": any("lora_" in name for name, _ in model.named_parameters()),
        "ema_decay": None if ema is None else float(ema.decay),
        "batch_size": parts["train_loader"].batch_size,
        "stage_two": None
        if swa is None
        else {"start": swa.start, "lr": float(groups[0]["swa_lr"]), "loss": _describe_loss(swa.loss_fn)},
        "n_weights": sum(weight.numel() for weight in weights),
        "n_trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def _count(graphs: list[Any], heads: list[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for graph in graphs:
        own = counts.setdefault(heads[int(graph.head)], {"n": 0, "energy": 0, "forces": 0, "stress": 0})
        own["n"] += 1
        for name in ("energy", "forces", "stress"):
            own[name] += bool(float(graph.weight) * float(graph[f"{name}_weight"]) > 0)
    return counts


def _describe_loss(loss: Any) -> dict[str, Any]:
    names = ("energy_weight", "forces_weight", "stress_weight")
    return {"class": type(loss).__name__} | {name: float(getattr(loss, name)) for name in names if hasattr(loss, name)}
