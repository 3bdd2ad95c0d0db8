"""The network: what peers say to each other, and what comes of it. No sockets and no clock."""
