"""Breaking a ledger on purpose, to see what catches it. Never imported by anything that serves."""
