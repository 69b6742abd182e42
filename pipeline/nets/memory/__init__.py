"""The parts of an external memory: where it is read and written, how its content changes and what it forgets.

``cycle`` has the six steps of each memory.
"""
