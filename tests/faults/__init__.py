"""The fault matrix: what can go wrong with what a user gives, and what aindex answers. One row, one test."""
