"""Configuration of Sphinx; the build needs no network and turns every warning into an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from aiida_mlfinetune import __version__

project = "aiida-mlfinetune"
copyright = "The aiida-mlfinetune developers"
release = version = __version__

extensions = ["myst_parser", "generated_reference"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext", "validation"]
html_extra_path = ["studies"]
html_theme = "furo"
html_title = f"aiida-mlfinetune {__version__}"
nitpicky = True
