"""Results: the nouns that cross from the search to reports and files."""
