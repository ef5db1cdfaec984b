"""The build format, the one thing that compiler and runtime share: packs, token shards, media shards,
manifest."""
