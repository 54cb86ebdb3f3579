"""PRISM's models: :mod:`.table` lists them, :mod:`.factory` makes those without a file of their own."""
