"""Parameter-efficient modules, injected by name pattern into any open_clip tower."""
