"""Labelling: one work chain, and an engine for each kind of program behind it."""

from aiida_mlfinetune.workchains.labelling.chain import LabellingWorkChain

__all__ = ("LabellingWorkChain",)
