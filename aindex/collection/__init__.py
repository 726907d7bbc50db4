"""For people with pictures of their own: index them, release them activated, find their copies."""
