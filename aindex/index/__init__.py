"""All of FAISS, nowhere else: factory, targets, the reference index and its folder, shards, GPU, disk."""
