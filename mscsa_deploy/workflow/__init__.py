"""One module per command: its stages in order, and whatever joins parts that do not know each other.

A workflow returns records and raises the errors of `errors`; it prints nothing, and imports nothing heavy
before it runs.
"""
