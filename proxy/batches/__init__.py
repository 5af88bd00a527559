"""Files and batches: many requests that are answered later, without open connections.

The engine knows no API: each API registers how the lines of its batches are decoded and how their rows are written.
"""
