"""Lightning callbacks around activation: the run's folder, the index, released images, evaluation, report."""
