"""How the demo's data were made; `make.py` runs it. Not needed to use the demo."""
