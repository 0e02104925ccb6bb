"""What the jobs of this package have in common: the files that they write, and the call of their code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder


def program_text(name: str) -> str:
    """Return the text of a stand-alone program of this package."""
    return resources.files("aiida_mlfinetune.programs").joinpath(name).read_text(encoding="utf-8")


def write_texts(folder: Folder, texts: Mapping[str, str]) -> None:
    """Write texts into the folder of a job, by the names of their files."""
    for name, text in texts.items():
        with folder.open(name, "w", encoding="utf-8") as handle:
            handle.write(text)


def call_of(inputs: Any, *arguments: str) -> CalcInfo:
    """Return the call of the code of a job with these arguments, whose output and errors go into its output file."""
    code_info = CodeInfo()
    code_info.code_uuid = inputs.code.uuid
    code_info.cmdline_params = list(arguments)
    code_info.stdout_name = inputs.metadata.options.output_filename
    code_info.join_files = True
    calc_info = CalcInfo()
    calc_info.codes_info = [code_info]
    calc_info.retrieve_list = [code_info.stdout_name]
    return calc_info
