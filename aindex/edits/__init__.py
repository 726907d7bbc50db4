"""What happens to released images: named edits, random edits, and AugLy made to run on today's Pillow and numpy."""
