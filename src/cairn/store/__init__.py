"""Where the chain is kept: one interface, one contract test, a backend a file."""
