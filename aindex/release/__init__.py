"""Release a folder of pictures activated: the same tree, records of what is done, a manifest."""
