"""What came out of training runs, as self-contained HTML pages and as figures for papers; see docs/comparing.md."""
