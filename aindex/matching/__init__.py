"""Find the originals of pictures: ranked matches, the threshold of a match, a page to look at."""
