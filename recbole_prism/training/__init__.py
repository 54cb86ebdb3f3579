"""How PRISM models train and are evaluated inside RecBole."""
