"""Put a run of ``studies/ice-mini.yaml`` into the documentation: its report, the pictures in it, and its archive.

    verdi run page.py PK [ARCHIVE]

in this folder (`verdi run` does not tell a script where it lies). Writes ``docs/studies/ice-mini.html`` and the
pictures ``docs/tutorials/ice-mini-N.svg`` in the order of the page. With a file name an archive of the study is written
too, of which ``aiida-mlfinetune report`` makes the same page elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiida import orm
from aiida.tools.archive import create_archive

from aiida_mlfinetune.plotting.style import INK
from aiida_mlfinetune.report import collect, render

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main(pk: str, archive: str | None = None) -> None:
    """Write the files, and print where they are."""
    node = orm.load_node(pk)
    page = collect(node)
    report = DOCS / "studies" / "ice-mini.html"
    report.parent.mkdir(exist_ok=True)
    report.write_text(render(page), encoding="utf-8")
    print(report)
    figures = [figure for section in page.sections for figure in section.figures]
    for number, figure in enumerate(figures, start=1):
        path = DOCS / "tutorials" / f"ice-mini-{number}.svg"
        path.write_text(figure.svg.replace("currentColor", INK), encoding="utf-8")
        print(path, figure.caption)
    if archive is not None:
        create_archive([node], filename=archive, overwrite=True, compression=9)
        print(archive, f"{Path(archive).stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
