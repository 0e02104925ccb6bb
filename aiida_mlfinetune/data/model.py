"""``mlfinetune.model``: a MACE model file and its passport."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiida import orm

from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.science.models.passport import Passport


class MaceModelData(orm.Data):
    """The bytes of a MACE model, under a fixed name, and the passport as attributes.

    Model files are pickles: reading one runs code. A node is therefore made only from the output of our own training,
    from a file whose checksum is in the table of known foundations, or on a user's explicit trust
    (``data.foundations``); making and reading this node never unpickles anything.
    """

    MODEL_FILENAME = "model.model"

    def __init__(self, content: bytes | None = None, passport: Passport | None = None, **kwargs: Any) -> None:
        """Make a model node of a file's bytes and its passport.

        Raises:
            ModelError: the checksum in the passport is not that of the bytes.
        """
        super().__init__(**kwargs)
        if content is None or passport is None:
            return
        digest = hashlib.sha256(content).hexdigest()
        if digest != passport.sha256:
            raise ModelError(f"the model file has sha256 {digest}, but its passport says {passport.sha256}")
        self.base.repository.put_object_from_bytes(content, self.MODEL_FILENAME)
        self.base.attributes.set_many(passport.to_dict())

    @property
    def passport(self) -> Passport:
        """What the model is and how it was made."""
        return Passport.from_dict(self.base.attributes.all)

    @property
    def sha256(self) -> str:
        """Checksum of the file."""
        return self.base.attributes.get("sha256")

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that the model knows."""
        return self.base.attributes.get("elements")

    @property
    def heads(self) -> list[str]:
        """Names of the heads."""
        return self.base.attributes.get("heads")

    def content(self) -> bytes:
        """Return the bytes of the model file."""
        return self.base.repository.get_object_content(self.MODEL_FILENAME, "rb")

    @contextlib.contextmanager
    def as_path(self) -> Iterator[Path]:
        """Yield the path of a temporary copy of the file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / self.MODEL_FILENAME
            path.write_bytes(self.content())
            yield path

    def _validate(self) -> bool:
        super()._validate()
        if "sha256" not in self.base.attributes.all:
            raise ModelError("an empty model cannot be stored: make it with MaceModelData(content=..., passport=...)")
        return True
