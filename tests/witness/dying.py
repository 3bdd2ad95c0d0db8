"""A witness that is killed beside its memory: `python -m tests.witness.dying HOME VKEY WHEN`.

The request comes on standard input. WHEN is `before` the checkpoint is remembered, or `after`; with
anything else it lives, and prints its answer.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cairn.proof.keyring import Keyring
from cairn.proof.memory import Memory
from cairn.proof.note import Algorithm, VerifierKey
from cairn.proof.witness import Witness


class Dying(Memory):
    """Remembers as any memory does, and takes its process with it."""

    when = ""

    def replace(self, origin: str, before: str | None, note: str) -> bool:
        if self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().replace(origin, before, note)
        if self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def witness_in(folder: Path, log: VerifierKey, when: str = "") -> Witness:
    """Return the witness of which keys and memory lie in `folder`."""
    key = Keyring(folder).signing_key("witness.example/1", Algorithm.COSIGNATURE)
    memory = Dying(folder / "witness" / "cosigned.sqlite")
    memory.when = when
    return Witness(key, {log.name: [log]}, memory, folder / "witness" / "evidence")


if __name__ == "__main__":
    home, vkey, when = sys.argv[1:]
    witness = witness_in(Path(home), VerifierKey.parse(vkey), when)
    answer = witness.add_checkpoint(sys.stdin.buffer.read())
    sys.stdout.buffer.write(b"%d %s" % (answer.status, answer.body))
