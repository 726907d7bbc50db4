"""Pure metrics, result tables, figures and the report."""
