"""How rivals are tried and judged: the same pictures, the same copies, the same question."""
