"""Files of one JSON object a line, written while a job runs."""

from __future__ import annotations

import json
from typing import Any


def read_json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of the complete lines: a last line without its newline was cut off by the job's end."""
    return [json.loads(line) for line in text.split("\n")[:-1] if line.strip()]
