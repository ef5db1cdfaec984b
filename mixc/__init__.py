"""The compiler: a mixture spec in, a build of deterministic token shards out."""

__version__ = "0.1.0"
