"""What makes a chain valid, and nothing else: no I/O, clock, randomness, logging, threads, floats.

Reading order: `block` and `header`, `rules`, then `segment` and `validation` for the same in bulk.
"""
