"""PRISM's models, one file each; ``register.MODELS`` is their table."""
