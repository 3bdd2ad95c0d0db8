"""What Cairn's speed is held to; `make bench` runs it."""
