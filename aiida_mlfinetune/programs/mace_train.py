"""Train a MACE model in one process, with the reference energies that were asked for, and stop cleanly.

Stand-alone: needs numpy, torch and MACE only, and ``mace_evaluate.py``, ``mace_fused.py``, ``mace_passport.py`` and
``mace_record.py`` beside it. Run as ``python mace_train.py job.json``. MACE's own input is ``mace.yaml``; ``job.json``
says what MACE cannot be told:

- ``heads``: the heads in order, the target's last, each with its files and its reference energies, given or to be
  estimated from what the foundation predicts. With one head MACE keeps the foundation's where the elements are the
  same, so they are written into a copy of the foundation that MACE then starts from; with several they are passed with
  the heads.
- ``max_seconds``: when to save the state and stop. The state holds weights, optimiser, averages, schedules and random
  numbers, so that a restarted run gives what an uninterrupted one gives; one that cannot be read is an error.
- ``patience``: MACE counts epochs without improvement, but does not stop.

On a CPU, messages and their products are summed as products of matrices (``mace_fused``): the same function and
gradients in less than half of the time, but for rounding.

Written are ``model.model``, ``passport.json``, ``e0s.json``, ``trained.json`` (what MACE's own objects say is trained),
the predictions, ``loss.jsonl`` and, in every case, ``status.json``.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import json
import logging
import math
import os
import shutil
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

START = time.monotonic()

import numpy as np  # noqa: E402 - the clock starts before the slow imports
import yaml  # noqa: E402

CONFIG_FILE = "mace.yaml"
STATE_FILE = "restart.pt"
STATUS_FILE = "status.json"
PROGRESS_FILE = "progress.json"
FOUNDATION_COPY = "foundation_e0s.model"
MODEL_FILE = "model.model"
LOSS_FILE = "loss.jsonl"
RECORD_FILE = "trained.json"


class Stop(BaseException):
    """Leave the training; not an ``Exception``, because MACE swallows those at a restart."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class OutOfPatience(BaseException):
    """End the training as if the last epoch had been reached."""


# reference energies ---------------------------------------------------------------------------------------------


