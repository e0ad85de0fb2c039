"""Reading and writing: whole files, archives, JSON; nothing of it knows networks."""
