"""What every external memory is made of: where it is read and written, how content changes, and what it forgets.

``cycle`` has the six steps in which all of them work.
"""
