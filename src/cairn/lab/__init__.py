"""Breaking a ledger on purpose, to see what catches it: on copies, and in a lab that is served."""
