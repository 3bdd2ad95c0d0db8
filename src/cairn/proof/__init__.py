"""Proof without trust: signed notes, checkpoints, tiles, receipts, and what a user remembers.

Read note, checkpoint, tiles, receipt: these do no I/O. `keyring` and `memory` keep private keys and
what was seen in the user's configuration folder; `witness` decides what a witness signs.
"""
