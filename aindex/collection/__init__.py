"""Index folders over pictures of one's own: made, opened, added to, adopted, exported."""
