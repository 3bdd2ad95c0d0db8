"""SHA-256 in bulk: implementations of `cairn.core.hasher.Hasher`."""
