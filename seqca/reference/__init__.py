"""The plain eager mathematics of every operator: any dtype, nothing clever, one module per operator.

These are what every other backend is checked against, and the yardstick of every speed-up. Each module is named like
its operator and holds a function of that name.
"""
