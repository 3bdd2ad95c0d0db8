"""`cairn serve` with bounds as a JSON object: `python -m tests.api.bounded JSON serve ...`."""

from __future__ import annotations

import json
import sys
from functools import partial

from cairn.api import server
from cairn.api.bounds import Bounds
from cairn.cli import main

if __name__ == "__main__":
    bounds = Bounds(**json.loads(sys.argv.pop(1)))
    server.serve = partial(server.serve, bounds=bounds)
    main(prog_name="cairn")
