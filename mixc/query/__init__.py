"""A build's plan, drops, rejects and manifest as tables that anyone can query."""
