"""Programs; run as ``python tools/NAME.py``; most are the commands of ``matar``."""
