"""Errors whose message tells a user what is wrong and what to do."""

from __future__ import annotations


class MlFinetuneError(ValueError):
    """Base of all errors that this package raises on bad input."""


class FramesError(MlFinetuneError):
    """Atomic configurations that cannot be used."""


class LabelsError(MlFinetuneError):
    """Labels that are missing, not finite, or of an unknown level."""


class ModelError(MlFinetuneError):
    """A model file that cannot be trusted, read or used here."""


class MoleculesError(MlFinetuneError):
    """A structure whose molecules cannot be perceived as one kind of whole molecules."""


class StudyError(MlFinetuneError):
    """A study file or protocol that cannot be turned into a builder."""


class DownloadError(MlFinetuneError):
    """A file that could not be fetched, or not in one piece."""
