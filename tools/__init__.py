"""Programs; run as ``python tools/<name>.py`` or ``python -m tools.<name>``."""
