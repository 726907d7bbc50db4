"""The DISC21 layout, reading any picture robustly, and the data module."""
