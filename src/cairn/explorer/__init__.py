"""The explorer: what a ledger is, as pages for people. Values in, HTML out."""
