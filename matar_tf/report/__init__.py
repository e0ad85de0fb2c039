"""Reports: search results as tables that people and programs read."""
