"""What it means to a person that a block breaks a rule, by the rules' names."""

from __future__ import annotations

from typing import Final

MEANINGS: Final = {
    "version": "The block says that it is of a version of the format that there is not.",
    "kind": "The block says that it is of a kind that cannot stand at this place.",
    "count": "The block says how many entries it has, and another number of them is stored.",
    "index": "A block says its own place in the chain. This one says another place: a block is "
    "missing, was added or was moved.",
    "timestamp": "Time does not run backwards: no block is earlier than the one before it.",
    "link": "A block repeats the hash of the block before it; that makes it a chain. This one "
    "repeats another hash: one of the two blocks is not the one that was recorded.",
    "hash": "The hash of a block is computed from its header. What is stored is another one: the "
    "header or the hash was changed.",
    "size": "The data has another length than the block says: it was changed.",
    "data_root": "The block says the hash of its data. The data that is stored has another hash: "
    "it was changed.",
    "work": "The block does not show the work that this ledger asks of its blocks.",
    "genesis": "The first block records the rules of the ledger itself, and these cannot be read.",
    "limits": "The block is larger than the ledger allows.",
    "erasure": "The data was removed, and no later block records that this was done on purpose.",
    "storage": "What is stored here cannot be read at all: it is damaged, or gone. Whatever comes "
    "after it was not judged.",
    "head": "The chain does not end where the ledger has noted that it ends: blocks were cut off, "
    "added or exchanged at its end.",
    "checkpoint": "This is not the chain that was signed before, or that this node was shown: its "
    "history was made anew, or cut off.",
}
"""Those of `core.rules`, by number; then those that ask what the node knows beside the chain."""
