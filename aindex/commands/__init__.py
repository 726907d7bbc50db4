"""The commands that need no Trainer: each is a typed function; the command line is made from its signature."""