def least_squares_shift(counts: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the shift c of smallest norm that minimises ``|counts c - residuals|``, and the rank of ``counts``.

    Equation 5 of the CaCO3 report: ``counts`` (n, elements), ``residuals`` (n,) eV, label minus model.
    """
    shift, _, rank, _ = np.linalg.lstsq(counts.astype(float), residuals, rcond=None)
    return shift, int(rank)


def find_energies(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the reference energies of all heads in eV by element, and write them down with how they were found.

    A foundation is written with one head, and with the reference energies asked for where the model has one head too.
    """
    if job.get("foundation"):
        energies, details = energies_of_foundation(job)
    else:
        energies, details = {head["name"]: head["e0s"]["values"] for head in job["heads"]}, {}
    found = {
        head["name"]: {
            "source": head["e0s"]["source"],
            "values": energies[head["name"]],
            **details.get(head["name"], {}),
        }
        for head in job["heads"]
    }
    target = job["heads"][-1]["name"]
    others = {name: values for name, values in found.items() if name != target}
    _write_json("e0s.json", {**found[target], **({"heads": others} if others else {})})
    return energies


def energies_of_foundation(
    job: dict[str, Any],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Write the foundation's copy, and return the reference energies by head, and how they were estimated."""
    import torch
    from ase.data import chemical_symbols
    from mace.tools.scripts_utils import remove_pt_head
    from mace_evaluate import load_model, read_frames

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    model = load_model(job["foundation"])
    if len(getattr(model, "heads", None) or ["Default"]) > 1:
        model = remove_pt_head(model, job["foundation_head"])
    model = model.to(getattr(torch, job["dtype"]))
    known = [chemical_symbols[int(z)] for z in model.atomic_numbers]
    stored = model.atomic_energies_fn.atomic_energies
    start = dict(zip(known, stored.double().reshape(-1).tolist(), strict=True))
    energies, details = {}, {}
    for head in job["heads"]:
        name, own = head["name"], head["e0s"]
        if own["values"] is None:
            estimated, details[name] = estimate_energies(model, start, read_frames(head["train_frames"]), job)
            energies[name] = {element: estimated.get(element, start[element]) for element in job["elements"]}
        else:
            energies[name] = {element: float(value) for element, value in own["values"].items()}
    if len(job["heads"]) == 1:
        wanted = energies[job["heads"][0]["name"]]
        flat = torch.tensor([wanted.get(element, start[element]) for element in known])
        model.atomic_energies_fn.atomic_energies = flat.to(stored.dtype).reshape(stored.shape)
    torch.save(model, FOUNDATION_COPY)
    torch.set_default_dtype(before)
    return energies, details


def heads_argument(job: dict[str, Any], energies: dict[str, dict[str, float]]) -> str:
    """Return MACE's argument ``heads``: files and reference energies, which it wants as text, of every head."""
    from ase.data import atomic_numbers

    heads = {}
    for head in job["heads"]:
        by_number = {atomic_numbers[element]: value for element, value in energies[head["name"]].items()}
        files = {name: head[name] for name in ("train_file", "valid_file")}
        heads[head["name"]] = {**files, "E0s": str(by_number)}
    return str(heads)


def estimate_energies(
    model: Any, energies: dict[str, float], frames: dict[str, np.ndarray], job: dict[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the model's reference energies, shifted by least squares to the labels of ``frames``, and the fit."""
    from ase.data import atomic_numbers, chemical_symbols
    from mace_evaluate import predict

    used = [chemical_symbols[z] for z in np.unique(frames["numbers"])]
    head = (getattr(model, "heads", None) or ["Default"])[0]
    labelled = ~np.isnan(frames["energy"])
    predicted = predict(copy.deepcopy(model), frames, head, job["batch_size"], job["dtype"], job["device"])
    starts = frames["offsets"][:-1]
    counts = np.stack(
        [np.add.reduceat((frames["numbers"] == atomic_numbers[element]).astype(int), starts) for element in used],
        axis=1,
    )[labelled]
    residuals = (frames["energy"] - predicted["energy"])[labelled]
    shift, rank = least_squares_shift(counts, residuals)
    sizes = counts.sum(axis=1)
    details = {
        "rank": rank,
        "shift": dict(zip(used, shift.tolist(), strict=True)),
        "rmse_before_eV_per_atom": float(np.sqrt(np.mean((residuals / sizes) ** 2))),
        "rmse_after_eV_per_atom": float(np.sqrt(np.mean(((residuals - counts @ shift) / sizes) ** 2))),
    }
    return {element: energies[element] + float(c) for element, c in zip(used, shift, strict=True)}, details


# supervision ----------------------------------------------------------------------------------------------------


class Supervisor:
    """Stands in for ``mace.tools.train``: the same training, watched, and able to stop and to go on."""

    def __init__(self, job: dict[str, Any], config: dict[str, Any]) -> None:
        self.job = job
        self.fingerprint = _fingerprint(job, config)
        self.max_seconds = job.get("max_seconds") or math.inf
        self.last_saved: float | None = None
        self.last_entry: float | None = None
        self.longest_epoch = 0.0
        self.first_loss: float | None = None
        self.valid_loss = math.inf
        self.best: dict[str, float] = {}
        self.since_best = 0
        self.module = importlib.import_module("mace.tools.train")
        self.original = self.module.train
        self.original_epoch = self.module.train_one_epoch
        self.original_log = self.module.valid_err_log

    def __call__(self, **kwargs: Any) -> None:
        """Train with the arguments of ``mace.tools.train``."""
        import torch
        from mace_fused import fused_for_training
        from mace_record import describe_training

        self.parts = kwargs
        self.target = list(kwargs["valid_loaders"])[-1]
        self.save_best = kwargs["checkpoint_handler"].save
        kwargs["checkpoint_handler"].save = self._save_best
        kwargs["logger"] = _FiniteLogger(kwargs["logger"])
        self.module.train_one_epoch = self._epoch
        self.module.valid_err_log = self._validated
        on_cpu = torch.device(kwargs["device"]).type == "cpu"
        try:
            with fused_for_training(kwargs["model"]) if on_cpu else contextlib.nullcontext({}) as fused:
                record = {"fine_tuned": bool(self.job.get("foundation")), "fused": fused}
                _write_json(RECORD_FILE, {**describe_training(kwargs), **record})
                if self.job["restart"]:
                    kwargs["start_epoch"] = self._load()
                self.original(**kwargs)
        except OutOfPatience as stop:
            print(stop)
        finally:
            self.module.train_one_epoch = self.original_epoch
            self.module.valid_err_log = self.original_log
        kwargs["checkpoint_handler"].save = self.save_best

    def _epoch(self, **kwargs: Any) -> None:
        """Before an epoch, with everything before it done: stop or save where it is time to."""
        now, epoch = time.monotonic(), kwargs["epoch"]
        if self.last_entry is not None:
            self.longest_epoch = max(self.longest_epoch, now - self.last_entry)
        self.last_entry = now
        if self._patience_is_over(epoch):
            raise OutOfPatience(f"no improvement in {self.since_best} epochs: training ends before epoch {epoch}")
        if now - START + 3 * self.longest_epoch > self.max_seconds:
            self._save(epoch)
            raise Stop("out_of_time", f"stopped before epoch {epoch} at the limit of {self.max_seconds:.0f} s")
        if self.last_saved is None or now - self.last_saved > self.job["save_interval_s"]:
            self._save(epoch)
        self.original_epoch(**kwargs)

    def _validated(self, valid_loss: float, eval_metrics: Any, logger: Any, log_errors: str, *rest: Any) -> None:
        """After the validation of a head: log as MACE does, then look at the loss; the target head's decides."""
        self.original_log(valid_loss, eval_metrics, logger, log_errors, *rest)
        loss, epoch, head = float(valid_loss), rest[0], rest[1]
        if not math.isfinite(loss):
            raise Stop("loss_nan", f"the validation loss of head {head!r} is {loss} at epoch {epoch}")
        if head != self.target:
            return
        self.first_loss = loss if self.first_loss is None else self.first_loss
        if loss > self.job["max_loss_growth"] * self.first_loss:
            raise Stop("loss_exploded", f"the validation loss rose from {self.first_loss:g} to {loss:g}")
        self.valid_loss = loss
        if epoch is not None:
            improved = loss < self.best.get(self._stage(epoch), math.inf)
            self.since_best = 0 if improved else self.since_best + 1
            _write_json(PROGRESS_FILE, {"epoch": epoch, "max_num_epochs": self.parts["max_num_epochs"]})

    def _save_best(self, state: Any, epochs: int, keep_last: bool = False) -> None:
        """Save MACE's checkpoint of the best model, unless an earlier part of this run had a better one."""
        stage = self._stage(epochs)
        if self.valid_loss < self.best.get(stage, math.inf):
            self.best[stage] = self.valid_loss
            self.save_best(state, epochs, keep_last)

    def _stage(self, epoch: int) -> str:
        swa = self.parts["swa"]
        return "two" if swa is not None and epoch >= swa.start else "one"

    def _patience_is_over(self, epoch: int) -> bool:
        swa = self.parts["swa"]
        return self.since_best >= self.parts["patience"] and (swa is None or epoch > swa.start)

    def _stateful(self) -> dict[str, Any]:
        parts = {name: self.parts[name] for name in ("model", "optimizer", "lr_scheduler")}
        if self.parts["ema"] is not None:
            parts["ema"] = self.parts["ema"]
        if self.parts["swa"] is not None:
            parts["swa_model"], parts["swa_scheduler"] = self.parts["swa"].model, self.parts["swa"].scheduler
        return parts

    def _save(self, epoch: int) -> None:
        """Save all that the rest of the training depends on; the old file stays until the new one is whole."""
        import torch

        state = {
            "fingerprint": self.fingerprint,
            "epoch": epoch,
            "parts": {name: part.state_dict() for name, part in self._stateful().items()},
            "random": torch.get_rng_state(),
            "order": self.parts["train_loader"].generator.get_state(),
            "first_loss": self.first_loss,
            "valid_loss": self.valid_loss,
            "best": self.best,
            "since_best": self.since_best,
        }
        partial = Path(STATE_FILE + ".part")
        torch.save(state, partial)
        partial.replace(STATE_FILE)
        self.last_saved = time.monotonic()

    def _load(self) -> int:
        """Restore the state, and return the epoch to go on with.

        Raises:
            Stop: there is no state, or it belongs to another training.
        """
        import torch

        try:
            state = torch.load(STATE_FILE, map_location=self.parts["device"], weights_only=False)
            if state["fingerprint"] != self.fingerprint:
                raise ValueError("the saved state belongs to a training with other inputs")
            for name, part in self._stateful().items():
                part.load_state_dict(state["parts"][name])
            torch.set_rng_state(state["random"].cpu())
            self.parts["train_loader"].generator.set_state(state["order"].cpu())
        except Exception as error:
            raise Stop("restart_failed", f"cannot go on from {STATE_FILE}: {type(error).__name__}: {error}") from error
        self.first_loss, self.valid_loss = state["first_loss"], state["valid_loss"]
        self.best, self.since_best = state["best"], state["since_best"]
        for path in Path("checkpoints").glob("*_epoch-*.pt"):
            if int(path.stem.split("_epoch-")[1].removesuffix("_swa")) >= state["epoch"]:
                path.unlink()
        print(f"restarted before epoch {state['epoch']}")
        return int(state["epoch"])


class _FiniteLogger:
    """MACE's logger of metrics, which stops the training at the first loss that is not a number."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.path = logger.path

    def log(self, metrics: dict[str, Any]) -> None:
        self.logger.log(metrics)
        if metrics.get("mode") == "opt" and not np.isfinite(float(metrics["loss"])):
            raise Stop("loss_nan", f"the training loss is {float(metrics['loss'])} in epoch {metrics['epoch']}")


def _fingerprint(job: dict[str, Any], config: dict[str, Any]) -> str:
    """Return a checksum of all that defines the training but for its length."""
    digest = hashlib.sha256()
    settings = {key: value for key, value in config.items() if key != "max_num_epochs"}
    digest.update(json.dumps([settings, job["heads"]], sort_keys=True).encode())
    for head in job["heads"]:
        for name in ("train_file", "valid_file"):
            digest.update(Path(head[name]).read_bytes())
    if job.get("foundation"):
        digest.update(Path(job["foundation"]).read_bytes())
    return digest.hexdigest()


# the run --------------------------------------------------------------------------------------------------------


def train(job: dict[str, Any]) -> None:
    """Run MACE, then describe the model and predict the frames that it was not trained on."""
    import mace
    from mace import tools
    from mace.cli import run_train
    from mace_evaluate import load_model, predict, read_frames
    from mace_passport import describe_model

    config = yaml.safe_load(Path(CONFIG_FILE).read_text(encoding="utf-8"))
    if config.get("enable_cueq"):
        importlib.import_module("cuequivariance_torch")  # MACE would go on without it, and not say so
    if job["restart"] and not Path(STATE_FILE).exists():
        raise Stop("restart_failed", f"the parent folder holds no {STATE_FILE}")
    if job["restart"]:
        _end_last_lines()
    energies = find_energies(job)
    arguments = tools.build_default_arg_parser().parse_args(["--config", CONFIG_FILE])
    if len(job["heads"]) > 1:
        arguments.heads = heads_argument(job, energies)
    supervisor = Supervisor(job, config)
    tools.train = supervisor
    run_train.jit = types.SimpleNamespace(compile=_no_compiled_copy)
    try:
        run_train.run(arguments)
    finally:
        tools.train = supervisor.original
    suffix = "_stagetwo" if config.get("swa") else ""
    shutil.copyfile(f"{config['name']}{suffix}.model", MODEL_FILE)
    passport = describe_model(MODEL_FILE, mace.__version__)
    for item in job["predict"]:
        arrays = predict(
            load_model(MODEL_FILE, job["device"]),
            read_frames(item["frames"]),
            item["head"],
            job["batch_size"],
            job["dtype"],
            job["device"],
        )
        np.savez(item["labels"], **arrays)
    _write_json("passport.json", passport)


def _end_last_lines() -> None:
    """End the last line of the metrics, which a killed run may have left unfinished; MACE appends to them."""
    for metrics in Path("results").glob("*_train.txt"):
        content = metrics.read_bytes()
        if content and not content.endswith(b"\n"):
            metrics.write_bytes(content + b"\n")


def _no_compiled_copy(_: Any) -> None:
    """Spare the TorchScript copy of the model, which nobody reads here; MACE goes on without it."""
    raise NotImplementedError


def main(path: str) -> int:
    """Train as the file ``path`` says, and leave a status in every case."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    status, message = "finished", ""
    try:
        train(job)
    except Stop as stop:
        status, message = stop.status, stop.message
    except MemoryError as error:
        status, message = "out_of_memory", str(error)
    except Exception as error:  # noqa: BLE001 - whatever MACE raises is reported in the status, with its traceback
        traceback.print_exc()
        short_of_memory = "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error)
        status, message = "out_of_memory" if short_of_memory else "failed", f"{type(error).__name__}: {error}"
    for metrics in sorted(Path("results").glob("*_train.txt")):
        shutil.copyfile(metrics, LOSS_FILE)
    _write_json(STATUS_FILE, {"status": status, "message": message, "wall_s": round(time.monotonic() - START, 3)})
    print(f"{status}: {message}" if message else status)
    return 0 if status == "finished" else 1


def _write_json(path: str, content: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    CODE = main(sys.argv[1])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(CODE)  # all is written: to take torch and its libraries down in order lasts a second
