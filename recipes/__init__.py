"""Recipes: one readable file for each network that the project trains."""
