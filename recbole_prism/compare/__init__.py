"""Compare models over datasets, seeds and controls; see docs/comparing.md."""
