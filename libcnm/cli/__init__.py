"""``cnm``, the command line: a thin skin over :mod:`libcnm.api`, in the words of Docker's and the original's.

One module per noun. A command checks words, calls the API, prints; whatever it can do, a program can do without it.
Needs the extra ``cli`` (click and rich). Importing this package loads neither.
"""
